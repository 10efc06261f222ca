"""The search: its course, what it leaves, and that it goes on where it stopped."""

import itertools
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from factories import make_spec

import ckncuda
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.model import system
from ckncuda.model.presets import PRESETS, Preset
from ckncuda.network.encoder import EncoderSpec
from ckncuda.studies.plots import draw_search
from ckncuda.studies.search import journal
from ckncuda.studies.search import trials as searching
from ckncuda.studies.search.folder import alone_in
from ckncuda.studies.search.trials import SearchOptions

optuna = pytest.importorskip("optuna", reason="Optuna, the extra `search`, is not installed")
pytest.importorskip("matplotlib", reason="matplotlib, the extra `search`, is not installed")

LAYER = make_spec(filters=8, subsampling=4)


def search(images, labels, folder, *, tell=None, **options):
    return searching.search(images, labels, folder, SearchOptions(**options), backend="numpy", tell=tell)


def only_presets(monkeypatch, presets):
    for module in (searching, system):
        monkeypatch.setattr(module, "PRESETS", presets)


def preset_of(encoders):
    return Preset("for tests", lambda n, shape: encoders, "ridge", {})


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """One small preset, few filters: what is tested is the search, not what it finds."""
    only_presets(monkeypatch, {"small": preset_of([EncoderSpec([LAYER])])})
    monkeypatch.setattr("ckncuda.studies.search.space.PATCHES_PER_FILTER", 500)
    monkeypatch.setattr(searching, "draw_search", lambda *_: None)  # takes longer than these trials


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(3)
    labels = np.arange(90) % 3
    pixels = rng.normal(size=(90, 12, 12, 3)) * 0.4
    pixels[:, ::2] += labels[:, None, None, None] * 0.3
    return pixels.astype(np.float32), labels + 5


class Tape:
    """Lines that a search tells."""

    def __init__(self, until=None):
        self.lines, self.until = [], until

    def __call__(self, line):
        self.lines.append(line)
        if self.until is not None and len(self.lines) >= self.until:
            raise KeyboardInterrupt

    @property
    def systems(self):
        return [line.rpartition("): ")[2] for line in self.lines]


def test_a_search_leaves_leaderboard_plot_and_a_model_of_all_images(images, tmp_path, monkeypatch):
    monkeypatch.setattr(searching, "draw_search", draw_search)
    tape = Tape()
    found = search(*images, tmp_path / "s", trials=4, hold_out=0.2, seed=1, tell=tape)
    assert sum(found.counts.values()) == 4 == len(tape.lines)
    assert tape.lines[0].endswith("(preset small)")  # presets come first
    accuracies = [row.accuracy for row in found.leaderboard]
    assert accuracies == sorted(accuracies, reverse=True)
    assert found.best == found.leaderboard[0]
    assert (found.n_held_out, found.model.report["n_images"]) == (18, 90)
    assert 0 <= found.held_out_accuracy <= 1
    said = found.model.report["search"]
    assert (said["trials"], said["held_out_accuracy"]) == (4, found.held_out_accuracy)
    assert re.search("72 images.*optimistic", said["chosen_by"])
    found.model.save(tmp_path / "best.ckn")
    assert ckncuda.load(tmp_path / "best.ckn").report["search"] == said
    board = (tmp_path / "s" / "leaderboard.md").read_text()
    assert all(row.system in board for row in found.leaderboard)
    assert (tmp_path / "s" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((tmp_path / "s" / "search.json").read_text())
    assert stored | {"n_images": 90, "image_shape": [12, 12, 3], "seed": 1, "hold_out": 0.2} == stored


def test_what_is_held_out_is_not_seen(images, tmp_path):
    labels = np.random.default_rng(0).permutation(np.arange(90) % 3)  # nothing to learn, much to remember
    found = search(images[0], labels, tmp_path, trials=2, hold_out=0.3)
    assert found.n_held_out == 27
    assert found.held_out_accuracy < 0.7
    assert np.mean(found.model.predict(images[0]) == labels) > found.held_out_accuracy


def test_a_search_that_was_interrupted_tries_what_one_at_a_stretch_tries(images, tmp_path, monkeypatch):
    tape = Tape()
    search(*images, tmp_path / "whole", trials=4, hold_out=0, tell=tape)

    tries, fit = itertools.count(), searching._Search._fit

    def interrupted(self, *arguments, **options):
        if next(tries) in (0, 2):  # in the midst of the preset, and of a system that was drawn
            raise KeyboardInterrupt
        return fit(self, *arguments, **options)

    monkeypatch.setattr(searching._Search, "_fit", interrupted)
    parts = Tape()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search(*images, tmp_path / "parts", trials=4, hold_out=0, tell=parts)
    found = search(*images, tmp_path / "parts", trials=4, hold_out=0, tell=parts)
    assert parts.systems == tape.systems
    assert sum(found.counts.values()) == 4
    assert len(found.leaderboard) == found.counts["complete"]


def test_only_the_better_half_goes_on_to_all_images(images, tmp_path, monkeypatch):
    monkeypatch.setattr(searching, "ONE_RUNG", 50)
    tape = Tape()
    found = search(*images, tmp_path, trials=12, hold_out=0.1, tell=tape)
    given_up = [line for line in tape.lines if "given up" in line]
    assert found.counts["given up"] == len(given_up) > 0
    assert len(found.leaderboard) == 12 - len(given_up)
    for line in given_up:
        accuracy, on = re.search(r": ([0-9.]+) on (\d+) images in", line).groups()
        assert int(on) in (20, 40)  # a quarter and a half of 81
        assert float(accuracy) <= found.best.accuracy + 0.05
    assert not any("small" in line for line in given_up)  # presets are fitted to the end


def test_no_trial_is_begun_that_would_end_too_late(images, tmp_path):
    tape = Tape()
    found = search(*images, tmp_path, seconds=1e-3, hold_out=0, tell=tape)
    assert len(tape.lines) == 1  # the first, however long it takes
    again = search(*images, tmp_path, seconds=0, hold_out=0, tell=tape)
    assert len(tape.lines) == 1
    assert again.best == found.best


def test_a_trial_without_time_left_does_not_count(images, tmp_path, monkeypatch):
    search(*images, tmp_path, trials=1, hold_out=0)
    fit = ckncuda.Model.fit

    def slow(*arguments, progress, **options):
        time.sleep(1)
        return fit(*arguments, progress=progress, **options)

    monkeypatch.setattr(ckncuda.Model, "fit", slow)
    monkeypatch.setattr(searching._Search, "_reserve", lambda *_: 0.0)
    monkeypatch.setattr(searching.statistics, "median", lambda seconds: min(max(seconds), 0.1))
    tape = Tape()
    found = search(*images, tmp_path, seconds=0.8, hold_out=0, tell=tape)
    assert sum(found.counts.values()) == 1
    assert tape.lines
    assert all("no time left" in line for line in tape.lines)


def test_what_fails_is_said_and_the_search_goes_on(images, tmp_path, monkeypatch):
    fit, tries = searching._Search._fit, itertools.count()

    def failing(self, *arguments, **options):
        if next(tries) == 1:
            raise MemoryError("too large")
        return fit(self, *arguments, **options)

    monkeypatch.setattr(searching._Search, "_fit", failing)
    tape = Tape()
    found = search(*images, tmp_path, trials=3, hold_out=0, tell=tape)
    assert found.counts["failed"] == 1
    assert "failed: too large" in tape.lines[1]


def test_images_on_which_everything_fails_end_the_search(images, tmp_path):
    pixels, labels = images
    with pytest.raises(InvalidData, match="the first 10 trials all failed; the last: "):
        search(np.zeros_like(pixels), labels, tmp_path, hold_out=0)


class Killed(BaseException):
    """The end of a process, of which nothing is told."""


def test_a_search_that_was_killed_tries_what_one_at_a_stretch_tries(images, tmp_path, monkeypatch):
    whole = search(*images, tmp_path / "whole", trials=5, hold_out=0)
    whole.model.save(tmp_path / "whole.ckn")
    tries, fit = itertools.count(), searching._Search._fit

    def killed(self, *arguments, **options):
        if next(tries) in (0, 1, 3):  # in the midst of the preset, twice, and of a system that was drawn
            raise Killed
        return fit(self, *arguments, **options)

    monkeypatch.setattr(searching._Search, "_fit", killed)
    for _ in range(3):
        with pytest.raises(Killed):
            search(*images, tmp_path / "parts", trials=5, hold_out=0)
    found = search(*images, tmp_path / "parts", trials=5, hold_out=0)
    found.model.save(tmp_path / "parts.ckn")
    assert [(row.trial, row.system) for row in found.leaderboard] == [
        (row.trial, row.system) for row in whole.leaderboard
    ]
    assert (tmp_path / "parts.ckn").read_bytes() == (tmp_path / "whole.ckn").read_bytes()


def trials_after(path, monkeypatch, times, kills):
    """Return what a journal holds after a process was ended so many times in the midst of its first trial."""
    monkeypatch.setattr(journal, "kills_for_memory", lambda: next(kills))
    for _ in range(times):
        opened = journal.Journal(path, lambda trial: None)
        assert not opened.trials
        opened.begin(journal.Trial(0, {}, "small", "a system"))
    return journal.Journal(path, lambda trial: None).trials


@pytest.mark.parametrize(
    ("times", "kills"),
    [(journal.FOR_MEMORY, itertools.count()), (journal.UNKNOWN, itertools.repeat(None))],
)
def test_a_system_that_is_too_large_is_given_up(tmp_path, monkeypatch, times, kills):
    (trial,) = trials_after(tmp_path / "journal.log", monkeypatch, times, kills)
    assert trial.state == "failed"
    assert re.search(f"ended {times} times (for lack of memory|in the midst)", trial.failure)


@pytest.mark.parametrize(("times", "failed"), [(journal.ATTEMPTS - 1, 0), (journal.ATTEMPTS, 1)])
def test_a_process_that_was_not_ended_for_memory_is_ended_often(tmp_path, monkeypatch, times, failed):
    assert len(trials_after(tmp_path / "journal.log", monkeypatch, times, itertools.repeat(7))) == failed


def test_ctrl_c_is_no_attempt(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "kills_for_memory", lambda: None)
    for _ in range(2 * journal.ATTEMPTS):
        opened = journal.Journal(tmp_path / "journal.log", lambda trial: None)
        opened.begin(journal.Trial(0, {}, "small", "a system"))
        opened.stop()
    assert not opened.trials


def test_the_system_says_how_often_memory_lacked():
    if Path("/proc/vmstat").exists():
        assert journal.kills_for_memory() >= 0
    else:
        assert journal.kills_for_memory() is None


def test_of_equal_accuracies_time_does_not_choose(images, tmp_path, monkeypatch):
    clock = itertools.count(0, -1)  # each fit seems to be quicker than all before
    perfect = np.arange(90)[:, None, None, None] % 3 * np.ones((90, 12, 12, 3), np.float32)
    monkeypatch.setattr(searching.time, "perf_counter", lambda: next(clock) * 1e-3)
    found = search(perfect + images[0] / 100, images[1], tmp_path, trials=4, hold_out=0)
    equal = [row for row in found.leaderboard if row.accuracy == found.best.accuracy]
    assert len(equal) > 1
    assert equal == sorted(equal, key=lambda row: (row.n_features, row.trial))


def test_a_folder_of_another_search_is_refused(images, tmp_path):
    pixels, labels = images
    search(pixels, labels, tmp_path, trials=1)
    for given, options, message in (
        ((pixels, labels), {"seed": 1}, "seed was 0, is 1"),
        ((pixels, labels[::-1]), {}, "labels_sha256 was"),
        ((pixels[:88], labels[:88]), {}, "n_images was 90, is 88.* Give another --folder"),
        ((pixels + 1, labels), {}, "images_sha256"),
    ):
        with pytest.raises(InvalidData, match=message):
            search(*given, tmp_path, trials=1, **options)
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(InvalidData, match="cannot read"):
        search(pixels, labels, tmp_path, trials=1)


def test_two_searches_in_one_folder_are_refused(images, tmp_path):
    pytest.importorskip("fcntl")
    with alone_in(tmp_path), pytest.raises(InvalidData, match="another search is at work"):
        search(*images, tmp_path, trials=1)


def test_what_is_malformed_is_refused_before_anything_is_written(images, tmp_path):
    (pixels, labels), folder = images, tmp_path / "s"
    broken = pixels.copy()
    broken[3, 0, 0, 0] = np.nan
    for given, message in (
        ((pixels, labels[:80]), "80 labels were given for 90 images"),
        ((pixels, labels * 0), "two classes"),
        ((broken, labels), "image 3"),
    ):
        with pytest.raises(InvalidData, match=message):
            search(*given, folder)
    with pytest.raises(InvalidSpec, match="hold_out is 1"):
        search(pixels, labels, folder, hold_out=1)
    assert not folder.exists()
    folder.write_text("a file")
    with pytest.raises(InvalidData, match="is no folder"):
        search(pixels, labels, folder)


def test_a_search_without_a_trial_has_nothing_to_write(images, tmp_path):
    with pytest.raises(InvalidData, match="no trial has been completed"):
        search(*images, tmp_path, seconds=0)


def test_every_preset_can_be_tried(images, tmp_path, monkeypatch):
    """The journal keeps what it says of its classifier as plain data."""
    only_presets(monkeypatch, {name: PRESETS[name] for name in ("fast", "mnist")})
    monkeypatch.setattr("ckncuda.studies.search.space.PATCHES_PER_FILTER", 100)
    found = search(*images, tmp_path, trials=2)
    assert sorted(row.preset for row in found.leaderboard) == ["fast", "mnist"]
    assert "of the best of 2 systems by such accuracies" in found.model.report["validation"]


def test_a_fault_of_ours_ends_the_trial_and_is_not_hidden(images, tmp_path, monkeypatch):
    def broken(self, *_):
        raise ZeroDivisionError

    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(searching._Search, "_judge", broken)
        search(*images, tmp_path, trials=1)
    assert len(search(*images, tmp_path, trials=1).leaderboard) == 1
