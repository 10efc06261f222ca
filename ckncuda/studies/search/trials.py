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

import contextlib
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend, get_backend
from ckncuda.classifier.training_data import check_classes
from ckncuda.classifier.validation import held_out_split
from ckncuda.errors import CknError, InvalidData, InvalidSpec, require
from ckncuda.images.sources import ArrayImages, SomeImages, host_images
from ckncuda.model.model import Model
from ckncuda.model.presets import PRESETS
from ckncuda.model.system import System
from ckncuda.progress import Progress
from ckncuda.studies.plots import draw_search
from ckncuda.studies.search.folder import describe, search_folder
from ckncuda.studies.search.journal import Journal
from ckncuda.studies.search.leaderboard import Row, write_leaderboard
from ckncuda.studies.search.space import VERSION, SearchSpace, system_of_preset, work

if TYPE_CHECKING:
    import optuna

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
    folder: str | os.PathLike[str],
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
        Names of where images and labels come from, to be compared when the search goes on.
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
        ``hold_out`` is no fraction.
    """
    options = options or SearchOptions()
    images = host_images(images)
    classes, targets = check_classes(labels)
    if len(targets) != len(images):
        raise InvalidData(f"{len(targets)} labels were given for {len(images)} images; expected one an image")
    ArrayImages(images).read(0, len(images))  # finds what is not finite before the long work
    if not 0 <= options.hold_out < 1:
        raise InvalidSpec(f"hold_out is {options.hold_out}; expected a fraction from 0 (nothing) to below 1")
    check_installed()
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InvalidData(f"{folder} is a file; the search needs a folder: give another name")
    parts = np.arange(len(images)), np.arange(0)
    if options.hold_out:
        parts = held_out_split(targets, options.hold_out, options.seed)
    about = {"seed": options.seed, "hold_out": options.hold_out, "search_space": VERSION}
    with search_folder(folder, describe(images, labels, origin or {}, **about)):
        running = _Search(folder, images, classes[targets], parts, options, backend, progress, tell)
        running.run()
        return running.result()


def check_installed() -> None:
    """Raise `NotInstalled` unless Optuna and matplotlib are there."""
    require("matplotlib", "optuna", purpose="the search needs Optuna and matplotlib", extra="search")
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
        self.backend = get_backend(backend) if isinstance(backend, str) else backend
        self.progress, self.tell = progress, tell or (lambda line: None)
        self.kept, self.held_out = parts  # numbers of images
        self.rungs = _rungs(self.kept, labels, options.seed)
        self.space = SearchSpace(images.shape[1:], len(images), len(self.rungs[0]))
        self.journal = Journal(folder / "journal.log")
        self._fitted: tuple[int, Model] | None = None  # the best trial of this run, and its model
        self._enqueue_presets()

    def run(self) -> None:
        """Try one system after another while there is time."""
        end = time.perf_counter() + self.options.seconds
        out_of_time = 0
        self._publish()
        while True:
            complete, ended = self.journal.complete(), self.journal.ended()
            if self.options.trials is not None and len(ended) >= self.options.trials:
                return
            if not complete and len(ended) >= FAILURES:
                last = self.journal.failure(ended[-1].number)
                raise InvalidData(f"the first {len(ended)} trials all failed; the last: {last}")
            usual = statistics.median(t.user_attrs["seconds_in_all"] for t in complete) if complete else 0.0
            deadline = end - self._reserve()
            if time.perf_counter() + usual >= deadline:
                return
            try:
                self._try_one(deadline if complete else math.inf, out_of_time)
            except _OutOfTime:
                out_of_time += 1
            self._publish()

    def result(self) -> SearchResult:
        """Return the best system, measured on what was held out and fitted on all images."""
        rows = self.journal.rows()
        if not rows:
            ended = self.journal.ended()
            raise InvalidData(
                "no trial has been completed, so there is nothing to write: give more --time or --trials"
                + (f"; the last failed: {self.journal.failure(ended[-1].number)}" if ended else "")
            )
        best = rows[0]
        system = System.from_dict(self.journal.trials()[best.trial].user_attrs["system"])
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

    def _try_one(self, deadline: float, out_of_time: int) -> None:
        """Carry out one trial, from its choice to its end, whichever it is.

        A trial that is interrupted, or for which there is no time, does not count: the sampler is not told
        of it, and the next run begins with the same system, since the sampler is seeded by how many
        trials have ended.
        """
        import optuna

        state = optuna.trial.TrialState
        so_far = [self.options.seed, len(self.journal.ended()), out_of_time]
        seed = int(np.random.SeedSequence(so_far).generate_state(1)[0])
        self.journal.study.sampler = optuna.samplers.TPESampler(seed=seed)
        try:
            trial = self.journal.study.ask()
            system = self._system(trial)
            trial.set_user_attr("system", system.to_dict())
            accuracy = self._judge(trial, system, deadline)
            pruned = state.PRUNED if accuracy is None else None
            self.journal.study.tell(trial, accuracy, state=pruned)
        except (CknError, MemoryError, np.linalg.LinAlgError) as error:
            trial.set_user_attr("failure", str(error) or type(error).__name__)
            self.journal.study.tell(trial, state=state.PRUNED)  # so that the sampler learns to keep away
            self.tell(f"trial {trial.number}: failed: {self.journal.failure(trial.number)}")
            return
        except _OutOfTime:
            self.journal.study.tell(trial, state=state.FAIL)
            self.tell(f"trial {trial.number}: no time left for {system}")
            raise
        except (KeyboardInterrupt, Exception):  # the latter a fault of ours; the next run goes on either way
            with contextlib.suppress(Exception):  # Optuna, too, was interrupted, and where is not known
                self.journal.end_running(state.FAIL)
            raise
        self.tell(self.journal.line(trial.number))

    def _system(self, trial: "optuna.trial.Trial") -> System:
        name = trial.user_attrs.get("preset")
        if name is None:
            return self.space.draw(trial)
        system = self._preset(name)
        assert system is not None
        for parameter in self.space.matching(system):
            self.space.suggest(trial, parameter)
        return system

    def _judge(self, trial: "optuna.trial.Trial", system: System, deadline: float) -> float | None:
        """Return the leave-one-out accuracy on all images of the search; None if it was given up before."""
        in_all = 0.0
        for numbers, following in itertools.pairwise([*self.rungs, None]):
            assert numbers is not None
            began = time.perf_counter()
            model = self._fit(system, numbers, len(numbers) / len(self.kept), deadline)
            now = time.perf_counter()
            in_all += now - began
            accuracy = float(model.report["validation_accuracy"])
            trial.report(accuracy, len(numbers))
            trial.set_user_attr("seconds", now - began)
            trial.set_user_attr("seconds_in_all", in_all)
            if following is None:
                continue
            if "preset" not in trial.user_attrs and not self._goes_on(len(numbers), accuracy):
                return None
            if now + (now - began) * len(following) / len(numbers) > deadline:
                raise _OutOfTime
        trial.set_user_attr("n_features", model.n_features)
        if all(row.accuracy < accuracy for row in self.journal.rows()):
            self._fitted = trial.number, model
        return accuracy

    def _goes_on(self, images: int, accuracy: float) -> bool:
        """Return whether an accuracy is in the better half of all trials on so many images.

        Optuna's pruner would count those that were interrupted, too.
        """
        others = [t.intermediate_values for t in self.journal.ended()]
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

    def _enqueue_presets(self) -> None:
        """Let presets come first, so that the search does not end worse than they are."""
        settled = {t.user_attrs.get("preset") for t in self.journal.trials() if t.state.name != "FAIL"}
        systems = {name: self._preset(name) for name in PRESETS if name not in settled}
        fitting = {name: system for name, system in systems.items() if system is not None}
        # The cheapest first: it is fitted however long it takes, and tells what there is time for.
        for name, system in sorted(fitting.items(), key=lambda item: work(item[1], self.images.shape[1:])):
            self.journal.study.enqueue_trial(self.space.matching(system), user_attrs={"preset": name})

    def _preset(self, name: str) -> System | None:
        """Return a preset that a search can judge, with the preprocessing that the images suggest."""
        system = system_of_preset(name, len(self.images), self.images.shape[1:])
        if system is None:
            return None
        images = SomeImages(self.images, self.kept)
        return replace(system, encoders=[encoder.resolved(images) for encoder in system.networks])

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
