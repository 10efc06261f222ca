import numpy as np
import pytest
from factories import make_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from ckncuda import CKN, Exponential, LayerSpec, load
from ckncuda.backend import get_backend
from ckncuda.backend.reference import extract_patches, unpooled_map
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.images.sources import ArrayImages
from ckncuda.network.network import _sample
from ckncuda.progress import Report

SPECS = [
    LayerSpec(filters=8, patch=3, subsampling=2, kernel=Exponential(sigma=0.6)),
    LayerSpec(filters=10, patch=2, subsampling=3, kernel=Exponential(quantile=0.2)),
]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(30, 14, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network(images):
    return CKN(SPECS).fit(images, patches=2000, seed=1)


def test_shapes_and_counts(network, images):
    assert network.transform(images).shape == (30, 3, 2, 10)
    assert network.output_shape((14, 12, 3)) == (3, 2, 10)
    assert network.n_parameters == 8 * 27 + 10 * 4 * 8


def test_features_keep_the_scale_of_the_images(network, images):
    """The exact embedding of a patch has its norm; a projection can only shorten it, here not to nothing."""
    layer = network.layers[0]
    embedded = unpooled_map(images[:2], layer) @ layer.projection.T
    norms = np.linalg.norm(extract_patches(images[:2].astype(float), layer.spec), axis=-1)
    ratio = np.linalg.norm(embedded, axis=-1) / norms
    assert ratio.max() <= 1 + 1e-6
    assert ratio.mean() > 0.1


def test_learned_anchors_are_unit_patches_and_kernels_are_resolved(network):
    for layer in network.layers:
        norms = np.linalg.norm(layer.anchors.reshape(len(layer.anchors), -1), axis=1)
        np.testing.assert_allclose(norms, 1, rtol=1e-5)
    assert network.layers[1].spec.kernel.sigma > 0
    assert network.specs[1].kernel.sigma is None


def test_another_seed_learns_other_anchors(images, network):
    """The same seed learns the same: `test_any_seed_gives_the_same_bytes_on_any_number_of_threads`."""
    other = CKN(SPECS).fit(images, patches=2000, seed=2)
    for a, b in zip(network.layers, other.layers, strict=True):
        assert a.anchors.tobytes() != b.anchors.tobytes()


def test_blocks_make_no_difference(network, images, monkeypatch):
    whole, backend = network.transform(images), get_backend("numpy")
    monkeypatch.setattr(type(backend), "images_per_block", lambda self, layers, shape: 7)
    assert np.array_equal(network.transform(images, backend=backend), whole)
    starts = [start for start, _ in network.transform_blocks(images, backend=backend)]
    assert starts == [0, 7, 14, 21, 28]


def test_images_are_read_block_by_block(network):
    class Counting:
        shape, dtype = (2000, 14, 12, 3), np.dtype(np.float32)
        largest = 0

        def read(self, start, stop):
            self.largest = max(self.largest, stop - start)
            return np.ones((stop - start, 14, 12, 3), np.float32)

    source = Counting()
    blocks = list(network.transform_blocks(source))
    assert sum(len(block) for _, block in blocks) == 2000
    assert source.largest < 2000


def test_sampling_is_uniform_over_images_and_positions():
    """Each image carries its number and each position its own: count what is drawn."""
    n, side = 20, 6
    images = np.zeros((n, side, side, 2))
    images[..., 0] = np.arange(n)[:, None, None]
    images[..., 1] = np.arange(side * side).reshape(side, side)
    spec = LayerSpec(filters=1, patch=1, subsampling=1, kernel=Exponential(sigma=1))
    rng, reference = np.random.default_rng(0), get_backend("reference")
    drawn = [_sample([], spec, ArrayImages(images), 360, reference, rng, Report()) for _ in range(50)]
    for sample in drawn:
        assert len(np.unique(sample, axis=0)) == 360  # never the same position twice
    for axis, values in ((0, n), (1, side * side)):
        counts = np.bincount(np.concatenate(drawn)[:, axis].astype(int), minlength=values)
        expected = 50 * 360 / values
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_from_anchors_reproduces_a_network(network, images):
    learned = ((layer.spec, layer.anchors) for layer in network.layers)
    again = CKN.from_anchors(*zip(*learned, strict=True))
    assert np.array_equal(again.transform(images), network.transform(images))


def test_save_and_load(network, images, tmp_path):
    network.save(tmp_path / "network.ckn")
    model, expected = load(tmp_path / "network.ckn"), network.transform(images)
    assert model.classifier is None
    for each in (CKN.load(tmp_path / "network.ckn"), model, model.network):
        assert np.array_equal(each.transform(images), expected)
    assert np.array_equal(model.features(images), expected.reshape(30, -1))


def test_progress_is_told(images):
    seen = []
    CKN(SPECS).fit(images, patches=500, progress=lambda *stage: seen.append(stage))
    last = {stage: done for stage, done, _ in seen}
    assert set(last) == {"layer 1: sampling", "layer 1: k-means", "layer 2: sampling", "layer 2: k-means"}
    assert last["layer 1: sampling"] == 30


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((30, 14), "f4", r"of shape \(30, 14\) is no stack of images; expected \[n, h, w, c\]"),
        ((30, 14, 12), "f4", "images have 1 channels; the network was learned on images with 3"),
        ((30, 14, 12, 1), "f4", "images have 1 channels; the network was learned on images with 3"),
        ((2, 14, 12, 3), "c8", "type complex64; expected integers in 0..255"),
        ((2, 4, 4, 3), "f4", "layer 2 does not fit: a subsampling of 3 is larger than the map of 2x2"),
    ],
)
def test_images_that_do_not_fit(network, shape, dtype, message):
    with pytest.raises(InvalidSpec if "layer" in message else InvalidData, match=message):
        network.transform(np.zeros(shape, dtype))


def test_other_failures(network, images):
    bad = images.copy()
    bad[3, 2, 2, 1] = np.nan
    with pytest.raises(InvalidData, match=r"image 3 \(counting from 0\) holds NaN"):
        CKN(SPECS).fit(bad, patches=100)
    anchors, wrong = network.layers[0].anchors, np.ones((10, 2, 2, 3)) / np.sqrt(12)
    resolved = [layer.spec for layer in network.layers]
    for fails, message in (
        (lambda: CKN(SPECS).transform(images), "learned nothing yet"),
        (lambda: CKN([]), "at least one layer"),
        (lambda: CKN([make_spec(filters=200)]).fit(images, patches=100), "200 filters .* only 100 patches"),
        (lambda: CKN.from_anchors(SPECS, [anchors]), "2 layers but 1 arrays"),
        (
            lambda: CKN.from_anchors(resolved, [anchors, wrong]),
            "layer 2: anchors have 3 channels, the layer below has 8 filters",
        ),
    ):
        with pytest.raises(InvalidSpec, match=message):
            fails()


@given(seed=st.integers(0, 10_000), threads=st.integers(1, 3))
@settings(max_examples=10)
def test_any_seed_gives_the_same_bytes_on_any_number_of_threads(seed, threads):
    images = np.random.default_rng(seed).normal(size=(6, 14, 12, 3)).astype(np.float32)
    first = CKN(SPECS).fit(images, patches=300, seed=seed)
    second = CKN(SPECS).fit(images, patches=300, seed=seed, backend=get_backend("numpy", threads=threads))
    for a, b in zip(first.layers, second.layers, strict=True):
        assert a.anchors.tobytes() == b.anchors.tobytes()
        assert a.projection.tobytes() == b.projection.tobytes()
    assert first.transform(images).tobytes() == second.transform(images).tobytes()
