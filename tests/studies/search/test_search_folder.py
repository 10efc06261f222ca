"""The folder of a search in the hands of others: links, damage, other data, what a killed process left."""

import json
import os
import shutil

import numpy as np
import pytest
from factories import make_spec

from ckncuda.errors import CknError, InvalidData
from ckncuda.model import system
from ckncuda.model.presets import Preset
from ckncuda.network.encoder import EncoderSpec
from ckncuda.studies.search import trials as searching
from ckncuda.studies.search.folder import FILES, search_folder
from ckncuda.studies.search.journal import _digest
from ckncuda.studies.search.trials import SearchOptions, _Search

pytest.importorskip("optuna", reason="Optuna, the extra `search`, is not installed")
pytest.importorskip("matplotlib", reason="matplotlib, the extra `search`, is not installed")

PRESETS = {"small": Preset("", lambda n, shape: [EncoderSpec([make_spec(filters=8)], ())], "ridge", {})}
LABELS = np.arange(40) % 2
PIXELS = np.random.default_rng(0).normal(LABELS[:, None, None, None], size=(40, 8, 8, 1)).astype(np.float32)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for module in (searching, system):
        monkeypatch.setattr(module, "PRESETS", PRESETS)
    monkeypatch.setattr("ckncuda.studies.search.space.PATCHES_PER_FILTER", 500)
    monkeypatch.setattr(searching, "draw_search", lambda *_: None)


def search(folder, trials=2, pixels=PIXELS, labels=LABELS, **options):
    limits = SearchOptions(trials=trials, hold_out=0)
    return searching.search(pixels, labels, folder, limits, backend="numpy", **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of a search of two trials."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        for module in (searching, system):
            patched.setattr(module, "PRESETS", PRESETS)
        patched.setattr("ckncuda.studies.search.space.PATCHES_PER_FILTER", 500)
        search(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "s")


def rewritten(folder, change):
    """Change what each line of the journal says, and give it the right digest."""
    lines = []
    for line in (folder / "journal.log").read_bytes().splitlines():
        about = json.loads(line.partition(b" ")[2])
        text = json.dumps(change(about) or about).encode()
        lines.append(_digest(text) + b" " + text + b"\n")
    (folder / "journal.log").write_bytes(b"".join(lines))


# ---- links and things that are no files ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lock", "journal.log", *FILES])
def test_links_are_not_followed(folder, tmp_path, name):
    foreign = tmp_path / "foreign"
    foreign.write_text("of somebody else")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(foreign)
    with pytest.raises(InvalidData, match=f"{name} is a link"):
        search(folder, 3)
    assert foreign.read_text() == "of somebody else"


def test_a_folder_that_is_a_link_is_refused(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    before = (folder / "journal.log").read_bytes()
    with pytest.raises(InvalidData, match="link is a link"):
        search(tmp_path / "link", 3)
    assert (folder / "journal.log").read_bytes() == before


def test_a_second_name_of_a_foreign_file_is_not_written_into(folder, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.write_bytes((folder / "journal.log").read_bytes())
    (folder / "journal.log").unlink()
    os.link(foreign, folder / "journal.log")
    before = foreign.read_bytes()
    with pytest.raises(InvalidData, match=r"journal\.log is another name of a file"):
        search(folder, 3)
    assert foreign.read_bytes() == before


@pytest.mark.parametrize("name", ["lock", "journal.log", "search.json", "leaderboard.md"])
def test_a_pipe_is_refused_at_once(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(InvalidData, match=name):
        search(folder, 3)


@pytest.mark.parametrize("name", ["journal.log", "search.json"])
def test_a_file_that_is_far_too_large_is_refused_before_it_is_read(folder, name):
    os.truncate(folder / name, 1 << 40)  # takes no space
    with pytest.raises(InvalidData, match="is larger than the"):
        search(folder, 3)


# ---- damage ----------------------------------------------------------------------------------------------

WRONG = {
    "order": lambda about: about | {"number": 7},
    "a bool for a number": lambda about: about | {"number": False},
    "a name too few": lambda about: {k: v for k, v in about.items() if k != "system"},
    "a name too many": lambda about: about | {"code": "exec"},
    "event": lambda about: about | {"event": "starts"},
    "no parameters": lambda about: about | {"params": [1]},
    "unknown parameter": lambda about: about | {"params": {"depth": 1}},
    "value out of range": lambda about: about | {"params": {"layers": 10**400}},
    "value of another type": lambda about: about | {"params": {"flip": 1, "layers": True}},
    "value that is a list": lambda about: about | {"params": {"preprocessing": ["none"]}},
    "parameters missing": lambda about: about | {"params": {}, "preset": None},
    "preset": lambda about: about | {"preset": "huge"},
    "terminal": lambda about: about | {"system": "\x1b[2J"},
    "length": lambda about: about | {"system": "x" * 10_000},
    "accuracy": lambda about: about | {"accuracies": {"40": 1.5}},
    "accuracy of what": lambda about: about | {"accuracies": {"39": 0.5}},
    "accuracy without a number": lambda about: about | {"accuracies": {"many": 0.5}},
    "accuracy NaN": lambda about: about | {"accuracies": {"40": float("nan")}},
    "seconds": lambda about: about | {"seconds": "long"},
    "infinite seconds": lambda about: about | {"seconds_in_all": float("inf")},
    "features": lambda about: about | {"n_features": -1},
    "no accuracy": lambda about: about | {"accuracies": {}},
    "a list": lambda about: [about],
}


@pytest.mark.parametrize("name", WRONG)
def test_lines_that_no_search_writes_are_refused(folder, name):
    rewritten(folder, WRONG[name])
    with pytest.raises(InvalidData, match=r"journal\.log is damaged, or not the journal.*--folder"):
        search(folder, 3)


@pytest.mark.parametrize(
    "content", [b'{"a": 1}\n', b"garbage\n", b"\n", b"\xff\xfe\n", b"[" * 99_999 + b"\n"]
)
def test_a_journal_that_is_none_is_refused(folder, content):
    (folder / "journal.log").write_bytes(content)
    with pytest.raises(InvalidData, match=r"is damaged, or not the journal of a search \(line 1"):
        search(folder)


@pytest.mark.parametrize("name", ["accuracies", "seconds", "seconds_in_all", "n_features", "system"])
def test_a_line_that_says_something_else_that_could_be_is_damaged(folder, name):
    """A disk that flips a bit of an accuracy would have another system chosen."""
    journal = folder / "journal.log"
    lines = journal.read_bytes().splitlines()
    digest, _, text = lines[-1].partition(b" ")
    about = json.loads(text)
    assert about["event"] == "ended"
    others = {dict: {"90": 0.125}, int: 12345, float: 12345.5, str: "another"}
    lines[-1] = digest + b" " + json.dumps(about | {name: others[type(about[name])]}).encode()
    journal.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(InvalidData, match=r"is damaged.*\(line \d+: its digest is another's\)"):
        search(folder, 3)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 99_999, '{"format": 2, "seed": 1e999}', "{}", "null"])
def test_a_description_that_is_none_is_refused(folder, content):
    (folder / "search.json").write_text(content)
    with pytest.raises(InvalidData, match="--folder"):
        search(folder)


def test_a_search_of_an_older_version_is_refused_with_the_way_out(folder):
    stored = json.loads((folder / "search.json").read_text())
    del stored["format"]
    (folder / "search.json").write_text(json.dumps(stored))
    with pytest.raises(InvalidData, match="of another version of ckncuda: give another --folder, or remove"):
        search(folder)


def mutated(content, rng):
    """One to three changes of bytes: some become others, are left out, or stand there twice."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        place, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
        kind = rng.integers(4)
        if kind == 0:
            data[place] = int(rng.integers(256))
        elif kind == 1:
            del data[place : place + length]
        elif kind == 2:
            data[place:place] = data[place : place + length]
        else:
            data[place:place] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        data = data or bytearray(b"\n")
    return bytes(data)


def taken_up(folder):
    """Read the journal and choose what comes next; nothing is fitted."""
    parts = np.arange(40), np.arange(0)
    running = _Search(folder, PIXELS, LABELS, parts, SearchOptions(), "numpy", None, None)
    running.journal.rows()
    return running._system(running._next())


def test_changes_of_bytes_are_refused_or_leave_a_search(folder):
    """Half of them with digests that are right, as nobody but an intruder would make them."""
    rng = np.random.default_rng(0)
    journal = folder / "journal.log"
    whole = journal.read_bytes()
    texts = [line.partition(b" ")[2] for line in whole.splitlines()]
    refused = 0
    for number in range(300):
        if number % 2:
            journal.write_bytes(mutated(whole, rng))
        else:
            changed = [mutated(text, rng).replace(b"\n", b"") for text in texts]
            journal.write_bytes(b"".join(_digest(text) + b" " + text + b"\n" for text in changed))
        try:
            taken_up(folder)
        except CknError:
            refused += 1
    assert refused > 200


# ---- data, and what was left -----------------------------------------------------------------------------


def test_data_that_have_moved_are_the_same_data(folder):
    found = search(folder, origin={"images": "/elsewhere/x.csv", "labels": None})
    assert len(found.leaderboard) == 2
    assert json.loads((folder / "search.json").read_text())["origin"]["images"] == "/elsewhere/x.csv"


@pytest.mark.parametrize("image", [0, 17, 39])
def test_any_image_that_has_changed_is_seen(folder, image):
    pixels = PIXELS.copy()
    pixels[image, 3, 3] += 1
    with pytest.raises(InvalidData, match="holds another search: images_sha256 was"):
        search(folder, pixels=pixels)


def test_half_a_line_is_left_out(folder):
    whole = (folder / "journal.log").read_bytes()
    (folder / "journal.log").write_bytes(whole[:-7])
    assert len(search(folder).leaderboard) == 2
    assert len((folder / "journal.log").read_bytes()) > len(whole)
    assert len(search(folder).leaderboard) == 2  # nothing was written behind the half


def test_what_a_killed_process_left_is_removed(folder):
    left = [folder / f".{name}.0123456789abcdef.part" for name in FILES]
    for path in left:
        path.write_text("half of it")
    with search_folder(folder, json.loads((folder / "search.json").read_text())):
        assert not any(path.exists() for path in left)


@pytest.mark.parametrize(("done", "more"), [(0, 0), (1, 0), (1, 100), (1, 500)])
def test_a_full_disk_is_no_failure_of_a_system(folder, finished, full_disk, done, more):
    """Neither is half a line left in the journal, nor a trial that failed: the same search goes on."""
    journal = folder / "journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)[: 2 * done]
    journal.write_bytes(b"".join(lines))
    (folder / "leaderboard.md").unlink()
    (folder / "search.json").unlink()
    size = journal.stat().st_size
    with (
        full_disk(max(size + more, 450)),
        pytest.raises(InvalidData, match=r"cannot write .*: File too large"),
    ):
        search(folder)
    kept = journal.read_bytes()
    assert kept.startswith(b"".join(lines))
    assert kept[-1:] in (b"", b"\n")
    found = search(folder)
    assert found.counts["failed"] == 0
    ended = [
        [json.loads(line[17:])["params"] for line in path.read_bytes().splitlines() if b'"ended"' in line]
        for path in (journal, finished / "journal.log")
    ]
    assert ended[0] == ended[1]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("make", [os.mkdir, getattr(os, "mkfifo", os.mkdir)])
def test_what_cannot_be_replaced_is_said_before_the_work(tmp_path, monkeypatch, name, make):
    monkeypatch.setattr(searching._Search, "_fit", lambda *_: pytest.fail("it was begun"))
    make(tmp_path / name)
    make(tmp_path / f".{name}.0123456789abcdef.part")
    with pytest.raises(InvalidData, match=f"{name}"):
        search(tmp_path)
    assert (tmp_path / name).lstat()
