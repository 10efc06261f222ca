"""The CUDA backend: the kernels of ``kernels/`` through CuPy, and everything about their launches.

Imported only once a GPU is asked for; importing it needs neither CuPy nor a GPU.
"""

from ckncuda.backend.cupy.availability import unavailability, why_unavailable
from ckncuda.backend.cupy.backend import CupyBackend
from ckncuda.backend.cupy.device import describe

__all__ = ["CupyBackend", "describe", "unavailability", "why_unavailable"]
