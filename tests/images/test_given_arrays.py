"""Whatever is given from Python as images: read as it should be, or refused with a way out that works."""

import re

import numpy as np
import pytest
from factories import model_of, stripes

import ckncuda
from ckncuda.data import open_images
from ckncuda.errors import CknError, InvalidData, InvalidSpec
from ckncuda.images.preprocessed import PreprocessedImages
from ckncuda.images.sources import DeviceImages, as_images, host_images

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)


class Tensor:
    """A tensor as PyTorch's: an array behind DLPack, with names of its own for types and axes."""

    def __init__(self, array, dtype=None, requires_grad=False, device=1):
        self.array, self.requires_grad, self.device = array, requires_grad, device
        self.dtype = f"torch.{dtype or array.dtype}"
        self.shape = array.shape

    def __dlpack_device__(self):
        return self.device, 0

    def __dlpack__(self, **options):
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        if "bfloat16" in self.dtype:
            raise RuntimeError("Unsupported dtype in DLTensor.")
        return self.array.__dlpack__(**options)

    def __getitem__(self, index):
        return Tensor(self.array[index], device=self.device)

    def permute(self, *axes):
        return Tensor(self.array.transpose(axes), device=self.device)

    def transpose(self, first, second):
        return self.permute(*np.swapaxes(np.arange(self.array.ndim)[None], first, second)[0])


class Frame:
    """A table as of pandas: it has a shape, and no type."""

    shape = (6, 60)

    def to_numpy(self):
        return IMAGES.reshape(6, 60)


class Picture:
    """An image as of Pillow: an array when asked."""

    def __array__(self, dtype=None, copy=None):
        return IMAGES[0]


def read(images, **options):
    source = as_images(images, **options)
    assert source.shape == source.read(0, source.shape[0]).shape
    return np.concatenate(list(source.blocks(4)))


def test_images_of_every_whole_type_are_those_of_files(tmp_path):
    for dtype in ("u1", "i8", "i4", ">i2", "u8", "i1", "?"):
        images = (IMAGES % 2).astype(dtype)
        np.save(tmp_path / "x.npy", images)
        with open_images(tmp_path / "x.npy") as source:
            of_file = source.read(0, 6)
        found = read(images)
        assert found.dtype == of_file.dtype == np.uint8
        np.testing.assert_array_equal(found, of_file)


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8", ">f8"])
def test_floating_point_is_taken_as_it_is(dtype):
    images = IMAGES.astype(dtype)
    np.testing.assert_array_equal(read(images), IMAGES.astype(dtype))


def test_views_of_every_kind():
    read_only = IMAGES.copy()
    read_only.flags.writeable = False
    assert np.array_equal(read(read_only), IMAGES)
    assert np.array_equal(read(IMAGES[:, ::-1, ::-1]), IMAGES[:, ::-1, ::-1])
    assert np.array_equal(read(IMAGES[::-1]), IMAGES[::-1])
    assert np.array_equal(read(np.asfortranarray(IMAGES)), IMAGES)
    assert np.array_equal(read(np.broadcast_to(IMAGES[:1], IMAGES.shape)), IMAGES[[0] * 6])
    assert np.array_equal(read(np.ma.array(IMAGES)), IMAGES)
    assert np.array_equal(read(IMAGES[..., 0]), IMAGES[..., :1])


def test_models_take_what_the_same_array_is():
    images, labels = stripes()
    model = model_of(images, labels, (), "numpy")
    expected = model.features(images)
    for same in (images[..., 0], images.astype(np.int64), images.astype(">i4"), Tensor(images)):
        assert np.array_equal(model.features(same), expected)
    first = as_images(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), layout="NCHW")
    assert np.array_equal(model.features(first), expected)
    floats = (images / 255).astype(np.float32)
    model = model_of(floats, labels, (), "numpy")
    expected = model.features(floats)
    for same in (floats.astype(">f4"), np.asfortranarray(floats), np.ma.array(floats)):
        assert np.array_equal(model.features(same), expected)


def test_channels_first():
    first = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
    wide = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), np.uint8)
    for images in (wide, Tensor(wide), wide.astype(np.float32), Tensor(wide, device=2)):
        with pytest.raises(InvalidData, match=r"channels-first.*as_images\(images, layout='NCHW'\)"):
            as_images(images)
    assert np.array_equal(read(first, layout="NCHW"), IMAGES)
    assert np.array_equal(read(Tensor(first), layout="NCHW"), IMAGES)
    assert read(wide, layout="NHWC").shape == (6, 3, 32, 32)
    assert ckncuda.as_images is as_images
    with pytest.raises(InvalidSpec, match="ArrayImages knows its own: leave it out"):
        as_images(as_images(IMAGES), layout="NCHW")


def test_channels_first_on_a_device():
    first = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
    source = as_images(Tensor(first, device=2), layout="NCHW")
    assert isinstance(source, DeviceImages)
    assert source.shape == IMAGES.shape
    assert np.array_equal(source.read(1, 3).array, IMAGES[1:3])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((32, 32, 3), np.uint8), r"looks like one image .*images\[None\]"),
        (IMAGES.reshape(6, -1), r"images\.reshape\(n, height, width, channels\)"),
        ([*IMAGES], r"a list of 6; .*numpy\.stack\(images\)"),
        (tuple(IMAGES), r"a tuple of 6; .*numpy\.stack\(images\)"),
        (IMAGES.tolist(), r"a list of 6; .*numpy\.stack\(images\)"),
        ((image for image in IMAGES), r"of type generator; .*numpy\.stack\(list\(images\)\)"),
        (Frame(), r"Frame; .*images\.to_numpy\(\)\.reshape"),
        (Picture(), r"Picture; .*numpy\.asarray\(images\)"),
        ("x.npy", r"of type str; .*open_images"),
        (b"x.npy", r"of type bytes; .*open_images"),
        (None, r"of type NoneType; expected an array"),
        (3.0, r"of type float; expected an array"),
        ({"images": IMAGES}, r"of type dict; expected an array"),
        (Tensor, r"of type type; expected an array .*not a class"),
        (np.float32(3), r"float32; expected an array"),
        (Tensor(IMAGES, requires_grad=True), r"require gradients.*images\.detach\(\)"),
        (Tensor(IMAGES, dtype="bfloat16"), r"torch\.bfloat16.*Unsupported dtype.*images\.float\(\)"),
        (Tensor(IMAGES, dtype="bfloat16", device=2), r"bfloat16 on a GPU.*images\.float\(\)"),
        (Tensor(IMAGES, dtype="int64", device=2), r"int64 on a GPU"),
        (IMAGES.astype(object), r"type object.*numpy\.stack\(list\(images\)\)"),
        (IMAGES.astype(complex), r"complex128.*images\.real"),
        (IMAGES.astype("U3"), r"<U3; expected integers in 0\.\.255"),
        (IMAGES.astype("M8[s]"), r"datetime64\[s\]; expected integers"),
        (np.zeros((6, 5, 4), [("r", "u1"), ("g", "u1")]), "expected integers in 0..255"),
        (np.ma.array(IMAGES, mask=IMAGES > 200), r"\d+ pixels are masked; .*images\.filled\(0\)"),
        (IMAGES.astype(np.int64) * 2, r"image \d \(counting from 0\) holds \d+ .*must lie in 0\.\.255"),
        (IMAGES.astype(np.int16) - 200, r"image \d \(counting from 0\) holds -\d+ .*must lie in 0\.\.255"),
        (np.zeros((2, 0, 4, 3), np.int64), "at least one pixel"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_array_of_images_is_refused_with_a_way_out(images, message):
    with pytest.raises(InvalidData, match=message):
        as_images(images)
    with pytest.raises(CknError):
        ckncuda.CKN([ckncuda.LayerSpec(4, 3, 2, ckncuda.Exponential(0.6))]).fit(images)


def test_ways_out_work_when_typed():
    lists = [*IMAGES]
    assert np.array_equal(read(np.stack(lists)), IMAGES)
    with pytest.raises(InvalidData) as refusal:
        as_images(Frame())
    frame, advice = Frame(), re.search(r"give (\S+\.reshape)\(", str(refusal.value))[1]
    assert advice == "images.to_numpy().reshape"
    assert np.array_equal(read(frame.to_numpy().reshape(6, 5, 4, 3)), IMAGES)
    masked = np.ma.array(IMAGES, mask=IMAGES > 200)
    assert np.array_equal(read(masked.filled(0)), np.where(IMAGES > 200, 0, IMAGES))


@pytest.mark.parametrize("value", [1e17, 1e19, 1e30, -1e25, 3e38])
def test_pixels_whose_squares_overflow_are_refused(tmp_path, value):
    images, labels = stripes()
    images = (images / 255).astype(np.float32)
    model = model_of(images, labels, (), "numpy")
    images[7, 2, 3, 0] = value
    for compute in (model.features, model.predict, lambda x: list(model.feature_blocks(x)), model.transform):
        with pytest.raises(InvalidData, match=r"image 7 \(counting from 0\) holds .*up to 1e\+16: scale"):
            compute(images)
    np.save(tmp_path / "x.npy", images)
    with (
        open_images(tmp_path / "x.npy") as source,
        pytest.raises(InvalidData, match=r"in image 8 \(row 3, col"),
    ):
        model.features(source)


def test_features_that_are_not_finite_are_not_given(monkeypatch):
    monkeypatch.setattr("ckncuda.given.images.LARGEST_AS_FLOAT32", np.inf)
    images, labels = stripes()
    images = (images / 255).astype(np.float32)
    model = model_of(images, labels, (), "numpy")
    images[7] = 1e30
    for compute in (model.features, lambda x: list(model.feature_blocks(x))):
        with np.errstate(all="ignore"), pytest.raises(InvalidData, match="features of image 7 .* hold NaN"):
            compute(images)


def test_tiny_values_are_not_called_constant():
    images, _ = stripes()
    images = (images / 255).astype(np.float32)
    network = ckncuda.CKN([ckncuda.LayerSpec(4, 3, 2, ckncuda.Exponential(0.6))])
    with pytest.raises(InvalidSpec, match=r"at most \S+e-\d+.*where their values are tiny, scale them"):
        network.fit(images * np.float32(1e-12))


def test_images_in_host_memory():
    assert host_images(IMAGES) is IMAGES
    assert np.array_equal(host_images(IMAGES.astype(int)), IMAGES)
    with pytest.raises(InvalidData, match="on a GPU"):
        host_images(Tensor(IMAGES, device=2))


@pytest.mark.parametrize("shape", [(6, 20, 10), (3, 12, 12), (24, 8, 10), (64, 8, 1), (2, 9, 9)], ids=str)
def test_arrays_of_the_size_that_a_model_knows_are_not_doubted(shape):
    images = np.random.default_rng(0).integers(0, 256, (12, *shape), np.uint8)
    labels = np.arange(12) % 2
    layer = ckncuda.LayerSpec(filters=4, patch=1, subsampling=2, kernel=ckncuda.Exponential(sigma=0.6))
    system = ckncuda.System([ckncuda.EncoderSpec([layer], [])])
    model = ckncuda.fit(as_images(images, layout="NHWC"), labels, system=system)
    expected = model.features(as_images(images, layout="NHWC"))
    for given in (images, images[..., 0], Tensor(images))[:: 1 if shape[2] == 1 else 2]:
        np.testing.assert_array_equal(model.features(given), expected)
        assert model.predict(given).shape == (12,)
    with pytest.raises(InvalidData):
        model.features(images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_some_images_of_another_library_come_to_the_host(layout, device):
    import cupy

    stored = IMAGES if layout == "NHWC" else np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
    images = PreprocessedImages(as_images(Tensor(cupy.asarray(stored), device=2), layout=layout))
    np.testing.assert_array_equal(images.some(np.array([4, 1])), IMAGES[[4, 1]] / np.float32(255))
