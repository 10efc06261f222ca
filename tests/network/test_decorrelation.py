"""Decorrelated outputs of a layer: (C/λ̄ + 0.01)^{-p}, by hand and through networks, files and backends."""

import dataclasses

import numpy as np
import pytest
from factories import make_layer, make_spec
from hypothesis import given
from hypothesis import strategies as st

from ckncuda import CKN, Layer, LayerSpec, Model, load
from ckncuda.backend import get_backend
from ckncuda.errors import InvalidSpec
from ckncuda.images.sources import as_images
from ckncuda.layer.layer import DECORRELATION_FLOOR
from ckncuda.network.network import OUTPUTS_PER_FILTER, _outputs
from ckncuda.progress import Report

PLAIN = make_spec(filters=10)


def with_power(power, spec=PLAIN):
    return dataclasses.replace(spec, decorrelation=power)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(40, 9, 8, 2)).cumsum(axis=1).astype(np.float32)


def a_layer(filters, rng):
    return make_layer(3, rng, filters=filters, patch=2)


def fitted(images, *specs):
    return CKN(specs).fit(images, patches=2000, backend="numpy")


def covariance(outputs):
    return np.cov(outputs, rowvar=False, bias=True)


@given(seed=st.integers(0, 10_000), power=st.floats(0, 0.5), filters=st.integers(2, 12))
def test_variances_are_raised_to_one_minus_two_p(seed, power, filters):
    """Along each eigenvector of C, λ becomes λ (λ/λ̄ + 0.01)^{-2p}; nothing correlates there still."""
    rng = np.random.default_rng(seed)
    layer = a_layer(filters, rng)
    spread = 10.0 ** rng.uniform(-3, 1, size=filters)
    outputs = rng.normal(size=(300, filters)) * spread @ np.linalg.qr(rng.normal(size=(filters, filters)))[0]
    outputs += rng.normal(size=filters) * 5  # a mean counts for nothing
    before = np.linalg.solve(layer.projection, outputs.T).T
    after = before @ layer.decorrelated(power, [outputs[:7], outputs[7:]]).projection.T
    eigenvalues, vectors = np.linalg.eigh(covariance(outputs))
    expected = eigenvalues * (eigenvalues / eigenvalues.mean() + DECORRELATION_FLOOR) ** (-2 * power)
    found = vectors.T @ covariance(after) @ vectors
    np.testing.assert_allclose(found, np.diag(expected), atol=1e-6 * expected.max())


def test_half_makes_all_but_the_smallest_variances_equal(rng):
    layer = a_layer(4, rng)
    outputs = rng.normal(size=(5000, 4)) * [2.0, 1.0, 0.5, 1e-4]
    before = np.linalg.solve(layer.projection, outputs.T).T
    spectrum = covariance(before @ layer.decorrelated(0.5, [outputs]).projection.T)
    mean = covariance(outputs).trace() / 4
    np.testing.assert_allclose(np.diag(spectrum)[:3], mean, rtol=0.1)
    assert np.diag(spectrum)[3] < 1e-5 * mean  # below the floor nothing is amplified beyond a factor of 10
    assert np.sqrt(spectrum[3, 3]) < 10.1 * outputs[:, 3].std()


def test_zero_changes_nothing(images, rng):
    layer = a_layer(5, rng)
    found = layer.decorrelated(0.0, [rng.normal(size=(50, 5))])
    np.testing.assert_allclose(found.projection, layer.projection, atol=1e-12)
    plain, zero = (CKN([spec]).fit(images, patches=500, backend="numpy") for spec in (PLAIN, with_power(0.0)))
    assert plain.layers[0].projection.tobytes() == zero.layers[0].projection.tobytes()


def test_outputs_without_variance_and_fewer_outputs_than_filters_are_no_fault(rng):
    layer = a_layer(6, rng)
    for outputs in (np.ones((1, 6)), np.ones((9, 6)), rng.normal(size=(3, 6))):
        projection = layer.decorrelated(0.5, [outputs]).projection
        assert np.isfinite(projection).all()
        assert np.linalg.norm(projection) <= 10.01 * np.linalg.norm(layer.projection)


def test_a_fitted_networks_outputs_are_decorrelated(images, monkeypatch):
    monkeypatch.setattr("ckncuda.network.network.OUTPUTS_PER_FILTER", 10**6)  # all images
    plain, half = (fitted(images, with_power(power)) for power in (0.0, 0.5))
    assert half.layers[0].spec.decorrelation == 0.5
    assert half.layers[0].anchors.tobytes() == plain.layers[0].anchors.tobytes()
    c, d = (covariance(net.transform(images, backend="reference").reshape(-1, 10)) for net in (plain, half))
    eigenvalues, vectors = np.linalg.eigh(c)
    expected = eigenvalues / (eigenvalues / eigenvalues.mean() + DECORRELATION_FLOOR)
    np.testing.assert_allclose(vectors.T @ d @ vectors, np.diag(expected), atol=1e-3 * expected.max())
    assert np.linalg.cond(d) < 0.1 * np.linalg.cond(c)


def test_some_images_tell_nearly_the_same_covariance(images, monkeypatch):
    many = np.concatenate([images] * 10) + np.random.default_rng(1).normal(size=(400, 9, 8, 2))
    few = fitted(many, with_power(0.25))
    monkeypatch.setattr("ckncuda.network.network.OUTPUTS_PER_FILTER", 10**6)
    all_of_them = fitted(many, with_power(0.25))
    a, b = (network.layers[0].projection for network in (few, all_of_them))
    assert not np.array_equal(a, b)
    np.testing.assert_allclose(a, b, atol=0.2 * np.abs(b).max())


@pytest.mark.parametrize("block", [7, 40])
def test_outputs_are_those_of_images_drawn_once_each(images, monkeypatch, block):
    """Whatever the blocks in which they are read."""
    backend = get_backend("numpy")
    monkeypatch.setattr(type(backend), "images_per_block", lambda self, layers, shape: block)
    layers = CKN([PLAIN]).fit(images, patches=500, backend=backend).layers
    blocks = _outputs(layers, as_images(images), backend, np.random.default_rng(3), Report())
    outputs = np.concatenate(list(blocks))
    wanted = -(-OUTPUTS_PER_FILTER * 10 // 20)  # 5×4 positions each
    assert outputs.shape == (wanted * 20, 10)
    maps = backend.encode(images, layers).reshape(40, 20, 10)
    of = [int(np.argmin(np.abs(maps - each).max(axis=(1, 2)))) for each in outputs.reshape(wanted, 20, 10)]
    assert of == sorted(set(of))
    np.testing.assert_allclose(outputs.reshape(wanted, 20, 10), maps[of], atol=1e-6)


def test_a_layer_above_learns_from_decorrelated_outputs(images):
    above = make_spec(filters=6, patch=2)
    plain, decorrelated = (fitted(images, with_power(power), above) for power in (0.0, 0.25))
    below = [network.layers[0].anchors.tobytes() for network in (plain, decorrelated)]
    assert below[0] == below[1]
    assert np.abs(plain.layers[1].anchors - decorrelated.layers[1].anchors).max() > 1e-3


def test_the_same_seed_gives_the_same_bytes(images):
    first, second, other = (CKN([with_power(0.25)]).fit(images, patches=500, seed=seed) for seed in (1, 1, 2))
    assert first.layers[0].projection.tobytes() == second.layers[0].projection.tobytes()
    assert first.layers[0].projection.tobytes() != other.layers[0].projection.tobytes()


def test_progress_tells_of_it(images):
    seen = []
    CKN([with_power(0.25), PLAIN]).fit(images, patches=500, progress=lambda *stage: seen.append(stage))
    told = [stage for stage in seen if "decorrelation" in stage[0]]
    assert {stage for stage, _, _ in told} == {"layer 1: decorrelation"}
    assert told[-1][1] == 40


@pytest.mark.parametrize("power", [0.25, 0.5])
def test_backends_agree(images, power, relative_error):
    network = fitted(images, with_power(power), with_power(power, make_spec(filters=8, patch=2)))
    expected = network.transform(images, backend="reference")
    assert relative_error(network.transform(images, backend="numpy"), expected) < 1e-5
    exact = CKN(network.specs).fit(images, patches=2000, backend="reference")
    assert exact.layers[1].spec.decorrelation == power


def test_round_trip_through_a_file(images, tmp_path):
    network = CKN([with_power(0.25)]).fit(images, patches=500, backend="numpy")
    network.save(tmp_path / "network.ckn")
    again = load(tmp_path / "network.ckn").network
    assert again.specs == tuple(layer.spec for layer in network.layers)
    assert again.layers[0].spec.decorrelation == 0.25
    assert again.layers[0].projection.tobytes() == network.layers[0].projection.tobytes()
    found, expected = (net.transform(images, backend="numpy") for net in (again, network))
    assert found.tobytes() == expected.tobytes()
    Model.of_network(again).save(tmp_path / "again.ckn")
    assert (tmp_path / "again.ckn").read_bytes() == (tmp_path / "network.ckn").read_bytes()


def test_anchors_alone_do_not_tell_how_to_decorrelate(images):
    network = CKN([with_power(0.25)]).fit(images, patches=500)
    layer = network.layers[0]
    with pytest.raises(InvalidSpec, match=r"layer 1: decorrelation is 0.25, but its matrix is learned"):
        CKN.from_anchors([layer.spec], [layer.anchors])
    with pytest.raises(InvalidSpec, match=r"fit the network, or give anchors without it"):
        Layer.from_anchors(layer.spec, layer.anchors)
    without = Layer.from_anchors(with_power(0.0, layer.spec), layer.anchors)
    assert not np.allclose(without.projection, layer.projection)


def test_it_is_an_option_like_the_others():
    spec = with_power(0.25)
    assert spec.to_dict()["decorrelation"] == 0.25
    assert LayerSpec.from_dict(spec.to_dict()) == spec
    older = {name: value for name, value in spec.to_dict().items() if name != "decorrelation"}
    assert LayerSpec.from_dict(older) == PLAIN  # of files written before there was such an option
    assert spec != PLAIN


@pytest.mark.parametrize("power", [-0.1, 0.51, 1, float("nan"), float("inf"), "0.25", None, True])
def test_powers_out_of_range(power):
    with pytest.raises(InvalidSpec, match=rf"decorrelation is {power!r}; it must lie between 0 and 0.5"):
        with_power(power)
