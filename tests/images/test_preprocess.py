import numpy as np
import pytest
import threadpoolctl

from ckncuda.backend.arrays import as_float
from ckncuda.data import ArraySource
from ckncuda.errors import InvalidSpec
from ckncuda.images.preprocess import (
    ZCA,
    LocalWhitening,
    Standardize,
    preprocessor_from_dict,
    suggested_preprocessing,
)
from ckncuda.images.preprocessed import PreprocessedImages
from ckncuda.images.sources import ArrayImages


@pytest.fixture
def smooth(rng):
    """Images whose neighbouring pixels are alike, as those of photographs."""
    noise = rng.normal(size=(60, 14, 14, 3))
    for axis in (1, 2):
        for _ in range(4):
            noise = noise + np.roll(noise, 1, axis)
    return (noise + 3).astype(np.float32)


def test_bytes_become_zero_to_one():
    assert as_float(np.array([0, 51, 255], np.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    floats = np.array([0.5, -3], np.float32)
    assert np.array_equal(as_float(floats), floats)


def test_standardize(smooth):
    before = smooth.copy()
    out = Standardize().apply(smooth)
    np.testing.assert_allclose(out.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axis=(1, 2)), 1, rtol=1e-4)
    assert np.array_equal(smooth, before)
    assert out.dtype == np.float32


def test_standardize_of_constant_channels_is_zero():
    images = np.full((2, 5, 5, 3), 0.1, np.float32)
    images[:, :, :, 0] = 1e6
    assert np.array_equal(Standardize().apply(images), np.zeros_like(images))


def whiten_one_image(image, k, power):
    """Local whitening as it is defined, patch by patch, in float64."""
    h, w, c = image.shape
    patches, places = [], []
    for y in range(h - k + 1):
        for x in range(w - k + 1):
            patch = image[y : y + k, x : x + k].astype(np.float64)
            patches.append((patch - patch.mean(axis=(0, 1))).ravel())
            places.append((y, x))
    patches = np.array(patches)
    eigenvalues, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    factors = np.array([v**-power if v > 1e-6 * eigenvalues.max() else 0 for v in eigenvalues])
    whitened = patches @ (vectors * factors) @ vectors.T
    total, count = np.zeros((h, w, c)), np.zeros((h, w, 1))
    for (y, x), patch in zip(places, whitened, strict=True):
        total[y : y + k, x : x + k] += patch.reshape(k, k, c)
        count[y : y + k, x : x + k] += 1
    return total / count


@pytest.mark.parametrize("power", [0.25, 0.5])
@pytest.mark.parametrize("k", [2, 3])
def test_local_whitening_is_the_definition(smooth, k, power):
    out = LocalWhitening(patch=k, power=power).apply(smooth[:4])
    for image, expected in zip(out, smooth[:4], strict=True):
        np.testing.assert_allclose(image, whiten_one_image(expected, k, power), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, 254.7, 1e-4])
def test_constant_images_become_zero_and_not_noise(value, smooth):
    constant = np.full((1, 14, 14, 3), value, np.float32)
    for preprocessor in (LocalWhitening(), LocalWhitening(power=0.5)):
        assert np.array_equal(preprocessor.apply(constant), np.zeros_like(constant))
    zca = ZCA(epsilon=0.5).fit(ArraySource(smooth))
    of_zero = zca.apply(np.zeros((1, 14, 14, 3), np.float32))
    np.testing.assert_allclose(zca.apply(constant), of_zero, atol=1e-6)


def test_whitening_of_large_images_takes_few_at_a_time(monkeypatch, smooth):
    whole = LocalWhitening().apply(smooth)
    monkeypatch.setattr("ckncuda.images.preprocess.BLOCK_BYTES", 1)
    np.testing.assert_allclose(LocalWhitening().apply(smooth), whole, atol=1e-6)


def test_zca_is_the_definition(smooth):
    images = smooth[:, :6, :6]
    zca = ZCA(epsilon=0.1).fit(ArraySource(images))
    rows = images.reshape(60, -1).astype(np.float64)
    rows = (rows - rows.mean(axis=1, keepdims=True)) / rows.std(axis=1, keepdims=True)
    mean = rows.mean(axis=0)
    covariance = (rows - mean).T @ (rows - mean) / 60
    eigenvalues, vectors = np.linalg.eigh(covariance)
    expected = (rows - mean) @ (vectors / np.sqrt(eigenvalues / eigenvalues.mean() + 0.1)) @ vectors.T
    np.testing.assert_allclose(zca.apply(images).reshape(60, -1), expected, rtol=1e-3, atol=1e-3)


def test_zca_whitens_with_a_small_epsilon(rng):
    mixing = rng.normal(size=(27, 27))
    images = (rng.normal(size=(4000, 27)) @ mixing).reshape(4000, 3, 3, 3).astype(np.float32)
    out = ZCA(epsilon=1e-6).fit(ArraySource(images)).apply(images).reshape(4000, -1).astype(np.float64)
    eigenvalues = np.linalg.eigvalsh(np.cov(out.T))
    np.testing.assert_allclose(eigenvalues[2:] / eigenvalues[-1], 1, rtol=0.1)  # centring takes one direction


def test_zca_round_trip_and_images_that_were_not_seen(smooth):
    zca = ZCA(epsilon=0.3).fit(ArraySource(smooth[:40]))
    again = preprocessor_from_dict(zca.to_dict()).with_arrays(zca.arrays())
    assert np.array_equal(again.apply(smooth[40:]), zca.apply(smooth[40:]))
    assert np.array_equal(zca.apply(smooth)[40:], zca.apply(smooth[40:]))


def test_what_cannot_be_whitened_is_refused(smooth):
    with pytest.raises(InvalidSpec, match="call fit first"):
        ZCA().apply(smooth)
    with pytest.raises(InvalidSpec, match="100x100x3 have 30000 numbers.*local_whitening"):
        ZCA().fit(ArraySource(np.zeros((10, 100, 100, 3), np.float32)))
    with pytest.raises(InvalidSpec, match="patches of 3x3 are larger than the images of 2x8"):
        LocalWhitening().apply(smooth[:, :2, :8])


def test_auto_whitens_raw_images_only(smooth, rng):
    noise, black = rng.normal(size=(60, 14, 14, 3)), np.zeros((3, 8, 8, 3), np.uint8)
    assert suggested_preprocessing(ArraySource(smooth)) == (LocalWhitening(),)
    for images in (noise, black, smooth[:, :2]):  # of the last there is no room for a patch
        assert suggested_preprocessing(ArraySource(images)) == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "pca"}, "there is no preprocessing 'pca'; there is standardize, local_whitening, zca"),
        ({}, "there is no preprocessing None"),
        ({"name": "zca", "epsilon": 0}, "epsilon is 0"),
        ({"name": "zca", "strength": 1}, "zca has no option 'strength'; it has epsilon"),
        ({"name": "zca", "epsilon": "much"}, "epsilon is 'much'; it must be a positive number"),
        ({"name": "local_whitening", "patch": 1}, "patch is 1"),
        ({"name": "local_whitening", "power": 1}, "power is 1"),
        ({"name": "standardize", "epsilon": 1}, "standardize has no option 'epsilon'; it has none"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InvalidSpec, match=message):
        preprocessor_from_dict(options)


def test_preprocessing_on_the_host_has_one_thread_of_blas(smooth):
    """A sum of several threads may round differently each time, and these bits outlive a process."""
    seen = []

    class Noted(Standardize):
        def fit(self, images, progress=None):
            seen.extend(blas_threads())
            return self

        def apply(self, images):
            seen.extend(blas_threads())
            return super().apply(images)

    def blas_threads():
        return [lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        assert 2 in blas_threads()
        PreprocessedImages.learn(ArrayImages(smooth), [Noted()]).read(0, 3)
    assert set(seen) == {1}


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-14, 1e17, 1e19, 1e30])
@pytest.mark.parametrize("step", [Standardize(), LocalWhitening(), ZCA(0.1)])
def test_huge_and_tiny_images_are_not_taken_for_constant_ones(smooth, scale, step):
    """Squares of such values overflow float32, or vanish."""
    scale = np.float32(2.0 ** round(np.log2(scale)))  # exact, so that results are the same but for a factor
    if isinstance(step, ZCA):
        step = step.fit(ArrayImages(smooth))
    out, expected = step.apply(smooth * scale), step.apply(smooth)
    if isinstance(step, LocalWhitening):  # of power 1/4: the square root of the scale is left
        expected = expected.astype(np.float64) * np.sqrt(float(scale))
    assert np.isfinite(out).all()
    assert np.abs(out).max() > 0
    np.testing.assert_allclose(out / np.abs(expected).max(), expected / np.abs(expected).max(), atol=1e-4)


def test_constant_images_are_constant_at_any_scale():
    for value in (1e-30, 1e-14, 1e17, 1e30):
        images = np.full((2, 6, 6, 3), value, np.float32)
        assert not Standardize().apply(images).any()
