"""The journal of a search: its trials, in one file that outlives the process.

A line is a digest and a JSON object: a trial *began*, it *stopped* (Ctrl-C, no time left), or it *ended*.
A trial is known by how many have ended before it, so that one that was broken off is tried again under the
same number, and all that follow are as if nothing had happened.
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ckncuda.errors import InvalidData, printable
from ckncuda.files import strict_json
from ckncuda.files.own_folder import append_whole, open_own_file
from ckncuda.files.regular_file import read_within
from ckncuda.given.parameters import number, whole
from ckncuda.studies.search.leaderboard import Row

MOST_BYTES = 64 << 20  # of a journal: half a million trials
MOST_LETTERS = 2000  # of a text in it
ATTEMPTS = 10  # at a trial in the midst of which the process is ended again and again
FOR_MEMORY = 2  # of them, in which the system ended a process for lack of memory
UNKNOWN = 3  # of them, where the system does not say
DIGITS = 16  # of a line's digest


@dataclass(frozen=True)
class Trial:
    """One trial of a search.

    Attributes
    ----------
    number : int
        How many ended before it.
    params : dict
        What was chosen, by the names of the search space; of a preset what the space has words for.
    preset : str or None
        The preset that it is.
    system : str
        One line for people.
    accuracies : dict
        Leave-one-out, by the number of images that it was fitted on.
    seconds, seconds_in_all : float
        Of its last fit, and of all.
    n_features : int
        Of an image; 0 unless it was fitted on all images.
    failure : str or None
        Why it failed.
    """

    number: int
    params: Mapping[str, Any]
    preset: str | None
    system: str
    accuracies: Mapping[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    seconds_in_all: float = 0.0
    n_features: int = 0
    failure: str | None = None

    @property
    def state(self) -> str:
        """Its end: ``complete``, ``given up`` or ``failed``."""
        if self.failure is not None:
            return "failed"
        return "complete" if self.n_features else "given up"

    @property
    def accuracy(self) -> float:
        """The accuracy on the most images; of none 0."""
        return self.accuracies[max(self.accuracies)] if self.accuracies else 0.0


class Journal:
    """Trials of a search, those of earlier processes included.

    Parameters
    ----------
    path : Path
        Nothing need stand there.
    check : callable
        Raises `ValueError` for a trial that is none of this search.

    Attributes
    ----------
    trials : list of Trial
        Those that have ended, in order.

    Raises
    ------
    InvalidData
        The file is damaged, no journal, or not to be read.
    """

    def __init__(self, path: Path, check: Callable[[Trial], None]) -> None:
        self.path, self._check = path, check
        self.trials: list[Trial] = []
        self._begun: Trial | None = None
        self._attempts: list[int | None] = []  # kills for memory before each, but for those that were stopped
        self._read()
        if self._begun is not None and (reason := _too_much([*self._attempts, kills_for_memory()])):
            self.end(replace(self._begun, failure=reason))
        self._begun = None

    def begin(self, trial: Trial) -> None:
        """Write that a trial is begun."""
        self._begun = trial
        self._append("began", asdict(trial) | {"kills_for_memory": kills_for_memory()})

    def stop(self) -> None:
        """Write that the trial that is under way was broken off, by no fault of its own."""
        if self._begun is not None:
            stopped, self._begun = self._begun, None
            self._append("stopped", {"number": stopped.number})

    def end(self, trial: Trial) -> None:
        """Write how a trial has ended."""
        self._begun = None  # Ctrl-C from here on does not stop it any more
        self.trials.append(trial)
        self._append("ended", asdict(trial))

    def rows(self) -> list[Row]:
        """Return the leaderboard, the best first; of equal ones that with the fewest features."""
        rows = [
            Row(t.number, t.accuracy, t.seconds, t.n_features, t.system, t.preset) for t in self.complete()
        ]
        return sorted(rows, key=lambda row: (-row.accuracy, row.n_features, row.trial))

    def complete(self) -> list[Trial]:
        """Return the trials that were fitted on all images of the search."""
        return [trial for trial in self.trials if trial.state == "complete"]

    def counts(self) -> dict[str, int]:
        """Count the trials that were completed, given up, and failed."""
        states = [trial.state for trial in self.trials]
        return {state: states.count(state) for state in ("complete", "given up", "failed")}

    def line(self, trial: Trial) -> str:
        """Return a line about a trial that has ended."""
        if trial.failure is not None:
            return f"trial {trial.number}: failed: {trial.failure}"
        rows = self.rows()
        best = f"best {rows[0].accuracy:.4f}, trial {rows[0].trial}" if rows else "none complete yet"
        images = max(trial.accuracies)
        on, end = ("", "") if trial.state == "complete" else (f" on {images} images", ", given up")
        found = f"{trial.accuracy:.4f}{on} in {trial.seconds_in_all:.1f} s{end}"
        preset = f" (preset {trial.preset})" if trial.preset else ""
        return f"trial {trial.number}: {found} ({best}): {trial.system}{preset}"

    def _read(self) -> None:
        try:
            content = read_within(self.path, MOST_BYTES, follow=False)
        except FileNotFoundError:
            return
        whole_lines = content[: content.rfind(b"\n") + 1]
        for place, line in enumerate(whole_lines.split(b"\n")[:-1], 1):
            try:
                self._replay(*_parsed(line))
            except ValueError as error:
                raise InvalidData(
                    f"{self.path} is damaged, or not the journal of a search (line {place}: "
                    f"{error}): move {self.path.parent} away, or give another --folder"
                ) from error
        if len(whole_lines) < len(content):  # a process that was ended in the midst of a line left half of it
            with open_own_file(self.path) as file:
                file.truncate(len(whole_lines))

    def _replay(self, event: str, about: dict[str, Any]) -> None:
        """Take in one line; raise `ValueError` where it does not follow on those before it."""
        if whole("number", about.get("number"), 0) != len(self.trials):
            raise ValueError("it is not of the trial that comes next")
        if event == "stopped":
            self._attempts = self._attempts[:-1]
            return
        kills = about.pop("kills_for_memory", None) if event == "began" else None
        trial = _checked(about)
        self._check(trial)
        if event == "began":
            self._begun = trial
            self._attempts.append(None if kills is None else whole("kills_for_memory", kills, 0))
        elif event == "ended":
            if trial.failure is None and not trial.accuracies:
                raise ValueError("a trial ended without an accuracy")
            self.trials.append(trial)
            self._begun, self._attempts = None, []
        else:
            raise ValueError("a trial neither begins nor ends")

    def _append(self, event: str, about: dict[str, Any]) -> None:
        text = json.dumps({"event": event} | about, ensure_ascii=True).encode()
        try:
            with open_own_file(self.path) as file:
                append_whole(file, _digest(text) + b" " + text + b"\n")
                os.fsync(file.fileno())
        except OSError as error:
            raise InvalidData(
                f"cannot write {self.path}: {error.strerror}; once that is mended, the same search goes on"
            ) from error


def kills_for_memory() -> int | None:
    """Return how many processes the system has ended for lack of memory since it started; None: not said."""
    try:
        text = Path("/proc/vmstat").read_text()  # of Linux
    except OSError:
        return None
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def _too_much(kills: Sequence[int | None]) -> str:
    """Say why a trial is not tried again, or nothing.

    Whoever ends a process, an impatient person or a queue of jobs, says nothing of the trial; the system that
    does so for lack of memory says that it is too large.

    Parameters
    ----------
    kills : sequence of int or None
        What `kills_for_memory` said before each attempt, and says now.
    """
    pairs = list(itertools.pairwise(kills))
    for_memory = sum(None not in pair and pair[0] != pair[1] for pair in pairs)
    unknown = sum(None in pair for pair in pairs)
    if for_memory >= FOR_MEMORY:
        return f"its process was ended {for_memory} times for lack of memory: it is too large for the machine"
    if for_memory + unknown >= UNKNOWN or len(pairs) >= ATTEMPTS:
        return f"its process was ended {len(pairs)} times in the midst of it"
    return ""


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:DIGITS].encode()


def _parsed(line: bytes) -> tuple[str, dict[str, Any]]:
    """Return what a line tells of, and the rest of it; raise `ValueError` if it is damaged."""
    digest, _, text = line.partition(b" ")
    if digest != _digest(text):
        raise ValueError("its digest is another's")
    about = strict_json.loads(text)
    if not isinstance(about, dict):
        raise ValueError("it is no object")
    return str(about.pop("event", "")), about


def _checked(about: dict[str, Any]) -> Trial:
    """Return the trial of a line; raise `ValueError` for what no search writes."""
    names = {each.name for each in fields(Trial)}
    if set(about) != names:
        raise ValueError("its names are others")
    for name in ("params", "accuracies"):
        if not isinstance(about[name], dict):
            raise ValueError(f"{name} is no object")
    for name in ("preset", "system", "failure"):
        text = about[name]
        if text is None and name != "system":
            continue
        if not isinstance(text, str) or len(text) > MOST_LETTERS or printable(text) != text:
            raise ValueError(f"{name} is no text")
    accuracies = {
        int(images): number("an accuracy", value, lambda accuracy: 0 <= accuracy <= 1, "no fraction")
        for images, value in about["accuracies"].items()
        if whole("a number of images", int(images) if images.isdecimal() else images, 1)
    }
    for name in ("seconds", "seconds_in_all"):
        number(name, about[name], lambda seconds: seconds >= 0, "no duration")
    whole("n_features", about["n_features"], 0)
    return Trial(**about | {"accuracies": accuracies})
