"""How long work tells what it has done."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``; with ``done`` 0 when a stage begins."""


def labelled(progress: Progress | None, label: str) -> Progress | None:
    """The same progress, told whose stages these are."""
    if progress is None:
        return None
    return lambda stage, done, total: progress(f"{label}: {stage}", done, total)
