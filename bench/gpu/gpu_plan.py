"""What gpu_measure.py measures: networks with their images, sizes, and how long it may take."""

import math
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda import CKN, Exponential, LayerSpec
from ckncuda.backend import Backend

sys.path.append(str(Path(__file__).parents[1]))

from extract import anchors_of  # what the measurements of a CPU take

CHECKED = 8  # images whose features are compared with the reference


@dataclass(frozen=True)
class Network:
    """A network to measure: exp with sigma 0.6 and patches of 3x3, on images [side, side, 3]."""

    name: str
    side: int
    layers: tuple[tuple[int, int], ...]  # filters, subsampling
    sizes: tuple[int, ...]  # images
    batches: tuple[int, ...]  # that PyTorch tries
    layer_images: int  # for each layer alone
    host_images: int  # for the way from host memory and back
    least_ratio: float | None


@dataclass(frozen=True)
class ExactNetwork:
    """An exact kernel to measure: patches of 3x3, Gaussian pooling, images [side, side, 3]."""

    name: str
    kernel: str  # exp or relu
    subsamplings: tuple[int, ...]
    tangent: bool = False
    side: int = 32


@dataclass(frozen=True)
class Plan:
    """All sizes of a run."""

    networks: tuple[Network, ...]
    exact_networks: tuple[ExactNetwork, ...]
    exact_images: int  # on either side of a matrix
    patches: int
    patch_sizes: tuple[int, ...]
    anchors: tuple[int, ...]
    matrix: int  # side of the square product
    copied: int  # bytes


FULL = Plan(
    (
        Network("S: 64/64/128 filters, subsampling 2/2/2, 32x32 images", 32, ((64, 2), (64, 2), (128, 2)),
                (1_024, 8_192, 60_000), (256, 1_024, 4_096), 16_384, 60_000, 5.0),
        Network("L: 256/1024 filters, subsampling 2/6, 32x32 images", 32, ((256, 2), (1024, 6)),
                (1_024, 8_192, 60_000), (256, 1_024, 4_096), 4_096, 16_384, 5.0),
        Network("64/128 filters, subsampling 4/4, 224x224 images", 224, ((64, 4), (128, 4)),
                (256,), (32, 128, 256), 256, 256, None),
    ),
    (
        ExactNetwork("exp, subsampling 2/5", "exp", (2, 5)),
        ExactNetwork("exp, subsampling 2/2/2", "exp", (2, 2, 2)),
        ExactNetwork("ReLU, subsampling 2/5", "relu", (2, 5)),
        ExactNetwork("ReLU, neural tangent kernel, subsampling 2/5", "relu", (2, 5), tangent=True),
    ),
    exact_images=128, patches=1_000_000, patch_sizes=(27, 576),
    anchors=(256, 1_024), matrix=8_192, copied=1 << 31,
)  # fmt: skip
TINY = Plan(
    (
        Network("S, tiny", 12, ((8, 2), (8, 2), (16, 2)), (2, 6), (1, 2, 4), 2, 3, 5.0),
        Network("L, tiny", 12, ((16, 2), (32, 6)), (2,), (1, 2), 2, 2, 5.0),
        Network("large images, tiny", 20, ((8, 4), (16, 4)), (2,), (1, 2), 2, 2, None),
    ),
    (
        ExactNetwork("exp, tiny", "exp", (2, 2), side=12),
        ExactNetwork("exp, three layers, tiny", "exp", (2, 2, 1), side=20),
        ExactNetwork("ReLU, tiny", "relu", (2, 2), side=12),
        ExactNetwork("neural tangent kernel, tiny", "relu", (2, 2), tangent=True, side=12),
    ),
    exact_images=3, patches=300, patch_sizes=(27, 36), anchors=(8, 70), matrix=64, copied=1 << 16,
)  # fmt: skip


class OutOfTime(Exception):
    """A measurement no longer fits the time."""


class Budget:
    """The seconds of the whole run, of which the first measurements may take a share."""

    def __init__(self, seconds: float) -> None:
        self.start, self.seconds, self.share = time.perf_counter(), seconds, 1.0

    def taken(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.start

    def left(self) -> float:
        """Seconds that are left of the share."""
        return self.share * self.seconds - self.taken()

    def check(self) -> None:
        """Raise `OutOfTime` where nothing is left."""
        if self.left() <= 0:
            raise OutOfTime(f"skipped: no time left of {self.share * self.seconds:.0f} s")


class Subject:
    """A network on random anchors and random images, on the host and, once asked for, on the device."""

    def __init__(self, network: Network) -> None:
        self.network, self.shape = network, (network.side, network.side, 3)
        specs = [
            LayerSpec(filters=p, patch=3, subsampling=s, kernel=Exponential(sigma=0.6))
            for p, s in network.layers
        ]
        self.ckn = CKN.from_anchors(specs, anchors_of(network.layers))
        self.release()

    def release(self) -> None:
        """Keep nothing on the device."""
        self._ours: Any = None
        self._theirs: Any = None

    @cached_property
    def images(self) -> NDArray[np.float32]:
        """As many as any measurement takes."""
        n = max(*self.network.sizes, self.network.layer_images, self.network.host_images, CHECKED)
        return np.random.default_rng(1).standard_normal((n, *self.shape), dtype=np.float32)

    @cached_property
    def reference(self) -> NDArray[np.float64]:
        """Features of the first images in float64, by the definition."""
        return self.ckn.transform(self.images[:CHECKED], backend="reference")

    def ours(self, backend: Backend) -> Any:
        """The images on the device, CuPy's."""
        if self._ours is None:
            self._ours = backend.asarray(self.images)
        return self._ours

    def theirs(self, device: str) -> Any:
        """The images on the device, PyTorch's."""
        if self._theirs is None:
            import gpu_torch

            self._theirs = gpu_torch.device_images(self.images, device)
        return self._theirs

    @cached_property
    def costs(self) -> list[tuple[int, int, int]]:
        """Of each layer: FLOP an image, bytes an image, bytes of anchors."""
        shape, found = self.shape, []
        for layer in self.ckn.layers:
            (height, width, p), out = layer.spec.map_shape(shape), layer.spec.output_shape(shape)
            products = height * width * layer.anchors.size
            flop = 2 * (products + out[0] * out[1] * p * p)
            found.append((flop, 4 * (math.prod(shape) + math.prod(out)), 4 * layer.anchors.size))
            shape = out
        return found

    @property
    def flop(self) -> int:
        """Of an image, through all layers."""
        return sum(flop for flop, _, _ in self.costs)
