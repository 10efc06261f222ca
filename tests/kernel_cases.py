"""Small shapes that reach every line of the kernels in little time; as a program, all of them once."""

import itertools
from collections import defaultdict
from unittest import mock

import factories
import gpu
import numpy as np

from ckncuda import ArcCosine
from ckncuda.backend import get_backend
from ckncuda.backend.cupy import device
from ckncuda.backend.operations import NormedMaps
from ckncuda.kernels import source


def make_layer(channels, **options):
    return factories.make_layer(channels, np.random.default_rng(1), **{"filters": 10} | options)


# Input shapes and layers that reach every branch of `encode` in little time.
CASES = {
    "colour": ((3, 7, 6, 3), make_layer(3)),
    "two parts of channels, two slabs of anchors": ((1, 5, 5, 36), make_layer(36, filters=66)),
    "tiles of rows and columns": ((1, 26, 140, 1), make_layer(1, patch=(2, 3), subsampling=3)),
    "average, centred, no margins": (
        (2, 9, 8, 2),
        make_layer(2, pooling="average", alignment="centered", padding="valid", scale="floored_norm"),
    ),
    "no pooling": ((2, 4, 5, 4), make_layer(4, subsampling=1, patch=1)),
}
# The same of the way back: positions in no pooled one and in three, patches beyond all borders, zeros.
BACKWARD_CASES = {
    "colour": ((2, 7, 6, 3), make_layer(3)),
    "four numbers at once, even patches": (
        (2, 6, 5, 4),
        make_layer(4, filters=12, patch=(2, 3), even_padding="both", scale="floored_norm"),
    ),
    "all lanes, no margins": (
        (1, 8, 9, 36),
        make_layer(36, filters=66, padding="valid", subsampling=3, pooling="strided", alignment="centered"),
    ),
    "one pooled position each": (
        (3, 5, 7, 8),
        make_layer(8, filters=64, subsampling=4, pooling="average"),
    ),
}
PAIR_PRECISIONS = ["cupy, float32", "cupy, float32 without tensor cores"]  # that differ in exact kernels
KAPPAS = (*factories.SMOOTH_KERNELS, ArcCosine(0))  # all of them
RELU = {"kernel": ArcCosine(1), "filters": 1}
# Images, layers and whether of tangents, that reach every branch of the kernels of pairs in little time.
PAIR_CASES = {
    "colour, two layers": ((2, 7, 6, 3), [{"alignment": "valid"}, {"patch": (1, 2)}], False),
    "one channel, five positions together": ((2, 12, 11, 1), [{"subsampling": 5}, {"subsampling": 1}], False),
    "many terms, wide maps": ((2, 3, 66, 4), [{"subsampling": 3}], False),
    "tangents of two layers": ((2, 6, 7, 3), [RELU, {**RELU, "scale": "floored_norm"}], True),
}


def run_encode(backend, case, many_multiprocessors=True):
    """Feature maps and their reference of one case."""
    shape, layer = CASES[case]
    maps = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    if many_multiprocessors:
        backend.gpu.multiprocessors = 1000  # tiles of rows, though there are few
    actual = backend.to_host(backend.encode(backend.asarray(maps), [layer]))
    return actual, get_backend("reference").encode(maps, [layer])


def run_backward(backend, case, long_runs=True):
    """Gradients by the maps and by the anchors of one case, and those of the reference."""
    if long_runs:
        backend.gpu.multiprocessors = 0  # though there are few positions
    shape, layer = BACKWARD_CASES[case]
    rng, reference = np.random.default_rng(0), get_backend("reference")
    maps = rng.normal(size=shape).astype(np.float32)
    maps[0, :4, :4] = 0
    upstream = rng.normal(size=reference.encode(maps[:1], [layer]).shape[1:]) * np.ones((shape[0], 1, 1, 1))
    by_maps, by_anchors = backend.encode_backward(backend.asarray(maps), [layer], upstream)
    expected, of_layer = reference.encode_backward(maps, [layer], upstream)
    return [backend.to_host(by_maps), *by_anchors], [expected, *of_layer]


def run_pairs(backend, case):
    """The Gram matrix of a case, and its reference."""
    shape, options, tangent = PAIR_CASES[case]
    maps = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    specs = [make_layer(1, **layer).spec for layer in options]
    images = NormedMaps(maps, get_backend("reference").patch_norms(maps, specs))
    actual = backend.gram_block(images, images, specs, tangent=tangent, symmetric=True)
    return actual, get_backend("reference").gram_block(images, images, specs, tangent=tangent)


def run_kmeans(backend, n=130, d=37, clusters=66):
    """Assignments, cosines and sums of random patches, and those of the reference."""
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(n, d))
    patches /= np.linalg.norm(patches, axis=1)[:, None]
    patches = patches.astype(np.float32)
    results = []
    for engine in (backend, get_backend("reference")):
        on_engine = engine.asarray(patches)
        nearest, cosine = engine.nearest_anchor(on_engine, on_engine[:clusters])
        sums = engine.sum_by_anchor(on_engine, nearest, clusters)
        results.append([engine.to_host(array) for array in (nearest, cosine, sums)])
    return results


def run_everything():
    """Run all cases, precisions and κ on the device."""
    for precision in gpu.PRECISIONS:
        backend = gpu.cupy_backend(precision)
        for case in CASES:
            run_encode(backend, case)
        for size in (36, 37):
            run_kmeans(backend, d=size)
    for precision in PAIR_PRECISIONS:
        backend = gpu.cupy_backend(precision)
        for case in PAIR_CASES:
            run_pairs(backend, case)
    for case in BACKWARD_CASES:
        run_backward(backend, case)
    for kernel, filters in itertools.product(factories.SMOOTH_KERNELS, (3, 4)):
        layer, maps = make_layer(1, kernel=kernel, filters=filters, epsilon=1e-2), np.ones((1, 4, 4, 1))
        backend.encode_backward(maps, [layer], np.ones((1, 2, 2, filters)))
    for kernel in KAPPAS:
        backend.encode(backend.asarray(np.ones((1, 4, 4, 1))), [make_layer(1, kernel=kernel)])


def instantiations():
    """Return those that `run_everything` asks for, by operation; nothing is compiled or launched."""
    asked = defaultdict(dict)
    launched = mock.Mock(max_dynamic_shared_size_bytes=1 << 30)

    def note(operation, instantiation):
        asked[operation][instantiation] = True
        return launched

    with mock.patch.object(device, "compiled", note):
        run_everything()
    return {operation: list(names) for operation, names in asked.items()}


def main():
    """Run everything, each operation compiled at once: what instantiations share takes most of the time."""
    with gpu.a_gpu():
        import cupy

        asked, options = instantiations(), ("--std=c++17",)
        modules = {
            name: cupy.RawModule(code=source(name), options=options, name_expressions=tuple(expressions))
            for name, expressions in asked.items()
        }
        with mock.patch.object(device, "compiled", lambda op, name: modules[op].get_function(name)):
            run_everything()


if __name__ == "__main__":
    main()
