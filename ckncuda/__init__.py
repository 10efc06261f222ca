"""Convolutional kernel networks on images.

The public names are those of `ckncuda.public`, which is imported with the first of them that is asked for:
`ckn` is at work, and takes Ctrl-C, before all that they need is there.

>>> from ckncuda import CKN, Exponential, LayerSpec
>>> network = CKN([LayerSpec(filters=64, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))])
"""

import importlib
from typing import TYPE_CHECKING, Any

from ckncuda.version import __version__ as __version__

if TYPE_CHECKING:
    from ckncuda.public import *  # noqa: F403
else:  # type checkers would take any name for one that is there

    def __getattr__(name: str) -> Any:
        """Return a public name, or a module that the public names need, at its first use."""
        if name.startswith("__") and name != "__all__":  # which Python asks for while it imports this
            raise AttributeError(f"module 'ckncuda' has no attribute {name!r}")
        public = importlib.import_module("ckncuda.public")
        if name == "__all__" or name in public.__all__:
            value = globals()[name] = getattr(public, name)
            return value
        if name in globals():
            return globals()[name]
        raise AttributeError(f"module 'ckncuda' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(["__version__", *__getattr__("__all__")])
