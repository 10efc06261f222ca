"""A convolutional kernel network: a stack of layers, each learned on the output of those below it."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend, KeptBackends
from ckncuda.backend.arrays import to_host
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.files import model_file
from ckncuda.given.parameters import file_name, image_shape, several, shown, whole
from ckncuda.images.sources import DeviceImages, Images, ImagesOrArray, as_images
from ckncuda.images.symmetries import Symmetries
from ckncuda.layer.dot_product import Exponential
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import LayerSpec, check_specs
from ckncuda.network.anchors import MAX_ITERATIONS, normalized, patches_at, spherical_kmeans
from ckncuda.progress import Progress, Report
from ckncuda.types import Array, Shape, StrPath

PATCHES = 300_000  # sampled for each layer
PART_BYTES = 8 << 20  # of patches that are copied at a time
OUTPUTS_PER_FILTER = 20  # at which the covariance of a layer's outputs is measured


class CKN:
    """A convolutional kernel network.

    Parameters
    ----------
    specs : sequence of LayerSpec
        The layers, from the image upwards.

    Attributes
    ----------
    specs : tuple of LayerSpec
    layers_ : tuple of Layer
        What was learned, after `fit` or `from_anchors`.

    References
    ----------
    Mairal, *End-to-end kernel learning with supervised convolutional kernel networks*, 2016.

    Examples
    --------
    >>> from ckncuda import Exponential, LayerSpec
    >>> images = np.random.default_rng(0).normal(size=(10, 16, 16, 3)).astype(np.float32)
    >>> network = CKN([LayerSpec(filters=8, patch=3, subsampling=4, kernel=Exponential(sigma=0.6))])
    >>> network.fit(images, patches=1000, seed=0).transform(images).shape
    (10, 4, 4, 8)
    """

    layers_: tuple[Layer, ...]

    def __init__(self, specs: Sequence[LayerSpec]) -> None:
        expected = "expected a list of layers such as LayerSpec(filters=64, patch=3, subsampling=2, kernel=…)"
        self.specs = several("layers", specs, LayerSpec, expected)
        if not self.specs:
            raise InvalidSpec("a network needs at least one layer")
        self._backends = KeptBackends()

    @classmethod
    def from_anchors(cls, specs: Sequence[LayerSpec], anchors: Sequence[Array]) -> "CKN":
        """Build a network on anchor points learned elsewhere.

        Parameters
        ----------
        specs : sequence of LayerSpec
            Their kernels have all their parameters.
        anchors : sequence of arrays [filters, patch, patch, channels]
            One array a layer, float32 or float64, each anchor point of norm 1.

        Raises
        ------
        InvalidSpec
            The anchors do not fit the specifications or one another.
        """
        specs = cls(specs).specs
        if not isinstance(anchors, list | tuple):
            raise InvalidSpec(
                f"anchors is {shown(anchors)}; expected a list of arrays, one a layer, such as [Z]"
            )
        if len(anchors) != len(specs):
            raise InvalidSpec(f"there are {len(specs)} layers but {len(anchors)} arrays of anchors")
        layers: list[Layer] = []
        for spec, array in zip(specs, anchors, strict=True):
            try:
                layers.append(Layer.from_anchors(spec, array))
            except InvalidSpec as error:
                raise InvalidSpec(f"layer {len(layers) + 1}: {error}") from error
        return cls.from_layers(layers)

    @classmethod
    def from_layers(cls, layers: Sequence[Layer]) -> "CKN":
        """Stack layers that have learned already; raise `InvalidSpec` where channels do not fit."""
        layers = several("layers", layers, Layer, "expected layers that have learned, such as network.layers")
        for number, (below, layer) in enumerate(itertools.pairwise(layers), 2):
            if layer.anchors.shape[3] != below.spec.filters:
                raise InvalidSpec(
                    f"layer {number}: anchors have {layer.anchors.shape[3]} channels, "
                    f"the layer below has {below.spec.filters} filters"
                )
        network = cls([layer.spec for layer in layers])
        network.layers_ = layers
        return network

    def fit(
        self,
        images: ImagesOrArray,
        *,
        patches: int = PATCHES,
        max_iterations: int = MAX_ITERATIONS,
        learned: Sequence[Layer] = (),
        seed: int = 0,
        backend: Backend | str = "auto",
        progress: Progress | None = None,
    ) -> Self:
        """Learn the anchor points, layer by layer, without labels, and return this network.

        Parameters
        ----------
        images : [n, h, w, c] or `Images`
            Read once for each layer, in blocks.
        patches : int
            Patches to sample for each layer, uniformly over images and positions; fewer where there
            are fewer, or where they would take more than half of the backend's ``memory``.
        max_iterations : int
            Of k-means, at most.
        learned : sequence of Layer
            The lowest layers, with anchor points that came about otherwise, of their specifications here but
            for parameters of kernels that data choose.  What decorrelates their outputs is measured anew.
        seed : int
            The same seed, images and machine give the same anchors, bit for bit.
        backend : Backend or str
        progress : callable, optional
            Called as ``progress(stage, done, total)``.

        Raises
        ------
        InvalidSpec
            A layer does not fit the images, or there are fewer patches than filters.
        InvalidData
            The images are not finite or not of the right form.
        """
        images, max_iterations = as_images(images), whole("max_iterations", max_iterations, 1)
        patches, seed = whole("patches", patches, 1), whole("seed", seed, 0)
        check_specs(self.specs, images.shape[1:])
        learned = self._checked(learned, images.shape[3])
        backend, told = self._backends.of(backend), Report.of(progress)
        layers: list[Layer] = []
        for number, spec in enumerate(self.specs, 1):
            rng, report = np.random.default_rng([seed, number]), told.labelled(f"layer {number}")
            if number <= len(learned):
                kernel, anchors = learned[number - 1].spec.kernel, learned[number - 1].anchors
            else:
                sample = normalized(_sample(layers, spec, images, patches, backend, rng, report))
                kernel = spec.kernel.resolved(sample, rng)
                anchors = _centres(sample, spec, backend, rng, max_iterations, report)
                del sample  # while the projection is made, it need not be there
            layer = Layer.from_anchors(dataclasses.replace(spec, kernel=kernel, decorrelation=0.0), anchors)
            if spec.decorrelation:
                outputs = _outputs([*layers, layer], images, backend, rng, report)
                layer = layer.decorrelated(spec.decorrelation, outputs)
            layers.append(layer)
        self.layers_ = tuple(layers)
        return self

    def _checked(self, learned: Sequence[Layer], channels: int) -> tuple[Layer, ...]:
        """Return the lowest layers, which have learned; raise `InvalidSpec` if they are of another."""
        learned = several("learned", learned, Layer, "expected layers that have learned: network.layers[:1]")
        if len(learned) > len(self.specs):
            raise InvalidSpec(f"{len(learned)} layers have learned, of a network of {len(self.specs)}")
        for number, (spec, layer) in enumerate(zip(self.specs, learned, strict=False), 1):
            kernel, power = layer.spec.kernel, layer.spec.decorrelation
            alike = dataclasses.replace(spec, kernel=kernel, decorrelation=power)
            chosen = isinstance(spec.kernel, Exponential) and spec.kernel.sigma is None
            alike_kernel = isinstance(kernel, Exponential) if chosen else kernel == spec.kernel
            if layer.spec != alike or not alike_kernel:
                raise InvalidSpec(f"layer {number} has learned as {layer.spec}; this network's is {spec}")
            if layer.anchors.shape[3] != channels:
                raise InvalidSpec(
                    f"layer {number}: anchors have {layer.anchors.shape[3]} channels, what they are compared "
                    f"with has {channels}"
                )
            channels = spec.filters
        return learned

    def transform(
        self, images: ImagesOrArray, *, backend: Backend | str = "auto", progress: Progress | None = None
    ) -> Array:
        """Compute the feature maps of images.

        Parameters
        ----------
        images : [n, h, w, c] or `Images`
            Their channels are those that the network was learned on.
        backend : Backend or str
        progress : callable, optional
            Called as ``progress("features", done, total)``.

        Returns
        -------
        [n, h', w', filters]
            float32, or float64 from the backend ``reference``.  `transform_blocks` gives the same
            without holding all of it in memory.  Of images on a GPU, an array there, of the same library.
        """
        images, report = as_images(images), Report.of(progress)
        backend = self._backends.of(backend)
        shape = (images.shape[0], *self.output_shape(images.shape[1:]))
        if isinstance(images, DeviceImages):
            return self._transform_on_device(images, shape, backend, report)
        out = np.empty(shape, backend.dtype)
        for start, block in self._encode_blocks(images, backend, out):
            report("features", start + len(block), len(out))
        return out

    def _transform_on_device(
        self, images: DeviceImages, shape: tuple[int, ...], backend: Backend, report: Report
    ) -> Array:
        features = np.empty_like(backend.asarray(images.read(0, 0)), shape=shape)
        size = backend.images_per_block(self.layers, images.shape[1:])
        done = 0
        for block in images.blocks(size):
            maps = backend.asarray(block)
            start, done = done, done + len(maps)
            if not bool(np.isfinite(maps).all()):
                raise InvalidData(f"images {start} to {done - 1} hold NaN or infinite values")
            features[start:done] = backend.encode(maps, self.layers)
            report("features", done, len(features))
        result: Array = images.returned(features)
        return result

    def transform_blocks(
        self, images: ImagesOrArray, *, backend: Backend | str = "auto"
    ) -> Iterator[tuple[int, Array]]:
        """Yield feature maps of block after block: (number of the first image, maps [b, h', w', filters])."""
        images = as_images(images)
        backend = self._backends.of(backend)
        self.output_shape(images.shape[1:])
        yield from self._encode_blocks(images, backend)

    def _encode_blocks(
        self, images: Images, backend: Backend, out: Array | None = None
    ) -> Iterator[tuple[int, Array]]:
        def encode(block: Array) -> Array:
            return backend.encode(block, self.layers)

        size, start = backend.images_per_block(self.layers, images.shape[1:]), 0
        for block in backend.map_blocks(encode, images.blocks(size), out):
            check_features(block, start, images)
            yield start, block
            start += len(block)
            del block  # while the next one is made, this one need not be there

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers as they were learned; raises `InvalidSpec` before `fit`."""
        if not hasattr(self, "layers_"):
            raise InvalidSpec("this network has learned nothing yet: call fit first, or use CKN.from_anchors")
        return self.layers_

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape (height, width, filters) of the features of an image (height, width, channels)."""
        shape = image_shape("shape", shape)
        if hasattr(self, "layers_") and shape[2] != self.layers_[0].anchors.shape[3]:
            raise InvalidData(
                f"images have {shape[2]} channels; the network was learned on images with "
                f"{self.layers_[0].anchors.shape[3]}"
            )
        return check_specs(self.specs, shape)[-1]

    @property
    def n_parameters(self) -> int:
        """Number of numbers that the network has learned: those of its anchor points."""
        return sum(layer.n_parameters for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: the layers."""
        return {"layers": [layer.to_dict() for layer in self.layers]}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what was learned, by name."""
        return {
            f"layers.{number}.{name}": array
            for number, layer in enumerate(self.layers)
            for name, array in layer.arrays().items()
        }

    @classmethod
    def from_dict(cls, options: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "CKN":
        """Rebuild a network from what `to_dict` and `arrays` gave; see `Layer.from_dict` for errors."""
        return cls.from_layers(
            [
                Layer.from_dict(layer, model_file.group(arrays, f"layers.{number}."))
                for number, layer in enumerate(options["layers"])
            ]
        )

    def save(self, path: StrPath) -> None:
        """Write the network to a model file; `ckncuda.load` reads it."""
        beside = {"preprocessing": [], "symmetries": Symmetries().to_dict()}
        encoder = model_file.StoredPart({"kind": "network"} | self.to_dict() | beside, self.arrays())
        model_file.save(model_file.Contents([encoder]), file_name(path, '"network.ckn"'))

    @classmethod
    def load(cls, path: StrPath) -> "CKN":
        """Read the network of a model file; what is beside it is left aside."""

        def build(contents: model_file.Contents) -> tuple[list[str], CKN | None]:
            kinds = [encoder.to_dict()["kind"] for encoder in contents.encoders]
            if unknown := set(kinds) - {"network", "exact"}:
                raise ValueError(f"there is no encoder of the kind {unknown.pop()!r}")
            first = contents.encoders[0]
            return kinds, cls.from_dict(first.to_dict(), first.arrays()) if kinds == ["network"] else None

        kinds, network = model_file.load(file_name(path, '"network.ckn"'), build)
        check_one_network(kinds)
        assert network is not None
        return network

    def __repr__(self) -> str:
        return f"CKN([{', '.join(map(repr, self.specs))}])"


def _centres(
    sample: Array,
    spec: LayerSpec,
    backend: Backend,
    rng: np.random.Generator,
    max_iterations: int,
    report: Report,
) -> NDArray[Any]:
    """Return anchor points [filters, height, width, channels] of normalized patches, on the host."""
    centres = spherical_kmeans(sample, spec.filters, backend, rng, max_iterations, report)
    return backend.to_host(centres).reshape(spec.filters, *spec.patch_shape, -1)


def check_features(block: Array, start: int, images: Images) -> None:
    """Raise `InvalidData` if what was computed of images, from this number on, is not finite.

    Results on a GPU are not looked at here: whoever takes them does, once all are there.
    """
    if not isinstance(block, np.ndarray) or np.isfinite(block).all():
        return
    rows = block.reshape(len(block), -1)
    number = start + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
    image = np.abs(to_host(images.read(number, number + 1))[0].astype(np.float64))
    place = np.unravel_index(int(np.argmax(image)), image.shape)
    row, column, channel = map(int, place)
    raise InvalidData(
        f"features of image {number} (counting from 0) hold NaN or infinity: its largest value is "
        f"{image[place]:g}, at row {row}, column {column}, channel {channel}; layers square patches, "
        "which float32 holds up to 3e38: look for a broken image, or scale images down"
    )


def check_one_network(kinds: Sequence[str]) -> None:
    """Raise `InvalidSpec` unless the encoders of these kinds are one, a network."""
    if len(kinds) > 1:
        raise InvalidSpec(
            f"this model is an ensemble of {len(kinds)} encoders: there is no one network or "
            "feature map; use model.encoders, or features for those of all"
        )
    if list(kinds) != ["network"]:
        raise InvalidSpec(
            "this model compares images by an exact kernel: there is no network and no feature map; its "
            "features are the kernels with its training images"
        )


def _sample(
    layers: Sequence[Layer],
    spec: LayerSpec,
    images: Images,
    patches: int,
    backend: Backend,
    rng: np.random.Generator,
    report: Report,
) -> Array:
    """Sample patches [m, k·k·c] of the layer's input, uniform over all positions, without repetition."""
    n, shape = images.shape[0], images.shape[1:]
    for layer in layers:
        shape = layer.spec.output_shape(shape)
    height, width, _ = spec.map_shape(shape)
    size = spec.terms(shape[2])
    fitting = backend.memory_budget // 2 // (np.dtype(backend.dtype).itemsize * size)
    m = min(patches, fitting, n * height * width)
    if m < spec.filters:
        ways = {
            patches: f": give {spec.filters} patches or more, or fewer filters",
            fitting: f" in {backend.memory_budget >> 20} MiB: give more memory, or fewer filters",
        }
        raise InvalidSpec(
            f"{spec.filters} filters were asked for, but only {m} patches of {size} numbers can be sampled"
            + ways.get(m, ": give more images, or fewer filters")
        )
    chosen = np.sort(rng.choice(n * height * width, m, replace=False))
    image, position = np.divmod(chosen, height * width)
    sample = backend.asarray(np.empty((m, size), backend.dtype))
    report("sampling", 0, n)
    done = 0
    for block in images.blocks(backend.images_per_block(layers, images.shape[1:])):
        start, done = done, done + len(block)
        if np.searchsorted(image, start) < np.searchsorted(image, done):
            maps = backend.encode(backend.asarray(block), layers)
            # A few images' patches at a time: those of a block may be as many as all.
            step = max(1, PART_BYTES // (4 * size * max(1, m // n)))
            for begin in range(0, len(maps), step):
                part = maps[begin : begin + step]
                first, last = np.searchsorted(image, [start + begin, start + begin + len(part)])
                y, x = np.divmod(position[first:last], width)
                sample[first:last] = patches_at(part, spec, image[first:last] - start - begin, y, x)
        report("sampling", done, n)
    return sample


def _outputs(
    layers: Sequence[Layer], images: Images, backend: Backend, rng: np.random.Generator, report: Report
) -> Iterator[Array]:
    """Yield outputs [m, filters] of the last layer, of as many random images as tell a covariance."""
    n = images.shape[0]
    height, width, filters = check_specs([layer.spec for layer in layers], images.shape[1:])[-1]
    wanted = max(1, min(n, -(-OUTPUTS_PER_FILTER * filters // (height * width))))
    chosen = np.sort(rng.choice(n, wanted, replace=False))
    done = 0
    for block in images.blocks(backend.images_per_block(layers, images.shape[1:])):
        start, done = done, done + len(block)
        of_block = chosen[(chosen >= start) & (chosen < done)] - start
        if len(of_block):
            maps = backend.asarray(block)
            maps = maps[np.asarray(of_block, like=maps)]
            yield backend.to_host(backend.encode(maps, layers)).reshape(-1, filters)
        report("decorrelation", done, n)
