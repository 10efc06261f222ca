import os
import shutil

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
            r"b\.png is 9x7 pixels.*expected 8x6 as a\.png is: crop.*ImageOps\.fit\(picture, \(8, 6\)\)",
        ),
        ({"a.png": np.full((6, 8), 40000, np.uint16)}, r"a\.png has more than 8 bits"),
        ({"a/1.png": colour(), "1.png": colour()}, r"both images \(1\.png\) and sub-folders \(a\)"),
        (
            {"train/cat/1.png": colour(), "val/cat/1.png": colour()},
            r"holds the splits train, val; expected one of them: give .*/train or .*/val, or --split train",
        ),
        ({"photos/cat/1.png": colour()}, r"photos holds sub-folders \(cat\).*you mean to give .*photos$"),
        ({"cat/x/1.png": colour(), "dog/1.png": colour()}, r"cat holds sub-folders \(x\)"),
        (
            {"seg_pred/cat/1.png": colour(), "seg_train/cat/1.png": colour(), "x/1.png": colour()},
            r"you mean to give .*/seg_pred or .*/seg_train$",
        ),
        ({"a.heic": b"", "notes.txt": b""}, r"holds no images but a\.heic, notes\.txt; expected"),
        ({"cat/a.heic": b"", "dog/1.png": colour()}, r"cat holds no images but a\.heic; expected"),
        ({"a.png": colour(), "b.png": b"<html>not found</html>"}, r"cannot read the image .*b\.png"),
        ({}, "holds no images; expected files such as"),
        ({"a/1.png": colour(), "b/.hidden": b""}, "b holds no images; expected those of a class"),
    ],
    ids=[
        *(
            "size",
            "bits",
            "beside classes",
            "splits",
            "too high",
            "too deep",
            "several too high",
            "others",
            "others of a class",
        ),
        *("no image", "empty", "empty class"),
    ],
)
def test_folders_that_are_no_data_set(tmp_path, images, message):
    for name, content in images.items():
        save(tmp_path / name, content)
    with pytest.raises(InvalidData, match=message):
        open_images(tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_folder_that_is_meant_is_that_of_the_split(tmp_path, split):
    for name in ("seg_pred", "seg_test", "seg_train", "photos"):
        save(tmp_path / name / "cat" / "1.png", colour())
    with pytest.raises(InvalidData, match=rf"perhaps you mean to give \S+/seg_{split}$"):
        open_images(tmp_path, split=split)


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
    with pytest.raises(InvalidData, match=r"a\.png (has|was) (changed|become shorter)"):
        source.read(0, 1)


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPEG", ".Jpg", ".PGM", ".apng", ".dib", ".TIFF"])
def test_less_usual_names_are_read(tmp_path, suffix):
    format = {".pgm": "PPM", ".apng": "PNG", ".dib": "BMP", ".tiff": "TIFF"}.get(suffix.lower(), "JPEG")
    for name in ("a", "b"):
        Image.fromarray(colour()[..., 0]).save(tmp_path / f"{name}{suffix}", format)
    source = open_images(tmp_path)
    assert (len(source), source.notes) == (2, ())


def test_other_files_are_counted_and_named(tmp_path):
    save(tmp_path / "1.png", colour())
    others = ("a.heic", "b.HEIF", "c.avif", "d.jxl", "e", "f.svg", "no\x1b[31mtes.txt")
    for name in others:
        (tmp_path / name).touch()
    (note,) = open_images(tmp_path).notes
    assert note == (
        "7 files are no pictures that are read, and passed over: a.heic, b.HEIF, c.avif, d.jxl, e and 2 more"
    )
    for name in others[:-1]:
        (tmp_path / name).unlink()
    (note,) = open_images(tmp_path).notes
    assert note == r"1 file is no picture that is read, and passed over: no\x1b[31mtes.txt"


COMPANIONS = (
    *("__MACOSX", "@eaDir", ".ipynb_checkpoints", "@Recycle", "$RECYCLE.BIN", "lost+found", "#snapshot"),
    *("@Recently-Snapshot", "Network Trash Folder", "Temporary Items", "RECYCLER", "LOST.DIR", "__pycache__"),
)


@pytest.mark.parametrize("flat", [True, False])
def test_what_file_managers_leave_is_no_class_and_no_image(tmp_path, flat):
    names = ["1.png", "2.png"] if flat else ["cat/1.png", "dog/1.png"]
    for name in names:
        save(tmp_path / name, colour())
    for name in COMPANIONS:
        save(tmp_path / name / "1.png", colour())
        save(tmp_path / "cat" / name / "1.png", colour()) if not flat else None
    folder = tmp_path if flat else tmp_path / "cat"
    for name in (".DS_Store", "Thumbs.db", "._1.png", "desktop.ini", "ehthumbs.db"):
        (folder / name).write_bytes(b"passed over")
    source = open_images(tmp_path)
    assert (len(source), source.notes) == (2, ())
    assert source.class_names == (None if flat else ("cat", "dog"))
    assert source.files == tuple(names)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_further_pages_are_said(tmp_path, suffix):
    pages = [Image.fromarray(colour()) for _ in range(4)]
    pages[0].save(tmp_path / f"x{suffix}", save_all=True, append_images=[page.copy() for page in pages[1:]])
    (note,) = open_images(tmp_path).notes
    assert note == f"1 file has several pages or frames, of which the first is read: x{suffix} (4)"


def test_photographs_of_one_displayed_size_go_together(tmp_path):
    upright, lying = colour(), colour()
    save(tmp_path / "1.png", upright)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter to the right
    Image.fromarray(np.rot90(lying)).save(tmp_path / "2.png", exif=exif)
    source = open_images(tmp_path)
    assert source.shape == (2, 6, 8, 3)
    np.testing.assert_array_equal(source.read(0, 2), [upright, lying])


@pytest.fixture
def splits(tmp_path):
    for split, n in (("train", 3), ("Test", 1), ("val", 2)):
        for kind in ("cat", "dog"):
            for i in range(n):
                save(tmp_path / split / kind / f"{i}.png", colour())
    return tmp_path


def test_splits_of_a_folder(splits):
    for split, n in (("train", 6), ("test", 2)):
        source = open_images(splits, split=split)
        assert (len(source), source.class_names) == (n, ("cat", "dog"))
    with pytest.raises(InvalidData, match="the splits Test, train, val; .*--split train or --split test"):
        open_images(splits)
    shutil.rmtree(splits / "train")
    with pytest.raises(InvalidData, match="the splits Test, val, but no train split; expected one of them"):
        open_images(splits, split="train")


def test_the_only_split_is_read(tmp_path):
    save(tmp_path / "train" / "cat" / "1.png", colour())
    assert open_images(tmp_path).class_names == ("cat",)
    with pytest.raises(InvalidData, match="the splits train, but no test split"):
        open_images(tmp_path, split="test")


@pytest.mark.parametrize("classes", [("train", "bus"), ("test", "control"), ("train",)])
def test_classes_may_be_called_as_splits_are(tmp_path, classes):
    for name in classes:
        save(tmp_path / name / "1.png", colour())
    assert open_images(tmp_path, split="train").class_names == tuple(sorted(classes))


def test_grey_pictures_are_delivered_in_colour_where_that_is_asked_for(tmp_path):
    grey = [save(tmp_path / f"{n}.png", RNG.integers(0, 256, (6, 8), np.uint8)) for n in (1, 2)]
    expected = np.repeat(np.array(grey)[..., None], 3, 3)
    assert open_images(tmp_path).shape == (2, 6, 8, 1)
    for options in ({"channels": 3}, {"image_shape": (6, 8, 3)}):
        np.testing.assert_array_equal(open_images(tmp_path, **options).read(0, 2), expected)


@pytest.mark.parametrize("options", [{"channels": 1}, {"image_shape": (6, 8, 1)}])
def test_coloured_pictures_are_refused_where_grey_ones_are_asked_for(tmp_path, options):
    save(tmp_path / "a.png", RNG.integers(0, 256, (6, 8), np.uint8))
    save(tmp_path / "b.png", colour())
    with pytest.raises(InvalidData, match=r"b\.png is in colour; expected grey pictures.*convert"):
        open_images(tmp_path, **options)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.bmp", "x.PPM", "x", "x.gif", "x.tif"])
def test_one_picture_is_a_data_set_of_one(tmp_path, name):
    image = Image.new("RGB", (8, 6), (200, 0, 0))
    image.save(tmp_path / "file", {"x": "PNG"}.get(name) or Image.registered_extensions()[name[1:].lower()])
    (tmp_path / "file").rename(tmp_path / name)
    source = open_images(tmp_path / name)
    assert (source.shape, source.labels, source.files) == ((1, 6, 8, 3), None, (name,))
    assert source.description == f"picture {name}, 1 image of 6x8x3"
    assert abs(source.read(0, 1)[0, 3, 3].astype(int) - (200, 0, 0)).max() < 4


@pytest.mark.parametrize("name", ["fifo.png", "cat/fifo.jpg"])
def test_pipes_among_pictures_are_refused_at_once(tmp_path, name):
    save(tmp_path / name.replace("fifo", "a"), colour())
    os.mkfifo(tmp_path / name)
    with pytest.raises(InvalidData, match=r"fifo.* is a pipe"):
        open_images(tmp_path)


def test_names_of_files_do_not_reach_the_terminal(tmp_path):
    save(tmp_path / "1.png", colour())
    (tmp_path / "2\x1b]0;x\x07.png").write_bytes(b"no picture")
    with pytest.raises(InvalidData, match=r"2\\x1b\]0;x\\x07\.png") as caught:
        open_images(tmp_path)
    assert "\x1b" not in str(caught.value)
