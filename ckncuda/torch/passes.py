"""A layer's way forward and back as a function of PyTorch's automatic differentiation."""

import contextlib
from typing import Any

import numpy as np
import torch

from ckncuda.backend import Backend
from ckncuda.errors import InvalidSpec
from ckncuda.layer.layer import Layer
from ckncuda.types import Array

Tensor = Any
"""A tensor: type checkers read this room the same way whether PyTorch is installed or not."""


class Encode(torch.autograd.Function):  # type: ignore[misc]  # of no type where PyTorch is missing
    """Encode maps [n, h, w, c] through a layer; the gradient by its anchor points is unconstrained.

    ``layer`` holds a copy of ``anchors``, which are given so that a gradient by them is asked for.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, anchors: Tensor, layer: Layer, backend: Backend) -> Tensor:
        """Compute maps [n, h', w', filters]."""
        ctx.save_for_backward(maps)
        ctx.layer, ctx.backend, ctx.anchors_like = layer, backend, anchors.detach()
        with _on_device_of(maps):
            return _as_tensor(backend.encode(_as_array(maps, backend), [layer]))

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Compute the gradients that are asked for by maps, and by anchors."""
        (maps,) = ctx.saved_tensors
        by_maps, by_anchors, _, _ = ctx.needs_input_grad
        backend: Backend = ctx.backend
        with _on_device_of(maps):
            arrays = [_as_array(tensor, backend) for tensor in (maps, upstream)]
            found, (of_layer,) = backend.encode_backward(arrays[0], [ctx.layer], arrays[1], by_maps=by_maps)
            gradient = None if found is None else _once(_as_tensor(found))  # None: nobody asked for it
        if not by_anchors:
            return gradient, None, None, None
        return gradient, _once(_as_tensor(of_layer).to(ctx.anchors_like)), None, None


class _Once(torch.autograd.Function):  # type: ignore[misc]
    """Pass a gradient on, and raise where it is to be differentiated in its turn."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, mark: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> None:
        raise InvalidSpec(
            "the gradient of a CKNLayer was differentiated, as gradient penalties do; expected first "
            "derivatives alone: detach the gradient, or leave create_graph out"
        )


def _once(gradient: Tensor) -> Tensor:
    """Return a gradient of which nobody takes a derivative in silence: zero would be wrong.

    PyTorch's own ``once_differentiable`` is silent where the gradient that came from above is a constant.
    """
    if not torch.is_grad_enabled():  # without create_graph
        return gradient
    return _Once.apply(gradient, torch.zeros((), requires_grad=True))


def _as_array(tensor: Tensor, backend: Backend) -> Array:
    """Return a tensor as an array of the backend, in the same memory."""
    tensor = tensor.detach()
    array: Array = tensor.numpy() if tensor.device.type == "cpu" else backend.asarray(tensor)
    return array


def _as_tensor(array: Array) -> Tensor:
    """Return an array of a backend as a tensor, in the same memory."""
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else torch.from_dlpack(array)


def _on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Make the device of a tensor CUDA's current one, which CuPy computes on."""
    if tensor.device.type == "cpu":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[Any] = torch.cuda.device(tensor.device)
    return context
