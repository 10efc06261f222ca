"""A search over networks, preprocessing and classifiers within a time; resumable, driven by Optuna.

Each trial is fitted on a quarter of the images, on half of them, then on all, and goes on from one to
the next only if it is in the better half of those that came so far (successive halving).  Trials are
compared by their leave-one-out accuracy.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend, get_backend
from ckncuda.backend.arrays import on_host
from ckncuda.classifier.selection import held_out_split
from ckncuda.classifier.training_data import check_classes
from ckncuda.errors import CknError, InvalidData, InvalidSpec
from ckncuda.files.atomic_file import atomic_file
from ckncuda.images.sources import ArrayImages, SomeImages
from ckncuda.model.model import Model
from ckncuda.model.presets import PRESETS
from ckncuda.progress import Progress
from ckncuda.studies.search.space import VERSION, Candidate, SearchSpace, candidate_of_preset

if TYPE_CHECKING:
    import optuna

NEEDS = "the search needs Optuna and matplotlib; install them with: pip install 'ckncuda[search]'"
ONE_RUNG = 1200  # images, below which a quarter says too little
RUNGS = (4, 2, 1)  # parts of the images
DIGESTED = 100  # images that tell whether a search goes on with those that it began with
FAILURES = 10  # trials in a row that fail before any succeeds: then the images are at fault
OPTIMISTIC = "the accuracy that chose is the best of many, and so optimistic"


class _OutOfTime(Exception):
    """A trial that would end too late."""


class SearchUnavailable(CknError, ImportError):
    """What the search needs is not installed."""


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard: a trial that was fitted on all images of the search.

    Attributes
    ----------
    trial : int
        Its number, from 0.
    accuracy : float
        Leave-one-out, on the images of the search.
    seconds : float
        Of the fit on all of them.
    n_features : int
        Of an image.
    system : str
        One line for people.
    preset : str or None
        The preset that it is.
    """

    trial: int
    accuracy: float
    seconds: float
    n_features: int
    system: str
    preset: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

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
    *,
    seconds: float = 600.0,
    trials: int | None = None,
    hold_out: float = 0.1,
    seed: int = 0,
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
    seconds : float
        Of this call.  No trial is begun that would not end in time, if it takes as long as most; the
        first is fitted however long it takes.  0: no trial, just the best so far.
    trials : int, optional
        At most, those of earlier calls counted.
    hold_out : float
        Fraction of the images, of each class in proportion, that is kept out of the search to measure the
        best on at its end; all images are fitted then.
    seed : int
        For everything random.
    backend : Backend or str
        A backend or the name of one.
    origin : dict, optional
        Names of where images and labels come from, to be compared when the search goes on.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.
    tell : callable, optional
        Called with a line for each trial that has ended.

    Raises
    ------
    SearchUnavailable
        Optuna or matplotlib is not installed.
    InvalidData
        No trial succeeded, the folder is of another search, or images and labels are malformed.
    InvalidSpec
        ``hold_out`` is no fraction.

    Examples
    --------
    >>> import tempfile
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 2
    >>> images = rng.normal(size=(60, 8, 8, 1)).astype(np.float32) + labels[:, None, None, None]
    >>> found = search(images, labels, tempfile.mkdtemp(), trials=2)
    >>> len(found.leaderboard), found.model.predict(images).shape, found.best.accuracy > 0.8
    (2, (60,), True)
    """
    images = on_host(images)
    classes, targets = check_classes(labels)
    if len(targets) != len(images):
        raise InvalidData(f"{len(targets)} labels were given for {len(images)} images; expected one an image")
    ArrayImages(images).read(0, len(images))  # finds what is not finite before the long work
    if not 0 <= hold_out < 1:
        raise InvalidSpec(f"hold_out is {hold_out}; expected a fraction from 0 (nothing) to below 1")
    check_installed()
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InvalidData(f"{folder} is a file; the search needs a folder: give another name")
    about = dict(origin or {}) | {
        "images_sha256": _digest(images[:: max(1, len(images) // DIGESTED)]),
        "labels_sha256": _digest(labels.astype(np.int64)),
        "n_images": len(images),
        "image_shape": list(images.shape[1:]),
        "image_type": str(images.dtype),
        "seed": seed,
        "hold_out": hold_out,
        "search_space": VERSION,
    }
    _check_same_search(folder, about)
    kept, held_out = np.arange(len(images)), np.arange(0)
    if hold_out:
        kept, held_out = held_out_split(targets, hold_out, seed)
    backend = get_backend(backend) if isinstance(backend, str) else backend
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        with atomic_file(folder / "search.json") as file:
            file.write(json.dumps(about, indent=2).encode() + b"\n")
        running = _Search(folder, images, classes[targets], kept, seed, backend, progress, tell or _silent)
        running.run(seconds, trials, refitted_at_end=bool(hold_out))
        return running.result(held_out)


def check_installed() -> None:
    """Raise `SearchUnavailable` unless Optuna and matplotlib are there."""
    try:
        import matplotlib  # noqa: F401
        import optuna
    except ImportError as error:
        raise SearchUnavailable(NEEDS) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


class _Search:
    """A search under way: the trials in its folder, and what each is fitted on."""

    def __init__(
        self,
        folder: Path,
        images: NDArray[Any],
        labels: NDArray[np.int64],
        kept: NDArray[np.intp],
        seed: int,
        backend: Backend,
        progress: Progress | None,
        tell: Callable[[str], None],
    ) -> None:
        self.folder, self.images, self.labels, self.kept = folder, images, labels, kept
        self.seed, self.backend, self.progress, self.tell = seed, backend, progress, tell
        self.rungs = _rungs(kept, labels, seed)
        self.space = SearchSpace(images.shape[1:], len(images), len(self.rungs[0]))
        self.study = _open_study(folder / "journal.log")
        self._fitted: tuple[int, Model] | None = None  # the best trial of this run, and its model
        self._enqueue_presets()

    def run(self, seconds: float, most: int | None, refitted_at_end: bool) -> None:
        """Try one system after another while there is time."""
        end = time.perf_counter() + seconds
        out_of_time = 0
        self._publish()
        while True:
            complete, ended = self._complete(), self._ended()
            if most is not None and len(ended) >= most:
                return
            if not complete and len(ended) >= FAILURES:
                raise InvalidData(
                    f"the first {len(ended)} trials all failed; the last: {_failure(ended[-1])}"
                )
            usual = statistics.median(t.user_attrs["seconds_in_all"] for t in complete) if complete else 0.0
            deadline = end - self._reserve(refitted_at_end)
            if time.perf_counter() + usual >= deadline:
                return
            try:
                self._try_one(deadline if complete else math.inf, out_of_time)
            except _OutOfTime:
                out_of_time += 1
            self._publish()

    def result(self, held_out: NDArray[np.intp]) -> SearchResult:
        """The best system, measured on what was held out and fitted on all images."""
        rows = self.rows()
        if not rows:
            ended = self._ended()
            raise InvalidData(
                "no trial has been completed, so there is nothing to write: give more --time or --trials"
                + (f"; the last failed: {_failure(ended[-1])}" if ended else "")
            )
        best = rows[0]
        candidate = Candidate.from_dict(self._trial(best.trial).user_attrs["system"])
        model = self._fitted[1] if self._fitted and self._fitted[0] == best.trial else None
        if model is None:
            model = self._fit(candidate, self.kept)
        accuracy = None
        if len(held_out):
            predicted = model.predict(
                SomeImages(self.images, held_out), backend=self.backend, progress=self.progress
            )
            accuracy = float(np.mean(predicted == self.labels[held_out]))
            self._fitted = model = None  # its memory is needed
            model = self._fit(candidate, np.arange(len(self.images)))
        counts = self.counts()
        if model.report["validation_accuracy"] is not None:
            model.report["validation"] += (
                f"; of the best of {counts['complete']} systems by such accuracies, and so optimistic"
            )
        model.report["search"] = {
            "trials": sum(counts.values()),
            "chosen_by": f"leave-one-out over {len(self.kept)} images, {best.accuracy:.4f}: "
            f"the best of {counts['complete']} complete trials, and so optimistic",
            "held_out_accuracy": accuracy,
            "held_out_images": len(held_out),
        }
        return SearchResult(model, best, rows, counts, accuracy, len(held_out))

    def rows(self) -> list[Row]:
        """The leaderboard, the best first; of equal ones the quickest."""
        rows = [
            Row(
                t.number,
                float(t.value or 0.0),
                t.user_attrs["seconds"],
                t.user_attrs["n_features"],
                str(Candidate.from_dict(t.user_attrs["system"])),
                t.user_attrs.get("preset"),
            )
            for t in self._complete()
        ]
        return sorted(rows, key=lambda row: (-row.accuracy, row.seconds, row.trial))

    def counts(self) -> dict[str, int]:
        """How many trials were completed, given up, and failed."""
        ended = self._ended()
        failed = sum("failure" in t.user_attrs or not t.intermediate_values for t in ended)
        complete = len(self._complete())
        return {"complete": complete, "given up": len(ended) - complete - failed, "failed": failed}

    def _try_one(self, deadline: float, out_of_time: int) -> None:
        """One trial, from its choice to its end, whichever it is.

        A trial that is interrupted, or for which there is no time, does not count: the sampler is not told
        of it, and the next run begins with the same system, since the sampler is seeded by how many
        trials have ended.
        """
        import optuna

        state = optuna.trial.TrialState
        seed = np.random.SeedSequence([self.seed, len(self._ended()), out_of_time]).generate_state(1)[0]
        self.study.sampler = optuna.samplers.TPESampler(seed=int(seed))
        try:
            trial = self.study.ask()
            candidate = self._candidate(trial)
            trial.set_user_attr("system", candidate.to_dict())
            accuracy = self._judge(trial, candidate, deadline)
            if accuracy is None:
                self.study.tell(trial, state=state.PRUNED)
            else:
                self.study.tell(trial, accuracy)
        except (CknError, MemoryError, np.linalg.LinAlgError) as error:
            trial.set_user_attr("failure", str(error) or type(error).__name__)
            self.study.tell(trial, state=state.PRUNED)  # so that the sampler learns to keep away
            self.tell(f"trial {trial.number}: failed: {_failure(self._trial(trial.number))}")
            return
        except _OutOfTime:
            self.study.tell(trial, state=state.FAIL)
            self.tell(f"trial {trial.number}: no time left for {candidate}")
            raise
        except (KeyboardInterrupt, Exception):  # the latter a fault of ours; the next run goes on either way
            with contextlib.suppress(Exception):  # Optuna, too, was interrupted, and where is not known
                _end_running(self.study, state.FAIL)
            raise
        self._say(trial.number)

    def _candidate(self, trial: "optuna.trial.Trial") -> Candidate:
        name = trial.user_attrs.get("preset")
        if name is None:
            return self.space.draw(trial)
        candidate = self._preset(name)
        assert candidate is not None
        for parameter in self.space.matching(candidate):
            self.space.suggest(trial, parameter)
        return candidate

    def _judge(self, trial: "optuna.trial.Trial", candidate: Candidate, deadline: float) -> float | None:
        """Leave-one-out accuracy on all images of the search; None if it was given up on the way there."""
        in_all = 0.0
        for numbers, following in itertools.pairwise([*self.rungs, None]):
            assert numbers is not None
            began = time.perf_counter()
            model = self._fit(candidate, numbers, len(numbers) / len(self.kept), deadline)
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
        if all(row.accuracy < accuracy for row in self.rows()):
            self._fitted = trial.number, model
        return accuracy

    def _goes_on(self, images: int, accuracy: float) -> bool:
        """Whether it is in the better half of all trials that were fitted on so many images.

        Optuna's pruner would count those that were interrupted, too.
        """
        others = [t.intermediate_values for t in self._ended()]
        reached = sorted([values[images] for values in others if images in values] + [accuracy])
        return bool(accuracy >= reached[-max(1, len(reached) // 2)])

    def _fit(
        self, candidate: Candidate, numbers: NDArray[np.intp], share: float = 1.0, deadline: float = math.inf
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
            [candidate.encoder],
            classifier=candidate.make_classifier(self.seed),
            patches=max(1, round(candidate.patches * share)),
            seed=self.seed,
            backend=self.backend,
            progress=progress,
        )

    def _reserve(self, refitted_at_end: bool) -> float:
        """Seconds that the end takes: the best is fitted without what is held out and with it."""
        rows = self.rows()
        if not rows:
            return 0.0
        at_hand = self._fitted is not None and self._fitted[0] == rows[0].trial
        return rows[0].seconds * (int(not at_hand) + int(refitted_at_end))

    def _enqueue_presets(self) -> None:
        """Presets come first, so that the search does not end worse than they are."""
        import optuna

        state = optuna.trial.TrialState
        settled = {
            t.user_attrs.get("preset") for t in self.study.get_trials(deepcopy=False) if t.state != state.FAIL
        }
        candidates = {name: self._preset(name) for name in PRESETS if name not in settled}
        fitting = {name: candidate for name, candidate in candidates.items() if candidate is not None}
        # The cheapest first: it is fitted however long it takes, and tells what there is time for.
        for name, candidate in sorted(fitting.items(), key=lambda item: item[1].work(self.images.shape[1:])):
            self.study.enqueue_trial(self.space.matching(candidate), user_attrs={"preset": name})

    def _preset(self, name: str) -> Candidate | None:
        """Its preprocessing as the images suggest, where it leaves that open."""
        preset = PRESETS.get(name)
        candidate = preset and candidate_of_preset(preset, len(self.images), self.images.shape[1:])
        if not candidate:
            return None
        resolved = candidate.encoder.resolved(SomeImages(self.images, self.kept))
        return replace(candidate, encoder=resolved)

    def _trial(self, number: int) -> "optuna.trial.FrozenTrial":
        return self.study.get_trials(deepcopy=False)[number]

    def _complete(self) -> "list[optuna.trial.FrozenTrial]":
        return [t for t in self._ended() if t.state.name == "COMPLETE"]

    def _ended(self) -> "list[optuna.trial.FrozenTrial]":
        """Trials that count: not those that were interrupted."""
        trials = self.study.get_trials(deepcopy=False)
        return [t for t in trials if t.state.name in ("COMPLETE", "PRUNED")]

    def _say(self, number: int) -> None:
        """A line about a trial that has ended."""
        trial, rows = self._trial(number), self.rows()
        system = Candidate.from_dict(trial.user_attrs["system"])
        best = f"best {rows[0].accuracy:.4f}, trial {rows[0].trial}" if rows else "none complete yet"
        last = trial.last_step or 0
        accuracy = trial.intermediate_values[last]
        seconds = f"{trial.user_attrs['seconds_in_all']:.1f} s"
        if trial.state.name == "COMPLETE":
            found = f"{accuracy:.4f} in {seconds}"
        else:
            found = f"{accuracy:.4f} on {last} images in {seconds}, given up"
        preset = trial.user_attrs.get("preset")
        self.tell(f"trial {number}: {found} ({best}): {system}{f' (preset {preset})' if preset else ''}")

    def _publish(self) -> None:
        """Write the leaderboard and the plot."""
        rows = self.rows()
        if not rows:
            return
        with atomic_file(self.folder / "leaderboard.md") as file:
            file.write(_markdown(rows, self.counts(), len(self.kept)).encode())
        draw(rows, len(self.kept), self.folder / "accuracy.png")


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Rows than which none is both quicker and more accurate, the quickest first.

    Examples
    --------
    >>> rows = [Row(0, 0.7, 2, 8, ""), Row(1, 0.6, 1, 8, ""), Row(2, 0.65, 3, 8, "")]
    >>> [row.trial for row in pareto_front(rows)]
    [1, 0]
    """
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.seconds, -row.accuracy)):
        if not front or row.accuracy > front[-1].accuracy:
            front.append(row)
    return front


def draw(rows: Sequence[Row], images: int, path: Path) -> None:
    """Write a PNG: accuracy of each complete trial against the seconds of its fit, best and front marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes: Any = figure.subplots()
    front, best = pareto_front(rows), rows[0]
    end = max(row.seconds for row in rows)
    axes.step(
        [*(row.seconds for row in front), end],
        [*(row.accuracy for row in front), front[-1].accuracy],
        where="post",
        color="#4c72b0",
        linewidth=1,
        label="best within so many seconds (Pareto front)",
    )
    for chosen, marker, label in (
        ([row for row in rows if row.preset is None], "o", "trials"),
        ([row for row in rows if row.preset is not None], "s", "presets"),
    ):
        if chosen:
            seconds, accuracies = [row.seconds for row in chosen], [row.accuracy for row in chosen]
            axes.scatter(seconds, accuracies, s=28, marker=marker, alpha=0.8, label=label)
    presets = sorted((row for row in rows if row.preset is not None), key=lambda row: row.seconds)
    for number, row in enumerate(presets):  # below and above in turn: neighbours would hide one another
        place, side = ((0, -8), "top") if number % 2 == 0 else ((0, 8), "bottom")
        axes.annotate(
            row.preset,
            (row.seconds, row.accuracy),
            xytext=place,
            textcoords="offset points",
            ha="center",
            va=side,
            fontsize=8,
        )
    axes.scatter(
        [best.seconds],
        [best.accuracy],
        s=220,
        marker="*",
        color="#c44e52",
        zorder=3,
        label=f"best: {best.accuracy:.4f}, trial {best.trial}",
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(0.08, 0.1)
    axes.set_xlabel("seconds of the fit")
    axes.set_ylabel(f"leave-one-out accuracy on {images:,} images")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=9)
    with atomic_file(path) as file:
        canvas: Any = FigureCanvasAgg(figure)  # matplotlib types it where it is installed, in part
        canvas.print_png(file)


def table(rows: Sequence[Row]) -> list[str]:
    """The leaderboard as lines of a table for people."""
    lines = ["rank  trial  accuracy  seconds  features  system"]
    for rank, row in enumerate(rows, 1):
        lines.append(
            f"{rank:>4}  {row.trial:>5}  {row.accuracy:>8.4f}  {row.seconds:>7.1f}  {row.n_features:>8}  "
            + _named(row)
        )
    return lines


def _markdown(rows: Sequence[Row], counts: Mapping[str, int], images: int) -> str:
    """The whole leaderboard as a file."""
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    lines = [
        "# Leaderboard",
        "",
        f"Leave-one-out accuracy on {images:,} images; {OPTIMISTIC}. Trials: {said}. A system is its layers",
        "(filters, size of the patches, sigma or kernel, subsampling), preprocessing and classifier.",
        "",
        "| rank | trial | accuracy | seconds of the fit | features | system |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {rank} | {row.trial} | {row.accuracy:.4f} | {row.seconds:.1f} | {row.n_features} "
        f"| {_named(row)} |"
        for rank, row in enumerate(rows, 1)
    ]
    return "\n".join([*lines, "", "![accuracy against seconds](accuracy.png)", ""])


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def _named(row: Row) -> str:
    return row.system if row.preset is None else f"{row.system} (preset {row.preset})"


def leaderboard_data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The leaderboard as plain data."""
    return [asdict(row) for row in rows]


def _rungs(kept: NDArray[np.intp], labels: NDArray[np.int64], seed: int) -> list[NDArray[np.intp]]:
    """Numbers of the images that trials are fitted on in turn: each has those before it, the last all."""
    order = np.random.default_rng(seed).permutation(kept)
    parts = RUNGS if len(kept) >= ONE_RUNG else (1,)
    rungs = [np.sort(order[: len(kept) // part]) for part in parts]
    return [numbers for numbers in rungs if len(np.unique(labels[numbers])) > 1]


def _open_study(journal: Path) -> "optuna.study.Study":
    """The trials in the folder.

    One that is still running there was ended together with its process, by no Ctrl-C: it is not tried
    again, since it may have been too large for the machine.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if journal.exists():  # a process that was ended in the midst of a line left half of it
        content = journal.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(journal, content.rfind(b"\n") + 1)
    backend = JournalFileBackend(str(journal), lock_obj=JournalFileOpenLock(str(journal)))
    try:
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="ckn search",
            direction="maximize",
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
    except (ValueError, KeyError, TypeError) as error:  # what is not JSON is a ValueError
        raise InvalidData(
            f"{journal} is damaged, or not the journal of a search ({error}): move {journal.parent} away, "
            "or give another --folder"
        ) from error
    _end_running(study, optuna.trial.TrialState.PRUNED)
    return study


def _end_running(study: "optuna.study.Study", state: "optuna.trial.TrialState") -> None:
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name == "RUNNING":
            study.tell(trial.number, state=state)


def _check_same_search(folder: Path, about: Mapping[str, Any]) -> None:
    """Raise `InvalidData` if the folder holds a search of something else."""
    path = folder / "search.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InvalidData(f"cannot read {path}: {error}; give another --folder") from error
    if not isinstance(stored, dict):
        raise InvalidData(f"{path} is not what a search writes; give another --folder")
    differing = [name for name in about if stored.get(name) != about[name]]
    if differing:
        what = "; ".join(f"{name} was {stored.get(name)}, is {about[name]}" for name in differing)
        raise InvalidData(f"{folder} holds another search: {what}. Give another --folder, or remove that one")


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time, where the system has locks that end with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InvalidData(
                f"another search is at work in {folder}: wait for it, or give another --folder"
            ) from error
        yield


def _failure(trial: "optuna.trial.FrozenTrial") -> str:
    return str(trial.user_attrs.get("failure", "its process was ended"))


def _silent(line: str) -> None:
    pass
