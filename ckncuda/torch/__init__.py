"""Layers of convolutional kernel networks as modules of PyTorch: `CKNLayer`.

The only room that imports PyTorch; the extra ``torch`` brings it.  Importing this room without it raises
`ckncuda.errors.NotInstalled`.
"""

from ckncuda.errors import require

require("torch", purpose="ckncuda.torch needs PyTorch", extra="torch")

from ckncuda.torch.layer import CKNLayer  # noqa: E402  (what is missing is said first)

__all__ = ["CKNLayer"]
