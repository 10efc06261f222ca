"""One layer: its mathematics, what describes it, and what it has learned; no machine."""

from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import KernelLayer, LayerSpec

__all__ = ["KernelLayer", "Layer", "LayerSpec"]
