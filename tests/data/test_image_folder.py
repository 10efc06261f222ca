import numpy as np
import pytest
from PIL import Image

from ckncuda.data import open_images
from ckncuda.errors import InvalidData

RNG = np.random.default_rng(0)


def colour():
    return RNG.integers(0, 256, (6, 8, 3), np.uint8)


def save(path, content, mode=None):
    """Write an image, or bytes that are none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        image = Image.fromarray(content)
        (image.convert(mode) if mode else image).save(path)
    return content


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif", ".ppm"])
def test_flat_folder_in_natural_order(tmp_path, suffix):
    expected = [save(tmp_path / f"image{n}{suffix}", colour()) for n in (1, 2, 10, 11, 100)]
    with open_images(tmp_path) as source:
        assert (source.shape, source.dtype) == ((5, 6, 8, 3), np.uint8)
        assert source.labels is source.class_names is None
        np.testing.assert_array_equal(np.concatenate(list(source.blocks(2))), expected)


def test_a_sub_folder_a_class(tmp_path):
    classes = ("2 cat", "10 ant", "bee")
    expected = [save(tmp_path / name / f"{i}.png", colour()) for name in classes for i in range(2)]
    (tmp_path / ".cache").mkdir()
    for name in ("README.txt", ".DS_Store", "bee/.hidden.png"):
        (tmp_path / name).write_text("passed over")
    source = open_images(tmp_path)
    assert (source.class_names, source.labels.tolist()) == (classes, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(source.read(1, 5), expected[1:5])


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats(tmp_path, suffix):
    ramp = np.broadcast_to(np.arange(0, 240, 30, np.uint8)[None, :, None], (6, 8, 3))
    save(tmp_path / f"a{suffix}", np.ascontiguousarray(ramp))
    assert np.abs(open_images(tmp_path).read(0, 1)[0].astype(int) - ramp).max() < 30


def test_greyscale(tmp_path):
    grey = RNG.integers(0, 256, (6, 8), np.uint8)
    save(tmp_path / "a.png", grey)
    save(tmp_path / "b.png", grey, "LA")
    save(tmp_path / "c.png", np.where(grey > 99, 255, 0).astype(np.uint8), "1")
    source = open_images(tmp_path)
    assert source.shape == (3, 6, 8, 1)
    block = source.read(0, 3)[..., 0]
    np.testing.assert_array_equal(block, [grey, grey, np.where(grey > 99, 255, 0)])


def test_greyscale_and_palettes_among_colours(tmp_path):
    grey, rgb = RNG.integers(0, 256, (6, 8), np.uint8), colour()
    two = np.zeros((6, 8, 3), np.uint8)
    two[2:4] = 255, 0, 0
    save(tmp_path / "a.png", grey)
    save(tmp_path / "b.png", rgb, "RGBA")
    save(tmp_path / "c.png", two, "P")
    source = open_images(tmp_path)
    assert source.shape == (3, 6, 8, 3)
    np.testing.assert_array_equal(source.read(0, 3), [np.repeat(grey[..., None], 3, 2), rgb, two])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            {"a.png": colour(), "b.png": np.zeros((7, 9, 3), np.uint8)},
            r"b\.png is 9x7 pixels.*expected 8x6 as a\.png is: crop or resize",
        ),
        ({"a.png": np.full((6, 8), 40000, np.uint16)}, r"a\.png has more than 8 bits"),
        ({"a/1.png": colour(), "1.png": colour()}, r"both images \(1\.png\) and sub-folders \(a\)"),
        (
            {"train/cat/1.png": colour(), "val/cat/1.png": colour()},
            r"sub-folders \(cat\).*perhaps you mean to give .*train",
        ),
        ({"a.png": colour(), "b.png": b"<html>not found</html>"}, r"cannot read the image .*b\.png"),
        ({}, "holds no images; expected files such as"),
        ({"a/1.png": colour(), "b/.hidden": b""}, "b holds no images; expected those of a class"),
    ],
    ids=["size", "bits", "beside classes", "too deep", "no image", "empty", "empty class"],
)
def test_folders_that_are_no_data_set(tmp_path, images, message):
    for name, content in images.items():
        save(tmp_path / name, content)
    with pytest.raises(InvalidData, match=message):
        open_images(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_truncated_image(tmp_path, suffix):
    path = tmp_path / f"b{suffix}"
    save(path, RNG.integers(0, 256, (50, 50, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InvalidData, match=rf"cannot read the image .*b\{suffix}"):
        open_images(tmp_path).read(0, 1)


def test_changed_while_open(tmp_path):
    save(tmp_path / "a.png", colour())
    source = open_images(tmp_path)
    save(tmp_path / "a.png", np.zeros((7, 9, 3), np.uint8))
    with pytest.raises(InvalidData, match="has changed"):
        source.read(0, 1)
