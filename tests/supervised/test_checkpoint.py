"""Checkpoints: a training goes on to the same bits, and from nothing else than its own file."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy

from ckncuda.errors import InvalidData
from ckncuda.files import checkpoint as file
from ckncuda.images.augment import Augmentation
from ckncuda.progress import Report
from ckncuda.supervised.checkpoint import Checkpoints

OPTIONS = {"epochs": 4, "augment": Augmentation(flip=True, crop=1)}
WAYS = {
    "adam": OPTIONS,
    "sgd": OPTIONS | {"optimizer": "sgd", "head_fit": "alternating", "loss": "squared-hinge"},
    "no image held out": OPTIONS | {"validation": 0.0},
}


class Enough(Exception):
    """A training is ended after some epochs."""


@pytest.fixture(scope="module")
def interrupted(trained_on):
    """Train until so many epochs are done, and write a checkpoint."""

    def run(path, after, **options):
        def told(line):
            if line.startswith(f"epoch {after + 1} "):
                raise Enough

        with pytest.raises(Enough):
            trained_on(**options, progress=Report(tell=told), files={"checkpoint": path})

    return run


@pytest.fixture(scope="module")
def written(interrupted, tmp_path_factory):
    """A checkpoint of two epochs."""
    path = tmp_path_factory.mktemp("written") / "two"
    interrupted(path, 2, **OPTIONS)
    return path


@pytest.mark.parametrize("way", WAYS)
def test_a_training_goes_on_to_the_same_bits(trained_on, interrupted, bits, tmp_path, way):
    whole = trained_on(**WAYS[way], files={"checkpoint": tmp_path / "whole"})
    for epochs in (1, 2, 3):
        path = tmp_path / str(epochs)
        interrupted(path, epochs, **WAYS[way])
        lines = []
        again = trained_on(
            **WAYS[way],
            progress=Report(tell=lines.append),
            files={"resume": path, "checkpoint": tmp_path / "on"},
        )
        assert lines[0] == f"Going on after epoch {epochs} of 4"
        assert bits(again) == bits(whole)
        assert (tmp_path / "on").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_training_that_was_done_is_done_at_once(trained_on, bits, tmp_path):
    whole = trained_on(**OPTIONS, files={"checkpoint": tmp_path / "whole"})
    lines = []
    again = trained_on(**OPTIONS, progress=Report(tell=lines.append), files={"resume": tmp_path / "whole"})
    assert bits(again) == bits(whole)
    assert lines == ["Going on after epoch 4 of 4"]


def other_images(case):
    images = case.images.copy()
    images[17, 3, 3] += 1e-3
    return images


DIFFERING = {
    "labels": (lambda case: {"labels": np.roll(case.labels, 1)}, "the labels, or the images held out"),
    "images": (lambda case: {"images": other_images(case)}, "the images or their preprocessing"),
    "seed": (lambda case: {"seed": 1}, "the seed and the labels, or the images held out"),
    "epochs": (lambda case: {"epochs": 5}, "the options of the training"),
    "loss": (lambda case: {"loss": "squared"}, "the options of the training"),
    "augment": (lambda case: {"augment": Augmentation()}, "the options of the training"),
    "shape": (lambda case: {"images": case.images[:, :8]}, "the size of the images"),
}


@pytest.mark.parametrize("what", DIFFERING)
def test_a_checkpoint_of_another_training_is_refused_by_what_differs(trained_on, case, written, what):
    change, said = DIFFERING[what]
    with pytest.raises(InvalidData) as refused:
        trained_on(**OPTIONS | change(case), files={"resume": written})
    assert f"two is of another training: it differs in {said}" in str(refused.value)
    assert "give the same images, labels, options and seed, or remove it and start anew" in str(refused.value)


def test_a_checkpoint_of_another_network_is_refused(trained_on, case, engine, written):
    from factories import make_spec

    from ckncuda import CKN

    layers = [make_spec(filters=4), make_spec(filters=6)]
    seed = CKN(layers).fit(case.images, patches=500, seed=5, backend=engine)
    wider = CKN([make_spec(filters=4), make_spec(filters=7)]).fit(case.images, patches=500, backend=engine)
    for network, said in ((seed, "in the anchor points at the start;"), (wider, "in the layers and the")):
        with pytest.raises(InvalidData, match=said):
            trained_on(**OPTIONS, network=network, files={"resume": written})


def changed(path, tmp_path, change):
    """Write the tensors and metadata of a checkpoint after a change."""
    with safetensors.safe_open(path, framework="numpy") as opened:
        metadata = opened.metadata()
        arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(metadata, arrays)
    safetensors.numpy.save_file(arrays, tmp_path / "changed", metadata)
    return tmp_path / "changed"


def test_a_single_bit_that_has_changed_is_seen(written, tmp_path):
    content = bytearray(written.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 60).tolist():
        content[place] ^= 1 << int(rng.integers(8))
        damaged = tmp_path / "damaged"
        damaged.write_bytes(content)
        with pytest.raises(InvalidData, match=r"damaged|truncated|is not a checkpoint"):
            file.load(damaged)
        content[:] = written.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_files_are_refused(written, tmp_path, share):
    content = written.read_bytes()
    (tmp_path / "short").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InvalidData, match=r"short is (truncated|not a checkpoint of a training)"):
        file.load(tmp_path / "short")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POINTER, "Git LFS"),
        (b"PK\3\4 and so on, a zip", "x"),
        (b"epoch,loss\n1,0.5\n", "is not a checkpoint of a training"),
        (b"\x80\4pickled", "x"),
        (b"", "it is empty"),
    ],
)
def test_other_files_are_refused_by_what_they_are(tmp_path, content, said):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InvalidData, match=said):
        file.load(tmp_path / "x")


def test_a_model_is_no_checkpoint(case, tmp_path):
    case.start.save(tmp_path / "m.ckn")
    with pytest.raises(InvalidData, match=r"m.ckn is not a checkpoint of a training: give the file that"):
        file.load(tmp_path / "m.ckn")


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(InvalidData, match=r"cannot read the checkpoint .*missing: No such file"):
        file.load(tmp_path / "missing")
    with pytest.raises(InvalidData, match="folder"):
        file.load(tmp_path)


def test_a_checkpoint_whose_parts_do_not_fit_is_damaged(trained_on, written, tmp_path):
    """Nobody writes such a file by accident: its checksum is right."""
    plain, arrays = file.load(written)

    def refused(plain, arrays):
        file.save(tmp_path / "odd", plain, arrays)
        with pytest.raises(InvalidData, match=r"odd is damaged"):
            trained_on(**OPTIONS, files={"resume": tmp_path / "odd"})

    refused(plain | {"best": 7}, arrays)
    refused(plain | {"history": 3}, arrays)
    refused({k: v for k, v in plain.items() if k != "steps"}, arrays)
    refused(plain, {k: v for k, v in arrays.items() if k != "head.weights"})
    refused(plain, {k: v for k, v in arrays.items() if k != "best.anchors.1"})
    refused(plain, arrays | {"optimizer.mean.0": np.zeros(3, np.float32)})
    file.save(tmp_path / "odd", {}, {})
    with pytest.raises(InvalidData, match=r"odd is of another training"):
        trained_on(**OPTIONS, files={"resume": tmp_path / "odd"})


def test_metadata_that_are_no_plain_data(written, tmp_path):
    for text in ("[1]", "{", "NaN"):

        def change(metadata, arrays, text=text):
            metadata[file.ENTRY] = f"{file._digest_of(text, arrays)}\n{text}"

        with pytest.raises(InvalidData, match="changed is damaged"):
            file.load(changed(written, tmp_path, change))


def test_a_checkpoint_is_written_whole_or_not_at_all(written, tmp_path, full_disk):
    plain, arrays = file.load(written)
    file.save(tmp_path / "c", plain, arrays)
    before = (tmp_path / "c").read_bytes()
    assert before == written.read_bytes()
    with full_disk(1000), pytest.raises(InvalidData, match="File too large"):
        file.save(tmp_path / "c", plain, arrays)
    assert (tmp_path / "c").read_bytes() == before
    assert os.listdir(tmp_path) == ["c"]


def test_digests_tell_types_shapes_and_orders_apart():
    one, two = np.zeros((2, 3), np.float32), np.ones(4, np.float32)
    others = [[one.reshape(3, 2), two], [one.view(np.int32), two], [two, one], [one, two, two[:0]], [one]]
    digests = {file.digest(arrays) for arrays in [[one, two], *others]}
    assert len(digests) == 6
    assert file.digest([one[:, ::2], two]) == file.digest([one[:, ::2].copy(), two])


class TestFilesOfAnEnsemble:
    """Names, and what becomes of what is there already."""

    def test_each_has_a_name_of_its_own(self, tmp_path):
        (tmp_path / "c.2").touch()
        files = Checkpoints(tmp_path / "new", tmp_path / "c")
        assert files.of(0) == (str(tmp_path / "new"), str(tmp_path / "c"))
        assert files.of(1) == (str(tmp_path / "new.2"), str(tmp_path / "c.2"))
        assert files.of(2) == (str(tmp_path / "new.3"), None)
        assert Checkpoints().of(0) == (None, None)

    def test_what_nobody_asked_to_go_on_with_is_not_lost(self, written, tmp_path):
        here, there = tmp_path / "m.checkpoint", tmp_path / "other"
        for path in (here, there):
            path.write_bytes(written.read_bytes())
        files = Checkpoints(here)
        with pytest.raises(InvalidData, match=f"not finished: go on with --resume {here}, or remove it"):
            files.check(1)
        with pytest.raises(InvalidData, match="not finished"):
            Checkpoints(here, there).check(1)
        Checkpoints(here, here).check(1)
        Checkpoints(os.path.relpath(here), here).check(1)
        Checkpoints(tmp_path / "new", there).check(1)
        Checkpoints(tmp_path / "new").check(2)

    def test_a_second_one_alone_cannot_be_gone_on_with(self, written, tmp_path):
        (tmp_path / "m.2").write_bytes(written.read_bytes())
        Checkpoints(tmp_path / "m").check(1)
        with pytest.raises(InvalidData, match=r"m\.2 is of a training that was not finished: remove it"):
            Checkpoints(tmp_path / "m").check(2)

    def test_a_file_to_go_on_from_is_looked_at_first(self, tmp_path):
        with pytest.raises(InvalidData, match="cannot read the checkpoint"):
            Checkpoints(tmp_path / "m", tmp_path / "missing").check(1)

    def test_what_was_written_is_removed_and_nothing_else(self, tmp_path):
        for name in ("m", "m.2", "m.3", "old"):
            (tmp_path / name).touch()
        Checkpoints(tmp_path / "m", tmp_path / "old").remove(2)
        assert sorted(os.listdir(tmp_path)) == ["m.3", "old"]
        Checkpoints().remove(1)


def test_a_checkpoint_tells_what_it_is_of(written):
    plain, arrays = file.load(written)
    assert set(plain["identity"]) == {"layers", "training", "seed", "shape", "labels", "images", "start"}
    assert len(plain["history"]) == 3
    assert json.dumps(plain, allow_nan=False)
    assert arrays["anchors.1"].shape == (6, 3, 3, 4)
