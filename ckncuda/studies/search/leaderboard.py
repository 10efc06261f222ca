"""The leaderboard of a search: its rows, as a table for people, as a file and as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ckncuda.files.atomic_file import atomic_file

OPTIMISTIC = "the accuracy that chose is the best of many, and so optimistic"


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

    @property
    def named(self) -> str:
        """The system, and the preset that it is."""
        return self.system if self.preset is None else f"{self.system} (preset {self.preset})"


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Return the rows than which none is both quicker and more accurate, the quickest first.

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


def table(rows: Sequence[Row]) -> list[str]:
    """Return the leaderboard as lines of a table for people."""
    head = "rank  trial  accuracy  seconds  features  system"
    columns = "{:>4}  {:>5}  {:>8.4f}  {:>7.1f}  {:>8}  {}"
    return [head] + [
        columns.format(rank, row.trial, row.accuracy, row.seconds, row.n_features, row.named)
        for rank, row in enumerate(rows, 1)
    ]


def write_leaderboard(rows: Sequence[Row], counts: Mapping[str, int], images: int, path: Path) -> None:
    """Write a Markdown file of the rows, of how trials ended, and on how many images they were judged."""
    ended = ", ".join(f"{count} {name}" for name, count in counts.items())
    lines = [
        "# Leaderboard",
        "",
        f"Leave-one-out accuracy on {images:,} images; {OPTIMISTIC}. Trials: {ended}. A system is its layers",
        "(filters, size of the patches, sigma or kernel, subsampling), preprocessing and classifier.",
        "",
        "| rank | trial | accuracy | seconds of the fit | features | system |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {rank} | {row.trial} | {row.accuracy:.4f} | {row.seconds:.1f} | {row.n_features} | {row.named} |"
        for rank, row in enumerate(rows, 1)
    ]
    with atomic_file(path) as file:
        file.write("\n".join([*lines, "", "![accuracy against seconds](accuracy.png)", ""]).encode())
