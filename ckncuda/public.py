"""The public names, nothing else; `import ckncuda` offers them."""

from ckncuda.classifier import GramRidge, KernelRidge, NystromRidge, Ridge, Softmax, SquaredHinge
from ckncuda.errors import CknError
from ckncuda.exact import ExactKernel, gram
from ckncuda.exact.encoder import ExactEncoderSpec
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
from ckncuda.model.chen import import_chen
from ckncuda.model.fit import fit, fit_exact
from ckncuda.model.model import Model, load
from ckncuda.model.presets import PRESETS
from ckncuda.model.system import System
from ckncuda.network.encoder import Encoder, EncoderSpec
from ckncuda.network.network import CKN

__all__ = [
    "CKN",
    "PRESETS",
    "ArcCosine",
    "CknError",
    "DotProductKernel",
    "Encoder",
    "EncoderSpec",
    "ExactEncoderSpec",
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
    "import_chen",
    "load",
]
