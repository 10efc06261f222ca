"""A search over networks, preprocessing and classifiers within a time; resumable, driven by Optuna.

Each trial is fitted on a quarter of the images, on half of them, then on all, and goes on from one to
the next only if it is in the better half of those that came so far (successive halving).  Trials are
compared by their leave-one-out accuracy.

>>> import tempfile
>>> rng = np.random.default_rng(0)
>>> labels = np.arange(60) % 2
>>> images = rng.normal(size=(60, 8, 8, 1)).astype(np.float32) + labels[:, None, None, None]
>>> found = search(images, labels, tempfile.mkdtemp(), SearchOptions(trials=2))
>>> len(found.leaderboard), found.model.predict(images).shape, found.best.accuracy > 0.8
(2, (60,), True)
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend, shared_backend
from ckncuda.backend.operations import promised_memory
from ckncuda.classifier.training_data import check_classes
from ckncuda.classifier.validation import held_out_split
from ckncuda.errors import CknError, InvalidData, printable, require
from ckncuda.given.parameters import number, whole
from ckncuda.images.sources import ArrayImages, SomeImages, host_images
from ckncuda.model.model import Model
from ckncuda.model.presets import PRESETS
from ckncuda.model.system import System
from ckncuda.progress import Progress
from ckncuda.studies.plots import MATPLOTLIB, draw_search
from ckncuda.studies.search.folder import describe, search_folder
from ckncuda.studies.search.journal import MOST_LETTERS, Journal, Trial
from ckncuda.studies.search.leaderboard import Row, write_leaderboard
from ckncuda.studies.search.sampling import check_parameters, suggested, system_of
from ckncuda.studies.search.space import VERSION, SearchSpace, system_of_preset, work
from ckncuda.types import StrPath

ONE_RUNG = 1200  # images, below which a quarter says too little
RUNGS = (4, 2, 1)  # parts of the images
FAILURES = 10  # trials in a row that fail before any succeeds: then the images are at fault


class _OutOfTime(Exception):
    """A trial that would end too late."""


@dataclass(frozen=True)
class SearchOptions:
    """Limits of a search, and what it holds out.

    Attributes
    ----------
    seconds : float
        Of this call.  No trial is begun that would not end in time, if it takes as long as most; the
        first is fitted however long it takes.  0: no trial, just the best so far.
    trials : int or None
        At most, those of earlier calls counted.
    hold_out : float
        Fraction of the images, of each class in proportion, that is kept out of the search to measure the
        best on at its end; all images are fitted then.
    seed : int
        For everything random.
    """

    seconds: float = 600.0
    trials: int | None = None
    hold_out: float = 0.1
    seed: int = 0

    def checked(self) -> "SearchOptions":
        """Return these options as plain numbers, or raise `InvalidSpec` for one that is out of its range."""
        expected = "expected a fraction from 0 (nothing) to below 1"
        return SearchOptions(
            number("seconds", self.seconds, lambda seconds: seconds >= 0, "expected seconds, 0 or more"),
            None if self.trials is None else whole("trials", self.trials, 1),
            number("hold_out", self.hold_out, lambda part: 0 <= part < 1, expected),
            whole("seed", self.seed, 0),
        )


@dataclass(frozen=True)
class SearchResult:
    """Findings of a search.

    Attributes
    ----------
    model : Model
        The best system, fitted on all images; its report says how it was found.
    best : Row
    leaderboard : list of Row
        The best first.
    counts : dict
        How many trials were ``complete``, ``given up`` and ``failed``.
    held_out_accuracy : float or None
        Of the best system, fitted without them, on images that the search never saw.
    n_held_out : int
        How many those are.
    """

    model: Model
    best: Row
    leaderboard: list[Row]
    counts: dict[str, int]
    held_out_accuracy: float | None
    n_held_out: int


def search(
    images: NDArray[Any],
    labels: NDArray[np.int64],
    folder: StrPath,
    options: SearchOptions | None = None,
    *,
    backend: Backend | str = "auto",
    origin: Mapping[str, str | None] | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> SearchResult:
    """Look for the best system within a time, or go on with the search that the folder holds.

    Parameters
    ----------
    images : uint8 or float32 [n, h, w, c]
    labels : int64 [n]
    folder : path-like
        Made if it does not exist.  Holds all trials (``journal.log``), what they are of
        (``search.json``), ``leaderboard.md`` and ``accuracy.png``.
    origin : dict, optional
        Names of where images and labels come from, for people.
    options, backend, progress
        See `SearchOptions` and `Model.fit`.
    tell : callable, optional
        Called with a line for each trial that has ended.

    Raises
    ------
    NotInstalled
        Optuna or matplotlib is not installed.
    InvalidData
        No trial succeeded, the folder is of another search, or images and labels are malformed.
    InvalidSpec
        An option is out of its range.
    """
    options = options or SearchOptions()
    images = host_images(images)
    classes, targets = check_classes(labels)
    if len(targets) != len(images):
        raise InvalidData(f"{len(targets)} labels were given for {len(images)} images; expected one an image")
    ArrayImages(images).read(0, len(images))  # finds what is not finite before the long work
    options = options.checked()
    check_installed()
    folder = Path(folder)
    parts = np.arange(len(images)), np.arange(0)
    if options.hold_out:
        parts = held_out_split(targets, options.hold_out, options.seed)
    about = {"seed": options.seed, "hold_out": options.hold_out, "search_space": VERSION}
    labels = classes[targets]
    with search_folder(folder, describe(images, labels, origin or {}, **about)):
        running = _Search(folder, images, labels, parts, options, backend, progress, tell)
        running.run()
        return running.result()


def check_installed() -> None:
    """Raise `NotInstalled` unless Optuna and matplotlib are there."""
    require(*MATPLOTLIB, "optuna", purpose="the search needs Optuna and matplotlib", extra="search")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


class _Search:
    """A search under way: the trials in its folder, and what each is fitted on."""

    def __init__(
        self,
        folder: Path,
        images: NDArray[Any],
        labels: NDArray[np.int64],
        parts: tuple[NDArray[np.intp], NDArray[np.intp]],
        options: SearchOptions,
        backend: Backend | str,
        progress: Progress | None,
        tell: Callable[[str], None] | None,
    ) -> None:
        self.folder, self.images, self.labels, self.options = folder, images, labels, options
        self.backend = shared_backend(backend)
        self.progress, self.tell = progress, tell or (lambda line: None)
        self.kept, self.held_out = parts  # numbers of images
        self.rungs = _rungs(self.kept, labels, options.seed)
        promised = promised_memory(self.backend)  # of which features and classifier may take the half
        memory = None if promised is None else promised // 2
        self.space = SearchSpace(images.shape[1:], len(images), len(self.rungs[0]), memory)
        self.presets = self._presets()
        self.journal = Journal(folder / "journal.log", self._check)
        self._fitted: tuple[int, Model] | None = None  # the best trial of this run, and its model

    def run(self) -> None:
        """Try one system after another while there is time, which decides how many they are, never which."""
        end = time.perf_counter() + self.options.seconds
        self._publish()
        while True:
            complete, ended = self.journal.complete(), self.journal.trials
            if self.options.trials is not None and len(ended) >= self.options.trials:
                return
            if not complete and len(ended) >= FAILURES:
                raise InvalidData(f"the first {len(ended)} trials all failed; the last: {ended[-1].failure}")
            usual = statistics.median(trial.seconds_in_all for trial in complete) if complete else 0.0
            deadline = end - self._reserve()
            if time.perf_counter() + usual >= deadline:
                return
            try:
                self._try_one(deadline if complete else math.inf)
            except _OutOfTime:
                return
            self._publish()

    def result(self) -> SearchResult:
        """Return the best system, measured on what was held out and fitted on all images."""
        rows = self.journal.rows()
        if not rows:
            ended = self.journal.trials
            raise InvalidData(
                "no trial has been completed, so there is nothing to write: give more --time or --trials"
                + (f"; the last failed: {ended[-1].failure}" if ended and ended[-1].failure else "")
            )
        best = rows[0]
        system = self._system(self.journal.trials[best.trial])
        model = self._fitted[1] if self._fitted and self._fitted[0] == best.trial else None
        if model is None:
            model = self._fit(system, self.kept)
        accuracy = None
        if len(self.held_out):
            unseen = SomeImages(self.images, self.held_out)
            predicted = model.predict(unseen, backend=self.backend, progress=self.progress)
            accuracy = float(np.mean(predicted == self.labels[self.held_out]))
            self._fitted = model = None  # its memory is needed
            model = self._fit(system, np.arange(len(self.images)))
        counts = self.journal.counts()
        if model.report["validation_accuracy"] is not None:
            model.report["validation"] += (
                f"; of the best of {counts['complete']} systems by such accuracies, and so optimistic"
            )
        model.report["search"] = {
            "trials": sum(counts.values()),
            "chosen_by": f"leave-one-out over {len(self.kept)} images, {best.accuracy:.4f}: "
            f"the best of {counts['complete']} complete trials, and so optimistic",
            "held_out_accuracy": accuracy,
            "held_out_images": len(self.held_out),
        }
        return SearchResult(model, best, rows, counts, accuracy, len(self.held_out))

    def _try_one(self, deadline: float) -> None:
        """Carry out one trial, from its choice to its end, whichever it is.

        One that is interrupted, or for which there is no time, does not count: the next run begins with it.
        """
        trial = self._next()
        system = self._system(trial)
        accuracies: dict[int, float] = {}
        try:
            self.journal.begin(trial)  # a disk on which that fails says nothing of the system
            try:
                trial = self._judge(trial, system, accuracies, deadline)
            except (CknError, MemoryError, np.linalg.LinAlgError) as error:
                failure = printable(str(error) or type(error).__name__)[:MOST_LETTERS]
                # The sampler learns to keep away.
                trial = replace(trial, accuracies=accuracies, failure=failure)
        except _OutOfTime:
            self.journal.stop()
            self.tell(f"trial {trial.number}: no time left for {system}")
            raise
        except (KeyboardInterrupt, Exception):  # the latter a fault of ours; the next run goes on either way
            self.journal.stop()
            raise
        self.journal.end(trial)
        self.tell(self.journal.line(trial))

    def _next(self) -> Trial:
        """Return the trial that comes next: a preset while there is one, then what the sampler suggests."""
        trials = self.journal.trials
        tried = {trial.preset for trial in trials}
        for name, system in self.presets.items():
            if name not in tried:
                return Trial(len(trials), self.space.matching(system), name, str(system))
        params = suggested(self.space, trials, self.options.seed)
        return Trial(len(trials), params, None, str(system_of(self.space, params)))

    def _system(self, trial: Trial) -> System:
        """Return the system of a trial."""
        if trial.preset is not None:
            return self.presets[trial.preset]
        return system_of(self.space, dict(trial.params))

    def _check(self, trial: Trial) -> None:
        """Raise `ValueError` for a trial that is none of this search."""
        check_parameters(self.space, trial)
        if trial.preset is not None and trial.preset not in self.presets:
            raise ValueError("it is of a preset that does not fit these images")
        sizes = [len(numbers) for numbers in self.rungs]
        if not set(trial.accuracies) <= set(sizes):
            raise ValueError("its accuracies are of other numbers of images")
        if trial.state == "complete" and sizes[-1] not in trial.accuracies:
            raise ValueError("it is complete, but was not fitted on all images")

    def _judge(self, trial: Trial, system: System, accuracies: dict[int, float], deadline: float) -> Trial:
        """Return a trial with its accuracies, which are put down one by one, up to where it was given up."""
        in_all = 0.0
        for numbers, following in itertools.pairwise([*self.rungs, None]):
            assert numbers is not None
            began = time.perf_counter()
            model = self._fit(system, numbers, len(numbers) / len(self.kept), deadline)
            now = time.perf_counter()
            in_all += now - began
            accuracy = accuracies[len(numbers)] = float(model.report["validation_accuracy"])
            trial = replace(trial, accuracies=dict(accuracies), seconds=now - began, seconds_in_all=in_all)
            if following is None:
                continue
            if trial.preset is None and not self._goes_on(len(numbers), accuracy):
                return trial
            if now + (now - began) * len(following) / len(numbers) > deadline:
                raise _OutOfTime
        if all(row.accuracy < accuracy for row in self.journal.rows()):
            self._fitted = trial.number, model
        return replace(trial, n_features=model.n_features)

    def _goes_on(self, images: int, accuracy: float) -> bool:
        """Return whether an accuracy is in the better half of all trials on so many images."""
        others = [trial.accuracies for trial in self.journal.trials]
        reached = sorted([values[images] for values in others if images in values] + [accuracy])
        return bool(accuracy >= reached[-max(1, len(reached) // 2)])

    def _fit(
        self, system: System, numbers: NDArray[np.intp], share: float = 1.0, deadline: float = math.inf
    ) -> Model:
        """Fit on these images, with as large a share of the patches as they are of the images."""

        def progress(stage: str, done: int, total: int) -> None:
            if time.perf_counter() > deadline:
                raise _OutOfTime
            if self.progress is not None:
                self.progress(stage, done, total)

        return Model.fit(
            SomeImages(self.images, numbers),
            self.labels[numbers],
            system.encoders,
            classifier=system.make_classifier(self.options.seed),
            patches=max(1, round(system.patches * share)),
            seed=self.options.seed,
            backend=self.backend,
            progress=progress,
        )

    def _reserve(self) -> float:
        """Estimate the seconds of the end: the best is fitted without what is held out and with it."""
        rows = self.journal.rows()
        if not rows:
            return 0.0
        at_hand = self._fitted is not None and self._fitted[0] == rows[0].trial
        return rows[0].seconds * (int(not at_hand) + int(bool(self.options.hold_out)))

    def _presets(self) -> dict[str, System]:
        """Return the presets that a search can judge, the cheapest first.

        They come before what is drawn, so that the search does not end worse than they are.  The cheapest is
        fitted however long it takes, and tells what there is time for.
        """
        images, shape = SomeImages(self.images, self.kept), self.images.shape[1:]
        fitting: dict[str, System] = {}
        for name in PRESETS:
            if (system := system_of_preset(name, len(self.images), shape)) is not None:
                resolved = [encoder.resolved(images) for encoder in system.networks]
                fitting[name] = replace(system, encoders=resolved)
        return dict(sorted(fitting.items(), key=lambda item: work(item[1], shape)))

    def _publish(self) -> None:
        """Write the leaderboard and the plot."""
        if rows := self.journal.rows():
            write_leaderboard(rows, self.journal.counts(), len(self.kept), self.folder / "leaderboard.md")
            draw_search(rows, len(self.kept), self.folder / "accuracy.png")


def _rungs(kept: NDArray[np.intp], labels: NDArray[np.int64], seed: int) -> list[NDArray[np.intp]]:
    """Return numbers of images that trials are fitted on: more from one to the next, at last all."""
    order = np.random.default_rng(seed).permutation(kept)
    parts = RUNGS if len(kept) >= ONE_RUNG else (1,)
    rungs = [np.sort(order[: len(kept) // part]) for part in parts]
    return [numbers for numbers in rungs if len(np.unique(labels[numbers])) > 1]
