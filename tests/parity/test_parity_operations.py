"""Every operation on every backend against `backend/reference.py`."""

import contextlib
import dataclasses

import gpu
import numpy as np
import pytest
import tolerances
from factories import SMOOTH_KERNELS, make_layer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckncuda import ArcCosine
from ckncuda.backend import get_backend
from ckncuda.backend import numpy as numpy_backend
from ckncuda.backend.numpy import backend as operations_on_numpy
from ckncuda.backend.numpy import tiles
from ckncuda.backend.numpy.sketch import sketch
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.layer import conventions
from ckncuda.network.anchors import spherical_kmeans

if numpy_backend.has_numba():
    from ckncuda.backend.numpy.compiled import encode_loops as loops


CPU = ["numpy, plain", "numpy, compiled"]


def make_backend(name, threads=2, memory=None):
    """A backend of `tolerances.ENCODE`, or skip what is not installed."""
    if name in gpu.PRECISIONS:
        return gpu.cupy_backend(name, memory)
    if name == "numpy, compiled" and not numpy_backend.has_numba():
        pytest.skip("Numba, the extra `fast`, is not installed")
    return numpy_backend.NumpyBackend(threads, memory, compiled=name == "numpy, compiled")


CHANNELS = [1, 3, 36]  # one for each way of the products: of many, patches of 3x3 go through Winograd's


@pytest.fixture(params=tolerances.ENCODE)
def backend(request):
    with gpu.a_gpu() if request.param in gpu.PRECISIONS else contextlib.nullcontext():
        backend = make_backend(request.param)
        backend.tested_as = request.param
        yield backend


cpu_backend = pytest.mark.parametrize("backend", CPU, indirect=True)


def both(backend, layers, maps):
    """The reference's maps and the backend's, which are of one shape."""
    expected = get_backend("reference").encode(maps, layers)
    actual = backend.to_host(backend.encode(backend.asarray(maps), layers))
    assert actual.shape == expected.shape
    return actual, expected


@pytest.fixture
def check(relative_error):
    def check(backend, layer, maps):
        if tolerances.ENCODE[backend.tested_as] > 1e-4:  # a bound for the pooled map: see `tolerances`
            layer = dataclasses.replace(layer, projection=np.eye(layer.spec.filters))
        actual, expected = both(backend, [layer], maps)
        assert actual.shape == (len(maps), *layer.spec.output_shape(maps.shape[1:]))
        assert relative_error(actual, expected) <= tolerances.ENCODE[backend.tested_as]

    return check


@pytest.mark.parametrize("kernel", SMOOTH_KERNELS, ids=repr)
@pytest.mark.parametrize("channels", CHANNELS)
def test_every_kernel(backend, kernel, channels, rng, check):
    layer = make_layer(channels, rng, kernel=kernel)
    check(backend, layer, rng.normal(size=(5, 12, 12, channels)))


def test_arccosine_of_degree_zero(backend, rng, check):
    """Its slope is infinite at ±1: patches here stay away from the anchors, as real ones do."""
    check(backend, make_layer(3, rng, kernel=ArcCosine(0)), rng.normal(size=(5, 12, 12, 3)))


@pytest.mark.parametrize("padding", ["zero", "valid"])
@pytest.mark.parametrize("patch", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("subsampling", [1, 2, 3])
def test_every_patch_padding_and_subsampling(backend, padding, patch, subsampling, rng, check):
    layer = make_layer(2, rng, padding=padding, patch=patch, subsampling=subsampling)
    check(backend, layer, rng.normal(size=(3, 11, 14, 2)))


@pytest.mark.parametrize("padding", ["zero", "valid"])
@pytest.mark.parametrize("patch", [(1, 3), (4, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_patches_that_are_no_squares(backend, padding, patch, channels, rng, check):
    """Of many or of three channels they do not go through Winograd's algorithm, which is for 3x3."""
    layer = make_layer(channels, rng, patch=patch, padding=padding)
    check(backend, layer, rng.normal(size=(3, 12, 13, channels)))


@pytest.mark.parametrize("padding", ["zero", "valid"])
@pytest.mark.parametrize("channels", CHANNELS)
def test_a_sequence_is_an_image_of_height_one(backend, padding, channels, rng, relative_error):
    layers = [
        make_layer(channels, rng, patch=(1, 3), subsampling=1, padding=padding),
        make_layer(12, rng, patch=(1, 2), subsampling=1, padding=padding),
    ]
    maps = rng.normal(size=(3, 1, 40, channels))
    actual, expected = both(backend, layers, maps)
    if tolerances.ENCODE[backend.tested_as] < 1e-4:
        assert relative_error(actual, expected) <= tolerances.ENCODE[backend.tested_as]


@pytest.mark.parametrize("pooling", ["gaussian", "average", "strided"])
@pytest.mark.parametrize("alignment", ["corner", "centered", "valid"])
@pytest.mark.parametrize("subsampling", [2, 3, 4])
@pytest.mark.parametrize("channels", CHANNELS)
def test_every_pooling_and_alignment(backend, pooling, alignment, subsampling, channels, rng, check):
    layer = make_layer(channels, rng, pooling=pooling, alignment=alignment, subsampling=subsampling)
    check(backend, layer, rng.normal(size=(2, 13, 12, channels)))


@pytest.mark.parametrize("convention", [conventions.CHEN, conventions.MAIRAL], ids=["CHEN", "MAIRAL"])
@pytest.mark.parametrize("channels", CHANNELS)
def test_conventions_on_images_with_empty_patches(backend, convention, channels, rng, check):
    maps = rng.normal(size=(3, 12, 12, channels))
    maps[1] = 0
    maps[2, :6] = 0
    check(backend, make_layer(channels, rng, **convention), maps)


@given(
    n=st.integers(1, 7),
    height=st.integers(3, 20),
    width=st.integers(3, 20),
    channels=st.sampled_from([1, 2, 3, 5, 16, 19, 33]),
    filters=st.one_of(st.integers(1, 20), st.just(66)),
    patch=st.integers(1, 4),
    subsampling=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_shape(backend, check, n, height, width, channels, filters, patch, subsampling, seed):
    rng = np.random.default_rng(seed)
    if (
        channels * patch == 1
    ):  # anchors are 1 and -1: more of them are equal, and the projection enlarges rounding
        filters = min(filters, 2)
    layer = make_layer(channels, rng, filters=filters, patch=patch, subsampling=subsampling)
    try:
        layer.spec.output_shape((height, width, channels))
    except InvalidSpec:
        return
    check(backend, layer, rng.normal(size=(n, height, width, channels)))


@cpu_backend
@pytest.mark.parametrize("padding", ["zero", "valid"])
@pytest.mark.parametrize("alignment", ["corner", "centered", "valid"])
@pytest.mark.parametrize("channels", CHANNELS)
def test_large_images_in_bands_of_rows(monkeypatch, backend, padding, alignment, channels, rng, check):
    """With a tiny tile every image is cut into bands; the seams must not show."""
    monkeypatch.setattr(tiles, "MAX_TILE_BYTES", 1 << 14)
    layer = make_layer(channels, rng, padding=padding, alignment=alignment, subsampling=3)
    maps = rng.normal(size=(2, 40, 37, channels))
    assert len(backend._plan(layer.spec, maps.shape[1:]).row_bands) > 2
    check(backend, layer, maps)


@cpu_backend
def test_a_stack_of_which_some_layers_are_cut_into_bands(monkeypatch, backend, rng, relative_error):
    monkeypatch.setattr(tiles, "MAX_TILE_BYTES", 1 << 19)
    layers = [make_layer(3, rng, filters=64, subsampling=6), make_layer(64, rng)]
    maps = rng.normal(size=(5, 90, 90, 3)).astype(np.float32)
    assert [plan.in_bands for plan in backend._plans(layers, maps.shape[1:])] == [True, False]
    assert relative_error(*both(backend, layers, maps)) <= 1e-5


def test_no_images_at_all(backend, rng):
    layer = make_layer(3, rng)
    none = backend.asarray(np.empty((0, 12, 12, 3), np.float32))
    assert backend.encode(none, [layer]).shape == (0, 6, 6, 12)


@pytest.mark.parametrize(
    ("size", "subsampling", "alignment"), [(6, 2, "valid"), (10, 4, "centered"), (9, 3, "valid")]
)
def test_a_layer_whose_pooling_begins_below_the_first_row(
    backend, size, subsampling, alignment, rng, relative_error
):
    """What the layer before writes for it begins above its first row, though the sizes may be the same."""
    options = {"subsampling": subsampling, "alignment": alignment}
    layers = [
        make_layer(3, rng, filters=64, patch=1, subsampling=1),
        make_layer(64, rng, filters=8, padding="valid", pooling="strided", **options),
    ]
    actual, expected = both(backend, layers, rng.normal(size=(2, size, size, 3)))
    assert relative_error(actual, expected) <= tolerances.ENCODE[backend.tested_as]


def test_maps_of_other_channels_are_refused(backend, rng):
    with pytest.raises(InvalidData, match="maps have 5 channels; the layer was learned on 3"):
        backend.encode(backend.asarray(np.zeros((1, 12, 12, 5), np.float32)), [make_layer(3, rng)])


@pytest.mark.parametrize("n_layers", [0, 1, 2])
def test_the_result_is_left_where_it_is_wanted(backend, n_layers, rng):
    layers = [make_layer(3, rng), make_layer(12, rng)][:n_layers]
    maps = rng.normal(size=(9, 12, 12, 3)).astype(np.float32)
    for engine in (backend, get_backend("reference")):
        expected = engine.to_host(engine.encode(engine.asarray(maps), layers))
        for out in (np.full_like(expected, np.nan), np.empty((*expected.shape, 2), np.float32)[..., 0]):
            parts = engine.map_blocks(
                lambda block, engine=engine: engine.encode(block, layers), [maps[:4], maps[4:]], out
            )
            assert [len(part) for part in parts] == [4, 5]
            np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CPU)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("n", [1, 5, 70])
def test_features_do_not_depend_on_the_number_of_threads(name, channels, n, rng):
    """Bytes, not tolerances."""
    layer = make_layer(channels, rng)
    maps = rng.normal(size=(n, 12, 12, channels)).astype(np.float32)
    whole = make_backend(name, threads=1).encode(maps, [layer])
    assert np.array_equal(make_backend(name, threads=3).encode(maps, [layer]), whole)


@pytest.mark.parametrize("kernel", SMOOTH_KERNELS, ids=repr)
@pytest.mark.parametrize("channels", CHANNELS)
def test_dark_patches_beside_bright_ones(backend, kernel, channels, rng, check):
    """Winograd's rounding is that of the whole tile: where a patch is dark, its cosine may be anything."""
    maps = 1e-6 * rng.normal(size=(2, 12, 12, channels))
    maps[:, 6:] = 0
    maps[0, 3, 3] = 1e6
    maps[1, 8, 5] = 1e3
    check(backend, make_layer(channels, rng, kernel=kernel), maps)


@pytest.mark.parametrize("channels", [1, 3, 15, 16, 32, 36])
def test_all_ways_of_the_products_agree(channels, rng, relative_error):
    """Which algorithm is taken is a matter of speed alone."""
    layer, maps = make_layer(channels, rng), rng.normal(size=(3, 13, 9, channels)).astype(np.float32)
    plain, compiled = (make_backend(name) for name in CPU)
    shape = maps.shape[1:]
    assert plain._plan(layer.spec, shape).winograd == (channels >= 32)
    algorithm = {1: loops.DIRECT, 3: loops.COLOUR, 15: loops.DIRECT}.get(channels, loops.MANY)
    assert compiled._plan(layer.spec, shape).algorithm == algorithm
    assert relative_error(compiled.encode(maps, [layer]), plain.encode(maps, [layer])) < 1e-5


@pytest.mark.parametrize("width", [3, 5, 62, 63, 66, 67, 130, 133])
def test_colour_images_of_any_width(backend, width, rng, check):
    """Winograd's algorithm takes a row of them in parts, whose seams must not show."""
    check(backend, make_layer(3, rng), rng.normal(size=(2, 6, width, 3)))


def test_a_stack_of_layers_is_layer_after_layer(backend, rng):
    """Bytes, not tolerances: what one layer leaves in its workspace must not reach the next."""
    layers = [
        make_layer(3, rng, filters=20),
        make_layer(20, rng, filters=64, alignment="valid", patch=2),
        make_layer(64, rng, filters=70, padding="valid"),
        make_layer(70, rng, filters=5, subsampling=1),
    ]
    maps = backend.asarray(rng.normal(size=(5 if backend.name == "cupy" else 21, 39, 35, 3)))
    expected = maps
    for layer in layers:
        expected = backend.encode(expected, [layer])
    for _ in range(2):
        assert bool((backend.encode(maps, layers) == expected).all())


@pytest.fixture
def always_sketched(monkeypatch):
    """Patches are sketched however few there are."""
    monkeypatch.setattr(operations_on_numpy, "pays", lambda *of: True)


def unit_vectors(n, d, directions, rng):
    """Vectors that vary mostly in so many directions."""
    vectors = rng.normal(size=(n, directions)) @ rng.normal(size=(directions, d))
    vectors += 0.3 * rng.normal(size=(n, d))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("n", [1, 3, 33, 2047, 2048, 5000])
@pytest.mark.parametrize(
    ("d", "directions", "sketched"), [(27, 27, False), (200, 200, False), (256, 10, True)]
)
@pytest.mark.parametrize("clusters", [1, 50, 64, 130])
def test_nearest_anchor(backend, n, d, directions, sketched, clusters, rng, always_sketched):
    if backend.name == "cupy" and n > 2047:
        pytest.skip("more of the same blocks")
    atol = tolerances.COSINE[backend.tested_as]
    patches, anchors = unit_vectors(n, d, directions, rng), unit_vectors(clusters, d, directions, rng)
    anchors[: clusters // 2] = patches[rng.integers(n, size=clusters // 2)]
    expected, cosines = get_backend("reference").nearest_anchor(patches, anchors)
    on_backend = backend.asarray(patches), backend.asarray(anchors)
    assert (sketch(patches.astype(np.float32)) is not None) == sketched or n < 100
    for found in (backend.nearest_anchor(*on_backend), backend.anchor_search(on_backend[0])(on_backend[1])):
        index, cosine = map(backend.to_host, found)
        np.testing.assert_allclose(cosine, cosines, atol=atol)
        # Where two anchors are equally near up to rounding, either may be taken.
        np.testing.assert_allclose((patches * anchors[index]).sum(axis=1), cosines, atol=2 * atol)
        assert np.mean(index == expected) > 0.99 or clusters > n or atol > 1e-5


def test_nearest_anchor_is_the_first_of_equal_ones(backend, rng, always_sketched):
    patches = backend.asarray(unit_vectors(100, 256, 10, rng))
    anchors = backend.asarray(np.concatenate([backend.to_host(patches)[:70]] * 2))
    for found in (backend.nearest_anchor(patches, anchors), backend.anchor_search(patches)(anchors)):
        assert backend.to_host(found[0])[:70].tolist() == list(range(70))


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_sum_by_anchor(backend, n, rng):
    patches, nearest = rng.normal(size=(n, 45)), rng.integers(20, size=n)
    expected = get_backend("reference").sum_by_anchor(patches, nearest, 20)
    nearest = backend.nearest_anchor(backend.asarray(np.eye(20)[nearest]), backend.asarray(np.eye(20)))[0]
    sums = backend.to_host(backend.sum_by_anchor(backend.asarray(patches), nearest, 20))
    np.testing.assert_allclose(sums, expected, atol=1e-5)


@pytest.mark.parametrize("name", CPU)
def test_kmeans_does_not_depend_on_the_number_of_threads(name, rng, always_sketched):
    """Bytes, not tolerances."""
    patches = unit_vectors(6000, 256, 10, rng).astype(np.float32)
    engines = (make_backend(name, threads=threads) for threads in (1, 3))
    found = [spherical_kmeans(patches, 70, engine, np.random.default_rng(0)) for engine in engines]
    assert np.array_equal(*found)


def test_blocks_fit_the_memory(backend, rng):
    layers = [make_layer(3, rng), make_layer(12, rng)]
    small, large = (make_backend(backend.tested_as, memory=memory) for memory in (64 << 20, 1 << 30))
    shape = (512, 512, 3)
    assert 1 <= small.images_per_block(layers, shape) < large.images_per_block(layers, shape)
    # Before the first layer there is the reading and the padding of the images themselves.
    assert 1 <= small.images_per_block([], shape) <= (64 << 20) // (4 * 512 * 512 * 3)
