"""Named conventions of other CKN programs, as keyword arguments for `LayerSpec`.

`CHEN` is what Dexiong Chen's PyTorch program computes, `MAIRAL` what Julien Mairal's original
program computes; with them a network learned elsewhere gives the same features here.

Examples
--------
>>> from ckncuda import Exponential, LayerSpec
>>> spec = LayerSpec(filters=64, patch=3, subsampling=2, kernel=Exponential(sigma=0.6), **CHEN)
>>> spec.whitening, spec.scale
('root', 'floored_norm')
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

CHEN: Mapping[str, Any] = MappingProxyType(
    {
        "pooling": "gaussian",
        "alignment": "corner",
        "whitening": "root",
        "epsilon": 1e-2,
        "norm_floor": 1e-3,  # he floors the squared norm at 1e-6
        "scale": "floored_norm",
        "even_padding": "both",
    }
)

MAIRAL: Mapping[str, Any] = MappingProxyType(
    {
        "pooling": "gaussian",
        "alignment": "centered",
        "whitening": "ridge",
        "epsilon": 1e-3,
        "norm_floor": 1e-5,
        "scale": "norm",
    }
)
