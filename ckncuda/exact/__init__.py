"""Exact kernels of images: convolutional kernel networks without anchor points, and their tangent kernels."""

from ckncuda.exact.gram import gram
from ckncuda.exact.kernel import ExactKernel

__all__ = ["ExactKernel", "gram"]
