"""Convolutional kernel networks on images.

>>> from ckncuda import CKN, Exponential, LayerSpec
>>> network = CKN([LayerSpec(filters=64, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))])
"""

from ckncuda import conventions
from ckncuda.classifier import GramRidge, KernelRidge, NystromRidge, Ridge, Softmax, SquaredHinge
from ckncuda.dot_product import (
    ArcCosine,
    DotProductKernel,
    Exponential,
    InversePolynomial,
    Linear,
    Polynomial,
    Series,
)
from ckncuda.encoder import Encoder, EncoderSpec
from ckncuda.errors import CknError
from ckncuda.exact import ExactKernel, gram
from ckncuda.exact.fit import fit_exact
from ckncuda.layer import Layer, LayerSpec
from ckncuda.model import Model
from ckncuda.model_file import load
from ckncuda.network import CKN
from ckncuda.symmetries import Symmetries

__version__ = "0.1.0"
__all__ = [
    "CKN",
    "ArcCosine",
    "CknError",
    "DotProductKernel",
    "Encoder",
    "EncoderSpec",
    "ExactKernel",
    "Exponential",
    "GramRidge",
    "InversePolynomial",
    "KernelRidge",
    "Layer",
    "LayerSpec",
    "Linear",
    "Model",
    "NystromRidge",
    "Polynomial",
    "Ridge",
    "Series",
    "Softmax",
    "SquaredHinge",
    "Symmetries",
    "conventions",
    "fit_exact",
    "gram",
    "load",
]
