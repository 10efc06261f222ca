import numpy as np
import pytest
from PIL import Image

from ckncuda.data import open_images
from ckncuda.errors import InvalidData

RNG = np.random.default_rng(0)


def colour():
    return RNG.integers(0, 256, (6, 8, 3), np.uint8)


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).convert(mode).save(path) if mode else Image.fromarray(array).save(path)
    return array


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif", ".ppm"])
def test_flat_folder_in_natural_order(tmp_path, suffix):
    expected = [save(tmp_path / f"image{n}{suffix}", colour()) for n in (1, 2, 10, 11, 100)]
    with open_images(tmp_path) as source:
        assert source.shape == (5, 6, 8, 3)
        assert source.dtype == np.uint8
        assert source.labels is None
        assert source.class_names is None
        np.testing.assert_array_equal(np.concatenate(list(source.blocks(2))), expected)


def test_a_sub_folder_a_class(tmp_path):
    expected = [
        save(tmp_path / name / f"{i}.png", colour()) for name in ("2 cat", "10 ant", "bee") for i in range(2)
    ]
    (tmp_path / "README.txt").write_text("passed over")
    (tmp_path / ".DS_Store").write_text("passed over")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "bee" / ".hidden.png").write_text("passed over")
    source = open_images(tmp_path)
    assert source.class_names == ("2 cat", "10 ant", "bee")
    assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]
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


def test_greyscale_among_colours(tmp_path):
    grey, rgb = RNG.integers(0, 256, (6, 8), np.uint8), colour()
    save(tmp_path / "a.png", grey)
    save(tmp_path / "b.png", rgb, "RGBA")
    source = open_images(tmp_path)
    assert source.shape == (2, 6, 8, 3)
    np.testing.assert_array_equal(source.read(0, 2), [np.repeat(grey[..., None], 3, 2), rgb])


def test_palette(tmp_path):
    two = np.zeros((6, 8, 3), np.uint8)
    two[2:4] = 255, 0, 0
    save(tmp_path / "a.png", two, "P")
    source = open_images(tmp_path)
    assert source.shape == (1, 6, 8, 3)
    np.testing.assert_array_equal(source.read(0, 1)[0], two)


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
    ],
    ids=["size", "bits", "beside classes", "too deep"],
)
def test_folders_that_are_no_data_set(tmp_path, images, message):
    for name, array in images.items():
        save(tmp_path / name, array)
    with pytest.raises(InvalidData, match=message):
        open_images(tmp_path)


def test_no_image(tmp_path):
    save(tmp_path / "a.png", colour())
    (tmp_path / "b.png").write_bytes(b"<html>not found</html>")
    with pytest.raises(InvalidData, match=r"cannot read the image .*b\.png"):
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


def test_empty_folders(tmp_path):
    with pytest.raises(InvalidData, match="holds no images; expected files such as"):
        open_images(tmp_path)
    save(tmp_path / "a" / "1.png", colour())
    (tmp_path / "b").mkdir()
    with pytest.raises(InvalidData, match="b holds no images; expected those of a class"):
        open_images(tmp_path)
