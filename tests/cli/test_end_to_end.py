"""ckn fit --end-to-end: options, files on the way, and what is refused."""

import csv
import shlex
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from factories import stripes

import ckncuda
from ckncuda import System
from ckncuda.cli.training_options import TrainingOptions
from ckncuda.files import checkpoint as file

LAYERS = (
    *("--layer", "filters=4,patch=3,subsampling=2,kernel=exp,sigma=0.6"),
    *("--layer", "filters=6,patch=3,subsampling=2,kernel=exp,sigma=0.6"),
    *("--preprocess", "none", "--patches", "500", "--threads", "1"),
)
TRAINED = (*LAYERS, "--end-to-end", "--epochs", "3", "--batch", "16", "--after", "ridge")


@pytest.fixture(scope="session")
def striped(tmp_path_factory):
    """60 images of two classes, in a file."""
    folder = tmp_path_factory.mktemp("striped")
    images, labels = stripes(60)
    np.savez(folder / "xy.npz", images=images, labels=labels)
    np.save(folder / "x.npy", images)
    np.savez(folder / "one.npz", images=images, labels=np.zeros(60, int))
    return folder


@pytest.fixture
def images(striped, tmp_path):
    """The same files in the test's own folder."""
    for path in striped.iterdir():
        (tmp_path / path.name).hardlink_to(path)
    return tmp_path


@pytest.fixture(scope="session")
def whole(striped, ckn):
    """The model that an uninterrupted training leaves."""
    done = ckn("fit", striped / "xy.npz", "-o", striped / "whole.ckn", *TRAINED, "--json")
    assert done.rc == 0, done.stderr
    return striped / "whole.ckn", done


@pytest.fixture
def unfinished(images, works, whole, monkeypatch):
    """A training of which so many epochs are done, in the test's own folder, as m.ckn.checkpoint."""

    def run(epochs=2, *options):
        kept = []
        save = file.save

        def until(path, plain, arrays):
            if len(kept) < epochs:
                save(path, plain, arrays)
                kept.append(Path(path).read_bytes())

        with monkeypatch.context() as patch:
            patch.setattr(file, "save", until)
            works("fit", "xy.npz", "-o", "m.ckn", *(options or TRAINED))
        (images / "m.ckn").unlink()
        (images / "m.ckn.checkpoint").write_bytes(kept[-1])
        return images / "m.ckn.checkpoint"

    return run


def test_a_training_reports_and_leaves_a_model_alone(whole, striped, images):
    path, done = whole
    told = done.told
    assert told["n_images"] == 60
    assert "training" in told["seconds"]
    assert "held out of 60" in told["validation"]
    assert "was chosen on 6 images held out of 60" in told["validation"]
    assert [each["epoch"] for each in told["training"][0]["history"]] == [0, 1, 2, 3]
    assert sum(line.startswith("epoch ") for line in done.stderr.splitlines()) == 4
    assert not list(striped.glob("*.checkpoint"))
    model = ckncuda.load(path)
    pixels, labels = stripes(60)
    assert np.mean(model.predict(pixels) == labels) > 0.8
    assert model.encoders[0].to_dict()["kind"] == "network"  # as programs of before read it


def test_twice_is_the_same_file(whole, works, images):
    works("fit", "xy.npz", "-o", "m.ckn", *TRAINED)
    assert (images / "m.ckn").read_bytes() == whole[0].read_bytes()
    works("fit", "xy.npz", "-o", "m.ckn", *TRAINED, "--threads", "2")
    assert (images / "m.ckn").read_bytes() == whole[0].read_bytes()
    works("fit", "xy.npz", "-o", "m.ckn", *TRAINED, "--seed", "1")
    assert (images / "m.ckn").read_bytes() != whole[0].read_bytes()


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_an_unfinished_training_goes_on_as_it_is_told(unfinished, whole, refused, works, images, epochs):
    """The way out that a refusal names is typed as it stands there."""
    unfinished(epochs)
    said = refused("fit", "xy.npz", "-o", "m.ckn", *TRAINED, words=["not finished", "or remove it"])
    resume = shlex.split(said.partition("go on with ")[2].partition(",")[0])
    assert resume == ["--resume", "m.ckn.checkpoint"]
    done = works("fit", "xy.npz", "-o", "m.ckn", *TRAINED, *resume)
    assert f"Going on after epoch {epochs} of 3" in done.stderr
    assert (images / "m.ckn").read_bytes() == whole[0].read_bytes()
    assert not list(images.glob("*.checkpoint"))


def test_an_unfinished_training_may_be_removed(unfinished, works, whole, images):
    unfinished(1).unlink()
    works("fit", "xy.npz", "-o", "m.ckn", *TRAINED)
    assert (images / "m.ckn").read_bytes() == whole[0].read_bytes()


def test_a_training_that_is_kept_elsewhere_goes_on_under_another_name(unfinished, works, whole, images):
    unfinished(2).rename(images / "kept")
    works("fit", "xy.npz", "-o", "other.ckn", *TRAINED, "--resume", "kept")
    assert (images / "other.ckn").read_bytes() == whole[0].read_bytes()
    assert (images / "kept").exists()
    assert not list(images.glob("*.checkpoint"))


def test_of_two_unfinished_trainings_none_is_lost(unfinished, refused, images):
    content = unfinished(2).read_bytes()
    (images / "kept").write_bytes(content)
    words = ["m.ckn.checkpoint is of a training that was not finished"]
    refused("fit", "xy.npz", "-o", "m.ckn", *TRAINED, "--resume", "kept", words=words)


def test_a_checkpoint_is_not_replaced_by_the_model_that_goes_on_from_it(unfinished, refused, images):
    unfinished(2).rename(images / "kept")
    words = ["kept would be overwritten, but it is an input"]
    refused("fit", "xy.npz", "-o", "kept", *TRAINED, "--resume", "kept", words=words)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seed", "3"), "the seed"),
        (("--epochs", "4"), "the options of the training"),
        (("--augment", "flip"), "the options of the training"),
        (("--layer", "filters=4,patch=1,subsampling=1,sigma=1"), "the layers"),
        (("--preprocess", "standardize"), "the images or their preprocessing"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_checkpoint_of_something_else_is_refused(unfinished, images, ckn, options, said):
    path = unfinished(2)
    other = options[0] == "--preprocess"
    trained = [each for each in TRAINED if not (other and each in ("--preprocess", "none"))]
    done = ckn("fit", "xy.npz", "-o", "m.ckn", *trained, *options, "--resume", path.name, cwd=images)
    assert done.rc == 2
    assert f"is of another training: it differs in {said}" in done.stderr
    assert path.exists()
    assert not (images / "m.ckn").exists()


def test_files_that_are_no_checkpoints_are_refused_before_the_work(refused, images, whole):
    (images / "m2.ckn").write_bytes(whole[0].read_bytes())
    (images / "pointer").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
    )
    (images / "short").write_bytes(whole[0].read_bytes()[:200])
    for name, said in (
        ("m2.ckn", "m2.ckn is not a checkpoint of a training"),
        ("xy.npz", "xy.npz"),
        ("pointer", "Git LFS"),
        ("short", "short is truncated"),
        ("missing", "cannot read the checkpoint missing"),
    ):
        refused("fit", "xy.npz", "-o", "m.ckn", *TRAINED, "--resume", name, words=[said])


REFUSED = {
    "no labels": (("x.npy", *TRAINED), ["no labels", "--end-to-end needs", "give --labels"]),
    "one class": (("one.npz", *TRAINED), ["class"]),
    "rate of zero": (("xy.npz", *TRAINED, "--learning-rate", "0"), ["learning_rate is 0", "positive"]),
    "rate below zero": (("xy.npz", *TRAINED, "--learning-rate", "-1"), ["learning_rate is -1"]),
    "no epochs": (("xy.npz", *TRAINED, "--epochs", "0"), ["epochs is 0"]),
    "large crop": (("xy.npz", *TRAINED, "--augment", "crop=9"), ["crop is 9 pixels, of images of 9x9"]),
    "no change": (("xy.npz", *TRAINED, "--augment", "spin"), ["'spin' is not understood", "flip,crop=4"]),
    "arccos0": (
        ("xy.npz", "--layer", "filters=4,patch=3,subsampling=2,kernel=arccos0", "--end-to-end"),
        ["layer 1", "arccos0 is infinite at 1", "exp or arccos1"],
    ),
    "steps without milestones": (("xy.npz", *TRAINED, "--schedule", "steps"), ["give milestones"]),
    "milestones of a cosine": (
        ("xy.npz", *TRAINED, "--schedule", "cosine", "--milestones", "2"),
        ["leave the milestones out"],
    ),
    "milestones": (("xy.npz", *TRAINED, "--milestones", "2,x"), ["--milestones", "'x' is no whole number"]),
    "layers": (("xy.npz", *TRAINED, "--train-layers", "1-3"), ["3 layers", "network of 2", "at most 2"]),
    "layers from 2": (("xy.npz", *TRAINED, "--train-layers", "2-2"), ["layers are trained from 1 on"]),
    "layers of digits": (("xy.npz", *TRAINED, "--train-layers", "9" * 5000), ["no whole number such as 2"]),
    "after and classifier": (
        ("xy.npz", *TRAINED, "--classifier", "ridge"),
        ["--classifier and --after name the same thing"],
    ),
    "lbfgs": (("xy.npz", *TRAINED, "--optimizer", "lbfgs"), ["--end-to-end has adam and sgd"]),
    "adam of softmax": (
        ("xy.npz", *LAYERS, "--classifier", "softmax", "--optimizer", "adam"),
        ["--optimizer adam is for --end-to-end"],
    ),
    "smoothing": (
        ("xy.npz", *TRAINED, "--loss", "squared", "--label-smoothing", "0.1"),
        ["label_smoothing is for the loss softmax"],
    ),
    "head of some layers": (
        ("xy.npz", *TRAINED[:-1], "none", "--train-layers", "1"),
        ["all layers are trained", "kernel-ridge"],
    ),
    "history of a text": (("xy.npz", *TRAINED, "--history", "h.txt"), ["ending in .csv", ".png"]),
    "history over images": (("xy.npz", *TRAINED, "--history", "no/h.csv"), ["cannot write no/h.csv"]),
    "history without": (("xy.npz", *LAYERS, "--history", "h.csv"), ["--history", "give --end-to-end"]),
    "resume without": (("xy.npz", *LAYERS, "--resume", "c"), ["--resume", "give --end-to-end"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused(refused, images, what):
    (first, *options), words = REFUSED[what]
    refused("fit", first, "-o", "m.ckn", *options, words=words)


OF_TRAININGS = {
    **{"--epochs": "3", "--learning-rate": "0.1", "--schedule": "constant", "--milestones": "2"},
    **{"--warmup": "2", "--batch": "9", "--loss": "squared", "--label-smoothing": "0.1"},
    **{"--head-fit": "joint", "--augment": "flip", "--init": "random", "--train-layers": "1"},
    "--after": "ridge",
}


@pytest.mark.parametrize("name", OF_TRAININGS)
def test_options_of_a_training_need_one(refused, images, name):
    given = (name, OF_TRAININGS[name])
    refused("fit", "xy.npz", "-o", "m.ckn", *LAYERS, *given, words=[name, "give --end-to-end with it"])
    exact = ("--method", "exact", "--layer", "patch=3,subsampling=2,sigma=1")
    refused("fit", "xy.npz", "-o", "m.ckn", *exact, *given, words=[f"{name} does not apply", "leave it out"])


def test_of_an_ensemble_those_are_trained_that_say_so(tmp_path):
    one = "layers = [{ filters = 4, patch = 3, subsampling = 2, sigma = 0.6 }]"
    text = f"[[encoders]]\n{one}\n[[encoders]]\n{one}\ntraining = {{ epochs = 3 }}\n"
    (tmp_path / "mixed.toml").write_text(text)
    system = System.from_toml(tmp_path / "mixed.toml")
    assert TrainingOptions().applied(system, {}) == system
    first, second = TrainingOptions(given={"epochs": 5}).applied(system, {}).encoders
    assert first == system.encoders[0]
    assert second.training.epochs == 5
    whole = TrainingOptions(end_to_end=True).applied(system, {})
    assert [encoder.training.epochs for encoder in whole.encoders] == [30, 3]


def test_milestones_of_a_preset_move_with_the_number_of_epochs():
    system = System.preset("chen5", 5000, (32, 32, 3))
    for given, expected in (
        ({}, (105, (60, 85, 100))),
        ({"epochs": 21}, (21, (12, 17, 20))),
        ({"epochs": 1}, (1, (1,))),
        ({"epochs": 21, "milestones": (5,)}, (21, (5,))),
        ({"epochs": 21, "schedule": "cosine"}, (21, ())),
    ):
        (encoder,) = TrainingOptions(given=given).applied(system, {}).encoders
        assert (encoder.training.epochs, encoder.training.milestones) == expected


@pytest.mark.parametrize("given", [("--end-to-end",), ("--resume", "c"), ("--history", "h.csv")], ids=str)
def test_exact_kernels_are_not_trained(refused, images, given):
    words = [f"{given[0]} does not apply to --method exact: leave it out"]
    refused("fit", "xy.npz", "-o", "m.ckn", "--method", "exact", *given, words=words)


def test_labels_of_a_preset_that_is_trained_are_asked_for(refused, images):
    refused("fit", "x.npy", "-o", "m.ckn", "--preset", "supervised", words=["no labels", "give --labels"])


def test_a_head_that_is_kept_predicts(works, images):
    done = works("fit", "xy.npz", "-o", "m.ckn", *TRAINED[:-1], "none", "--json")
    history = done.told["training"][0]["history"]
    assert done.told["validation_accuracy"] == max(each["held_out_accuracy"] for each in history)
    pixels, labels = stripes(60)
    assert np.mean(ckncuda.load(images / "m.ckn").predict(pixels) == labels) > 0.7


def test_a_history_is_written_as_a_table_or_drawn(works, images):
    told = works("fit", "xy.npz", "-o", "m.ckn", *TRAINED, "--history", "h.csv", "--json").told
    rows = list(csv.DictReader((images / "h.csv").open()))
    history = told["training"][0]["history"]
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2, 3]
    assert [row["encoder"] for row in rows] == ["1"] * 4
    assert rows[0]["loss"] == ""
    for row, epoch in zip(rows[1:], history[1:], strict=True):
        for name in ("loss", "accuracy", "held_out_loss", "held_out_accuracy", "learning_rate"):
            assert float(row[name]) == epoch[name]
    pytest.importorskip("matplotlib")
    works("fit", "xy.npz", "-o", "m.ckn", *TRAINED, "--history", "h.png")
    assert (images / "h.png").read_bytes().startswith(b"\x89PNG")


def test_a_learning_rate_that_is_too_high_ends_the_training_and_the_one_advised_does_not(works, ckn, images):
    high = ("--optimizer", "sgd", "--learning-rate", "1e300")
    done = ckn("fit", "xy.npz", "-o", "m.ckn", *TRAINED, *high, cwd=images)
    assert done.rc == 2
    assert "the loss is not finite in epoch 1, at learning rates of up to 1e+300" in done.stderr
    assert not list(images.glob("m.ckn*"))
    advised = shlex.split(done.stderr.strip().rpartition("; try ")[2])
    works("fit", "xy.npz", "-o", "m.ckn", *TRAINED, "--optimizer", "sgd", *advised)


def test_a_batch_larger_than_the_images_is_said(works, images):
    done = works("fit", "xy.npz", "-o", "m.ckn", *TRAINED, "--batch", "999")
    assert "Training: a step takes all 54 images, fewer than a batch" in done.stderr


@pytest.mark.parametrize("after", [0, 2])
def test_ctrl_c_leaves_what_is_needed_to_go_on(start, images, works, after):
    slow = [each if each != "3" else "4000" for each in TRAINED]
    process = start("fit", "xy.npz", "-o", "m.ckn", *slow)
    for line in process.stderr:
        if line.startswith(f"epoch {after}" if after else "Fitting on"):
            break
    if after:
        deadline = time.monotonic() + 60
        while not (images / "m.ckn.checkpoint").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in stderr
    left = {path.name for path in images.glob("m.ckn*")}
    if not after:
        assert left == set()
        assert "--resume" not in stderr
        return
    assert left == {"m.ckn.checkpoint"}
    assert "what was learned is kept: go on with --resume m.ckn.checkpoint." in stderr
    epoch = len(file.load(images / "m.ckn.checkpoint")[0]["history"]) - 1
    second = start("fit", "xy.npz", "-o", "m.ckn", *slow, "--resume", "m.ckn.checkpoint")
    for line in second.stderr:
        if line.startswith("Going on"):
            assert line.startswith(f"Going on after epoch {epoch} of 4000")
            break
    else:
        pytest.fail("it did not go on")


def test_the_seconds_of_a_training_are_counted(whole, adds_up):
    adds_up(whole[1].told["seconds"])
