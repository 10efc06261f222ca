"""A layer of a convolutional kernel network as a module of PyTorch: `CKNLayer`."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ckncuda.backend import Backend, KeptBackends
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.given.parameters import flag, shown, whole
from ckncuda.images.sources import as_images
from ckncuda.layer.dot_product import Exponential
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import LayerSpec, check_differentiable
from ckncuda.network.anchors import MAX_ITERATIONS
from ckncuda.network.network import CKN, PATCHES
from ckncuda.torch.passes import Encode, Tensor

FAR = 1e-3  # norms that a layer refuses
BACKENDS = {("cpu", "float32"): "numpy", ("cpu", "float64"): "reference", ("cuda", "float32"): "cupy"}


class CKNLayer(torch.nn.Module):  # type: ignore[misc]  # of no type where PyTorch is missing
    """A layer of a convolutional kernel network, to be trained with others of PyTorch.

    It computes what `ckncuda.CKN` does: float32 through the backend ``numpy``, of tensors on a GPU through
    ``cupy``, float64 through ``reference``, which is slow, and exact enough for ``torch.autograd.gradcheck``.
    Tensors are passed on without copies.

    Anchor points are points of the unit sphere.  Their gradient is that of unconstrained ones, so that a step
    of an optimizer leaves the sphere: call `normalize_` after each.

    Parameters
    ----------
    layer : LayerSpec or Layer
        A specification, whose anchor points are drawn at random from the sphere, or a layer that has learned.
        κ has all its parameters, and outputs are not decorrelated, which is learned from images.
    channels : int, optional
        Channels c of the maps, of a specification.
    channels_first : bool
        Maps are [n, c, h, w], and the output [n, filters, h', w'], as PyTorch's own layers take them.  By
        default channels come last.
    backend : Backend or str
        What computes, such as ``get_backend("numpy", threads=1)``; by default as the tensors suggest.
    dtype, device
        Of the anchor points, as PyTorch's own layers take them: by default float32 on a CPU, as a rule.

    Attributes
    ----------
    spec : LayerSpec
    channels : int
    channels_first : bool
    anchors : torch.nn.Parameter [filters, height, width, channels]

    Examples
    --------
    >>> spec = LayerSpec(filters=8, patch=3, subsampling=4, kernel=Exponential(sigma=0.6))
    >>> network = torch.nn.Sequential(CKNLayer(spec, 3), torch.nn.Flatten(), torch.nn.Linear(32, 10))
    >>> network(torch.rand(5, 8, 8, 3)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        layer: LayerSpec | Layer,
        channels: int | None = None,
        *,
        channels_first: bool = False,
        backend: Backend | str = "auto",
        dtype: Any = None,
        device: Any = None,
    ) -> None:
        super().__init__()
        if not isinstance(layer, LayerSpec | Layer):
            expected = (
                "LayerSpec(filters=64, patch=3, subsampling=2, kernel=Exponential(sigma=0.6)), or a Layer"
            )
            raise InvalidSpec(f"layer is {shown(layer)}; expected a specification such as {expected}")
        self.spec = layer if isinstance(layer, LayerSpec) else layer.spec
        _check(self.spec)
        learned = None if isinstance(layer, LayerSpec) else layer.anchors
        self.channels = _channels(channels, learned)
        self.channels_first = flag("channels_first", channels_first)
        self._backend, self._kept, self._last = backend, KeptBackends(), _LastLayer()
        if backend != "auto":
            self._kept.of(backend)  # raises if there is none
        if learned is not None:
            dtype = torch.get_default_dtype() if dtype is None else dtype
            anchors = torch.tensor(learned, dtype=dtype, device=device)
        else:
            shape = self.spec.filters, *self.spec.patch_shape, self.channels
            anchors = torch.randn(shape, dtype=dtype, device=device)
        self.anchors = torch.nn.Parameter(anchors)
        if learned is None:
            self.normalize_()

    def forward(self, maps: Tensor) -> Tensor:
        """Compute maps [n, h', w', filters] of maps [n, h, w, c].

        Raises
        ------
        InvalidData
            Maps are no such tensor, or of another type or device than the anchor points.
        InvalidSpec
            The layer does not fit the maps; a gradient is asked for and κ has no bounded derivative; or
            anchor points have left the sphere.
        """
        return (_uncompiled() if torch.compiler.is_compiling() else CKNLayer._encoded)(self, maps)

    def _encoded(self, maps: Tensor) -> Tensor:
        maps = self._channels_last(maps)
        if torch.is_grad_enabled() and (maps.requires_grad or self.anchors.requires_grad):
            check_differentiable([self.spec])
        self.spec.output_shape(tuple(maps.shape[1:]))
        backend = self._backend_of(maps)
        layer = self._last.of(self.spec, self._host_anchors())
        encoded = Encode.apply(maps, self.anchors, layer, backend)
        return encoded.permute(0, 3, 1, 2) if self.channels_first else encoded

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def normalize_(self) -> Self:
        """Divide each anchor point by its norm, which brings it back to the sphere, and return this layer.

        Raises `InvalidSpec` where a norm is zero, or not finite: the training has diverged.
        """
        norms = torch.linalg.vector_norm(self.anchors, dim=(1, 2, 3), keepdim=True)
        if not bool((norms.isfinite() & (norms > 0)).all()):
            raise _diverged()
        self.anchors.div_(norms)
        return self

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def fit_anchors(
        self,
        maps: Tensor,
        *,
        patches: int = PATCHES,
        max_iterations: int = MAX_ITERATIONS,
        seed: int = 0,
    ) -> Self:
        """Learn the anchor points from maps, without labels, as `ckncuda.CKN.fit` does; return this layer.

        Parameters
        ----------
        maps : [n, h, w, c]
            As `forward` takes them: of the second layer they are the output of the first.
        patches, max_iterations, seed
            See `ckncuda.CKN.fit`.
        """
        maps = self._channels_last(maps)
        images = as_images(maps.detach(), "NHWC")
        options = {"patches": patches, "max_iterations": max_iterations, "seed": seed}
        network = CKN([self.spec]).fit(images, backend=self._backend_of(maps), **options)  # type: ignore[arg-type]
        self.anchors.copy_(torch.as_tensor(network.layers[0].anchors))
        return self

    def to_layer(self) -> Layer:
        """Return the layer as it is now, for `ckncuda.CKN.from_layers`; later steps do not change it."""
        return Layer.from_anchors(self.spec, self._host_anchors().copy())

    def extra_repr(self) -> str:
        """Return what stands between the parentheses of the layer's text."""
        return f"{self.spec!r}, {self.channels}" + (", channels_first=True" if self.channels_first else "")

    def _channels_last(self, maps: Tensor) -> Tensor:
        """Return checked maps as a view [n, h, w, c]."""
        if not isinstance(maps, torch.Tensor):
            raise InvalidData(
                f"maps are {shown(maps)}; expected a tensor, such as torch.as_tensor(maps) gives"
            )
        axes = "[n, c, h, w]" if self.channels_first else "[n, h, w, c]"
        axis = 1 if self.channels_first else 3
        if maps.ndim != 4 or maps.shape[axis] != self.channels:
            other = "channels_first=True" if not self.channels_first else "channels_first=False"
            raise InvalidData(
                f"maps are of shape {list(maps.shape)}; expected {axes} with c = {self.channels}: make the "
                f"layer with {other} if they are the other way round"
            )
        if maps.dtype != self.anchors.dtype or maps.device != self.anchors.device:
            raise InvalidData(
                f"maps are {maps.dtype} on {maps.device}, anchors {self.anchors.dtype} on "
                f"{self.anchors.device}; expected the same: give maps.to(layer.anchors)"
            )
        return maps.permute(0, 2, 3, 1) if self.channels_first else maps

    def _backend_of(self, maps: Tensor) -> Backend:
        """Return what computes with such tensors: what was given, or what their type and device suggest."""
        device, dtype = maps.device.type, str(maps.dtype).removeprefix("torch.")
        suggested = BACKENDS.get((device, dtype))
        if suggested is None:
            raise InvalidData(
                f"maps are {maps.dtype} on {maps.device}; expected float32, or on a CPU float64: give "
                "layer.float() and maps.float()"
            )
        backend = self._kept.of(suggested if self._backend == "auto" else self._backend)
        if np.dtype(backend.dtype).name != dtype or (backend.name == "cupy") != (device == "cuda"):
            raise InvalidData(
                f"maps are {maps.dtype} on {maps.device}, which the backend {backend.name} does not take; "
                f"leave backend out, or give {suggested}"
            )
        return backend

    def _host_anchors(self) -> NDArray[Any]:
        """Return the anchor points in host memory; raise `InvalidSpec` where they have left the sphere."""
        held = self.anchors.detach().cpu()
        known = held.dtype in (torch.float32, torch.float64)  # by NumPy, and by layers
        anchors: NDArray[Any] = (held if known else held.float()).numpy()
        norms = np.linalg.norm(anchors.reshape(len(anchors), -1), axis=1)
        if not np.isfinite(norms).all():
            raise _diverged()
        if np.abs(norms - 1).max() >= FAR:
            raise InvalidSpec(
                f"norms of anchors go from {norms.min():.4g} to {norms.max():.4g}; expected 1: call the "
                "layer's normalize_() after each step of the optimizer"
            )
        return anchors


_OUTSIDE: list[Callable[[CKNLayer, Tensor], Tensor]] = []


def _uncompiled() -> Callable[[CKNLayer, Tensor], Tensor]:
    """Return what computes the layer where ``torch.compile`` asks: one break of its graph, nothing traced.

    Made on demand: what compiles takes as long to import as all the rest of PyTorch.
    """
    if not _OUTSIDE:
        _OUTSIDE.append(torch.compiler.disable(CKNLayer._encoded))
    return _OUTSIDE[0]


class _LastLayer:
    """The layer of the anchor points that were last seen: its projection is a matter of eigenvectors."""

    def __init__(self) -> None:
        self._layer: Layer | None = None

    def of(self, spec: LayerSpec, anchors: NDArray[Any]) -> Layer:
        """Return a layer with a copy of these anchor points, the last one if they have not changed."""
        last = self._layer
        if last is None or last.anchors.dtype != anchors.dtype or not np.array_equal(last.anchors, anchors):
            last = self._layer = Layer.from_anchors(spec, anchors.copy(), keep_spectrum=True)
        return last

    def __reduce__(self) -> tuple[type["_LastLayer"], tuple[()]]:
        return _LastLayer, ()


def _check(spec: LayerSpec) -> None:
    """Raise `InvalidSpec` where something is to be learned that a module does not learn."""
    if isinstance(spec.kernel, Exponential) and spec.kernel.sigma is None:
        raise InvalidSpec(
            "sigma is to be chosen from images; expected a kernel with all its parameters: give sigma, or "
            "fit a ckncuda.CKN, and give CKNLayer its layer, network.layers[0]"
        )
    if spec.decorrelation:
        raise InvalidSpec(
            f"decorrelation is {spec.decorrelation}, but its matrix is learned from images; expected 0: "
            "train without it, and fit a decorrelated layer on top afterwards"
        )


def _channels(channels: int | None, anchors: NDArray[Any] | None) -> int:
    """Return the channels of the maps: as given, of a layer that has learned its own."""
    if anchors is None:
        return whole("channels", channels, 1, "give the number of channels of the maps, such as 3")
    if channels not in (None, anchors.shape[3]):
        raise InvalidSpec(
            f"channels is {shown(channels)}; the layer has learned on {anchors.shape[3]}: leave it out"
        )
    return int(anchors.shape[3])


def _diverged() -> InvalidSpec:
    return InvalidSpec(
        "anchors hold NaN, infinity or a point of norm 0; expected points of norm 1: the training has "
        "diverged, take a smaller learning rate"
    )
