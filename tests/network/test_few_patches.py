"""Few images, patches, filters or classes, or none to speak of: a model is fitted, or refused in words."""

import contextlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from ckncuda import (
    CKN,
    PRESETS,
    CknError,
    EncoderSpec,
    Exponential,
    LayerSpec,
    Model,
    Ridge,
    Symmetries,
    fit,
)
from ckncuda.backend import get_backend
from ckncuda.errors import InvalidSpec
from ckncuda.images.preprocess import ZCA, LocalWhitening

BACKEND = get_backend("numpy", threads=1)
RNG = np.random.default_rng(0)


def layers(*filters, **options):
    return [
        LayerSpec(
            **{"filters": each, "patch": 2, "subsampling": 1, "kernel": Exponential(sigma=0.6)} | options
        )
        for each in filters
    ]


@pytest.mark.parametrize(
    ("n", "patches", "filters"),
    [
        (513, 20, [8]),  # more images than patches reach: blocks without a patch
        (513, 1, [1]),
        (600, 2, [2, 2]),
        (40, 4, [4, 4]),
        (1, 9, [9]),
        (1, 100, [1, 1]),
        (9, 8, [8, 8, 8]),
    ],
)
@pytest.mark.parametrize("decorrelation", [0, 0.25])
def test_any_number_of_patches_from_that_of_filters_on(monkeypatch, n, patches, filters, decorrelation):
    monkeypatch.setattr(type(BACKEND), "images_per_block", lambda *_: 16)
    images = np.random.default_rng(0).normal(size=(n, 4, 4, 1)).astype(np.float32)
    network = CKN(layers(*filters, decorrelation=decorrelation))
    network.fit(images, patches=patches, backend=BACKEND)
    assert np.isfinite(network.transform(images, backend=BACKEND)).all()


@pytest.mark.parametrize(
    ("n", "options", "filters", "message"),
    [
        (40, {"patches": 7}, 8, "8 filters were asked for, but only 7 patches .*: give 8 patches or more"),
        (1, {}, 17, "17 filters were asked for, but only 16 patches .*: give more images, or fewer filters"),
    ],
)
def test_fewer_patches_than_filters_are_refused_by_what_they_lack(n, options, filters, message):
    images = np.random.default_rng(0).normal(size=(n, 4, 4, 1)).astype(np.float32)
    with pytest.raises(InvalidSpec, match=message):
        CKN(layers(filters)).fit(images, **options, backend=BACKEND)


@pytest.mark.parametrize("sigma", [1e-9, 1e-6, 9e-4])
def test_a_bandwidth_that_sees_rounding_alone_is_refused(sigma):
    with pytest.raises(InvalidSpec, match="from 0.001 to 1,000,000: below, the rounding of cosines is all"):
        Exponential(sigma=sigma)


def test_a_quantile_of_patches_that_are_alike_but_for_rounding_is_refused():
    images = np.ones((7, 2, 7, 1), np.float32) * RNG.normal(size=(7, 1, 1, 1)).astype(np.float32)
    spec = LayerSpec(filters=2, patch=2, subsampling=1, kernel=Exponential(quantile=0.1), padding="valid")
    with pytest.raises(InvalidSpec, match="many patches are alike; give sigma instead"):
        CKN([spec]).fit(images, backend=BACKEND)


def pictures(n, shape, kind):
    """Images of noise, dark, constant, half dark, black and white, or tiny."""
    noise = np.random.default_rng(n).normal(size=(n, *shape)).astype(np.float32)
    if kind == "dark":
        noise[:] = 0
    elif kind == "constant":
        noise[:] = noise[:, :1, :1]
    elif kind == "half dark":
        noise[: n // 2] = 0
    elif kind == "bytes":
        return (noise > 0).astype(np.uint8) * 255
    return noise * np.float32(1e-20 if kind == "tiny" else 1)


SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3]))
KINDS = st.sampled_from(["noise", "dark", "constant", "half dark", "bytes", "tiny"])


def check(model, images):
    features = model.features(images, backend=BACKEND)
    assert np.isfinite(features).all()
    if model.classifier is not None:
        assert set(model.predict(images, backend=BACKEND)) <= set(model.classifier.classes_)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    n=st.integers(1, 8),
    shape=SHAPES,
    kind=KINDS,
    filters=st.lists(st.integers(1, 12), min_size=1, max_size=2),
    patches=st.integers(1, 40),
    preprocessing=st.sampled_from([None, (), (ZCA(),), (LocalWhitening(2),)]),
    classes=st.integers(1, 4),
    options=st.fixed_dictionaries(
        {
            "patch": st.integers(1, 3),
            "subsampling": st.integers(1, 2),
            "decorrelation": st.sampled_from([0, 0.25]),
        }
    ),
)
def test_small_numbers_fit_or_are_refused(n, shape, kind, filters, patches, preprocessing, classes, options):
    images, labels = pictures(n, shape, kind), np.arange(n) % classes
    encoder = EncoderSpec(layers(*filters, **options), preprocessing, Symmetries(flip=True))
    with contextlib.suppress(CknError):
        classifier = Ridge() if classes > 1 else None
        model = Model.fit(images, labels, [encoder], classifier=classifier, patches=patches, backend=BACKEND)
        check(model, images)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    n=st.integers(1, 8),
    shape=SHAPES,
    kind=KINDS,
    preset=st.sampled_from(list(PRESETS)),
    classes=st.integers(1, 8),
)
def test_presets_fit_small_numbers_or_refuse_them(n, shape, kind, preset, classes):
    images, labels = pictures(n, shape, kind), np.arange(n) % classes
    with contextlib.suppress(CknError):
        check(fit(images, labels if classes > 1 else None, preset, backend=BACKEND), images)
