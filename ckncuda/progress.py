"""How long work tells what it has done."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``; with ``done`` 0 when a stage begins."""
