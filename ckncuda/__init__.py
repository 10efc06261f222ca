"""Convolutional kernel networks on images.

>>> from ckncuda import CKN, Exponential, LayerSpec
>>> network = CKN([LayerSpec(filters=64, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))])
"""

from ckncuda.classifier import GramRidge, KernelRidge, NystromRidge, Ridge, Softmax, SquaredHinge
from ckncuda.errors import CknError
from ckncuda.exact import ExactKernel, gram
from ckncuda.images.sources import as_images
from ckncuda.images.symmetries import Symmetries
from ckncuda.layer import KernelLayer, Layer, LayerSpec, conventions
from ckncuda.layer.dot_product import (
    ArcCosine,
    DotProductKernel,
    Exponential,
    InversePolynomial,
    Linear,
    Polynomial,
    Series,
)
from ckncuda.model.fit import fit, fit_exact
from ckncuda.model.model import Model, load
from ckncuda.model.system import System
from ckncuda.network.encoder import Encoder, EncoderSpec
from ckncuda.network.network import CKN
from ckncuda.version import __version__ as __version__

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
    "KernelLayer",
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
    "System",
    "as_images",
    "conventions",
    "fit",
    "fit_exact",
    "gram",
    "load",
]
