"""A layer: its mathematics, its description, and what it has learned; no machine."""

from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import KernelLayer, LayerSpec

__all__ = ["KernelLayer", "Layer", "LayerSpec"]
