"""End-to-end training: anchor points learn from labels, with a linear classifier on top.

>>> from ckncuda.supervised import Training
>>> Training(epochs=12).highest_rate
0.003
"""

from ckncuda.supervised.train import Trained, train
from ckncuda.supervised.training import Training

__all__ = ["Trained", "Training", "train"]
