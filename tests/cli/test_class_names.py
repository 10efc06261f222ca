"""Folders of images, whose classes have names."""

import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

import ckncuda
from ckncuda.data import open_images, read_labels

LEVELS = {"cat": 40, "dog": 120, "fish": 200, "bird": 90, "1": 40, "2": 120, "10": 200, "-1": 40, "07": 120}


@pytest.fixture
def make(tmp_path, rng):
    """Make folders of classes that differ in brightness."""

    def make(name, classes, level=LEVELS.get, n=12, mode="RGB", size=12):
        for kind in classes:
            folder = tmp_path / name / kind
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.normal(level(kind), 10, size=(size, size, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).convert(mode).save(folder / f"{i}.png")
        return tmp_path / name

    return make


@pytest.fixture
def folders(tmp_path, make):
    """Three classes that differ in brightness; a folder with two of them alone; one with another class."""
    make("all", ("cat", "dog", "fish"))
    make("other", ("bird", "dog"))
    for kind in ("dog", "fish"):
        shutil.copytree(tmp_path / "all" / kind, tmp_path / "some" / kind)
    return tmp_path


@pytest.fixture
def without_shape(tiny):
    return [option for option in tiny if option not in ("--image-shape", "12x12x3")]


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD"), ("NFC", "NFC")])
def test_names_are_the_same_however_accents_are_kept(works, make, tmp_path, without_shape, forms):
    """As on a Macintosh, and elsewhere."""
    names = {"café": 40, "naïve": 120, "año": 200}
    for folder, form in zip(("fitted", "seen"), forms, strict=True):
        of = {unicodedata.normalize(form, name): level for name, level in names.items()}
        make(folder, of, of.get)
    works("fit", "fitted", "-o", "m.ckn", *without_shape)
    assert works("evaluate", "m.ckn", "seen", "--json").told["accuracy"] > 0.7


@pytest.mark.parametrize(("n", "is_said"), [(9, False), (12, True)])
def test_the_order_of_files_that_labels_have_is_said(works, make, tmp_path, without_shape, n, is_said):
    folder = make("all", ["cat"], n=n) / "cat"
    np.save(tmp_path / "y.npy", np.arange(n) % 2)
    said = works("fit", folder, "--labels", "y.npy", "-o", "m.ckn", *without_shape).stderr
    note = f"Note: labels are those of the files in natural order, 1 0.png to {n} {n - 1}.png"
    assert (note in said) == is_said


def rows(path):
    """The cells of a submission, once its header is as it must be."""
    header, *lines = path.read_text().splitlines()
    assert header == "Id,Prediction"
    return [line.split(",") for line in lines]


def test_classes_are_matched_by_name(works, refused, folders, without_shape):
    works("fit", "all", "-o", "m.ckn", *without_shape)
    everything = works("evaluate", "m.ckn", "all", "--json").told
    assert everything["accuracy"] > 0.9
    assert everything["class_names"] == ["cat", "dog", "fish"]
    some = works("evaluate", "m.ckn", "some", "--json").told
    assert some["correct"] == everything["confusion"][1][1] + everything["confusion"][2][2] > 12
    assert "class names    0 cat, 1 dog, 2 fish" in works("info", "m.ckn").stdout
    assert [
        line.split()[0] for line in reversed(works("evaluate", "m.ckn", "all").stdout.splitlines()[-3:])
    ] == ["fish", "dog", "cat"]
    refused("evaluate", "m.ckn", "other", words=["does not know the classes bird", "cat, dog, fish"])


SHUFFLED = {"cat": 2, "dog": 0, "fish": 1}


@pytest.mark.parametrize("how", ["command", "python", "method"])
@pytest.mark.parametrize("form", ["csv", "npy"])
def test_labels_of_a_file_have_no_names(works, refused, folders, without_shape, how, form):
    """The labels' file numbers the classes otherwise than the folders do: no name must be told for them."""
    labels = np.repeat([SHUFFLED[name] for name in ("cat", "dog", "fish")], 12)
    if form == "csv":
        (folders / "y.csv").write_text("".join(f"{i},{label}\n" for i, label in enumerate(labels, 1)))
    else:
        np.save(folders / "y.npy", labels)
    if how == "command":
        works("fit", "all", "--labels", f"y.{form}", "-o", "m.ckn", *without_shape)
    else:
        source, given = open_images(folders / "all"), read_labels(folders / f"y.{form}", 36)
        spec = ckncuda.LayerSpec(filters=4, patch=3, subsampling=2, kernel=ckncuda.Exponential(sigma=0.6))
        encoders = [ckncuda.EncoderSpec([spec], ())]
        if how == "method":
            model = ckncuda.Model.fit(source, given, encoders, classifier=ckncuda.Ridge())
        else:
            model = ckncuda.fit(source, given, system=ckncuda.System(encoders, patches=300))
        model.save(folders / "m.ckn")
    assert ckncuda.load(folders / "m.ckn").class_names is None
    assert works("evaluate", "m.ckn", "all", "--labels", f"y.{form}", "--json").told["accuracy"] > 0.9
    words = ["all names the classes cat, dog, fish", "by number alone", "--labels"]
    refused("evaluate", "m.ckn", "all", words=words)
    works("predict", "m.ckn", "all", "-o", "s.csv")
    assert rows(folders / "s.csv")[0] == ["1", "2"]


def test_labels_of_a_file_that_agree_with_the_folders_keep_the_names(works, folders, without_shape):
    np.save(folders / "y.npy", np.repeat([0, 1, 2], 12))
    works("fit", "all", "--labels", "y.npy", "-o", "m.ckn", *without_shape)
    assert ckncuda.load(folders / "m.ckn").class_names == ("cat", "dog", "fish")


NAMES = [("1", "2", "10"), ("cat", "dog", "fish"), ("-1", "2", "10"), ("1", "07", "fish"), ("cat", "2", "10")]


@pytest.mark.parametrize("names", NAMES, ids="-".join)
def test_predictions_are_the_names_of_the_folders(works, make, tmp_path, without_shape, names):
    make("train", names)
    test = make("test", ["all"], level=lambda kind: LEVELS[names[0]])
    works("fit", "train", "-o", "m.ckn", *without_shape)
    done = works("predict", "m.ckn", test / "all", "-o", "s.csv", "--json")
    assert done.told["class_names"] == list(ckncuda.load(tmp_path / "m.ckn").class_names)
    assert "Note: ids count the files in natural order, 1 0.png to 12 11.png" in done.stderr
    predicted = rows(tmp_path / "s.csv")
    assert [id_ for id_, _ in predicted] == [str(i) for i in range(1, 13)]
    assert [label for _, label in predicted].count(names[0]) > 9
    done = works("predict", "m.ckn", test / "all", "-o", "s.csv", "--numbers", "--files")
    predicted = rows(tmp_path / "s.csv")
    assert [id_ for id_, _ in predicted] == [f"{i}.png" for i in range(12)]
    number = ckncuda.load(tmp_path / "m.ckn").class_names.index(names[0])
    assert [label for _, label in predicted].count(str(number)) > 9
    assert f"{number} {names[0]}" in done.stderr


def test_classes_named_by_integers_are_these_integers(works, make, tmp_path, without_shape):
    make("train", ("1", "2", "10"))
    works("fit", "train", "-o", "m.ckn", *without_shape)
    told = works("evaluate", "m.ckn", "train", "--json").told
    assert (told["classes"], told["accuracy"] > 0.9) == ([1, 2, 10], True)
    assert [line.split()[0] for line in works("evaluate", "m.ckn", "train").stdout.splitlines()[-3:]] == [
        "1",
        "2",
        "10",
    ]
    works("predict", "m.ckn", "train", "-o", "s.csv")
    again = works("evaluate", "m.ckn", "train", "--labels", "s.csv", "--json")
    assert again.told["accuracy"] == 1
    assert "never saw" not in again.stderr
    # Numbers of a data set without folders are the integers that folders are named by.
    images = open_images(tmp_path / "train")
    np.savez(tmp_path / "x.npz", images=images.read(0, 36), labels=np.repeat([1, 2, 10], 12))
    assert works("evaluate", "m.ckn", "x.npz", "--json").told == told
    works("fit", "x.npz", "-o", "n.ckn", *without_shape)
    assert works("evaluate", "n.ckn", "train", "--json").told == told


def test_the_baseline_tells_names_too(works, make, tmp_path):
    make("train", ("1", "2", "10"), size=16)
    works("baseline", "train", "--predict", "train", "-o", "b.csv")
    assert {label for _, label in rows(tmp_path / "b.csv")} <= {"1", "2", "10"}


def test_files_names_need_a_folder(refused, data, model):
    refused("predict", model, data.npy, "-o", "s.csv", "--files", words=["--files is for folders"])


def test_one_picture_is_predicted(works, make, tmp_path, without_shape):
    make("train", ("cat", "dog", "fish"))
    works("fit", "train", "-o", "m.ckn", *without_shape)
    works("predict", "m.ckn", "train/fish/3.png", "-o", "s.csv")
    assert rows(tmp_path / "s.csv") == [["1", "fish"]]


def test_grey_pictures_for_a_model_of_coloured_ones_and_the_reverse(
    works, refused, make, tmp_path, without_shape
):
    make("colour", ("cat", "dog", "fish"))
    make("grey", ("cat", "dog", "fish"), mode="L")
    works("fit", "colour", "-o", "m.ckn", *without_shape)
    assert works("evaluate", "m.ckn", "grey", "--json").told["accuracy"] > 0.8
    works("fit", "grey", "-o", "g.ckn", *without_shape)
    refused("evaluate", "g.ckn", "colour", words=["0.png is in colour", "expected grey pictures", "convert"])


def test_what_was_passed_over_is_said(works, make, tmp_path, without_shape):
    make("train", ("cat", "dog", "fish"))
    (tmp_path / "train" / "cat" / "x.heic").touch()
    (tmp_path / "train" / "__MACOSX").mkdir()
    done = works("fit", "train", "-o", "m.ckn", *without_shape)
    note = "Note: 1 file is no picture that is read, and passed over: cat/x.heic"
    assert note in done.stderr.splitlines()
    assert ckncuda.load(tmp_path / "m.ckn").class_names == ("cat", "dog", "fish")


def test_no_escape_sequence_reaches_the_terminal_or_a_submission(works, make, tmp_path, without_shape):
    names = ["=cat", "dog\x1b[31m", "@fish"]
    make("train", names, level=lambda kind: {"=": 40, "d": 120, "@": 200}[kind[0]])
    works("fit", "train", "-o", "m.ckn", *without_shape)
    for options in ((), ("--numbers",), ("--files",)):
        done = works("predict", "m.ckn", "train", "-o", "s.csv", *options)
        assert "\x1b" not in done.stdout + done.stderr + (tmp_path / "s.csv").read_text()
    works("predict", "m.ckn", "train", "-o", "s.csv")
    assert {label for _, label in rows(tmp_path / "s.csv")} == {"'=cat", r"dog\x1b[31m", "'@fish"}
    done = works("evaluate", "m.ckn", "train")
    assert "\x1b" not in done.stdout + done.stderr


def test_labels_that_the_model_never_saw_are_said(works, data, model, tmp_path):
    np.save(tmp_path / "labels.npy", np.full(40, 77))
    done = works("evaluate", model, data.npy, "--labels", "labels.npy", "--json")
    assert done.told["accuracy"] == 0
    assert "never saw the labels 77" in done.stderr
