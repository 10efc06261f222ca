"""Findings of a step on a GPU, in a file that is whole at every moment; steps end with their parent."""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
AGAIN = 75
"""The status of a process that has lost the GPU, and noted by what: a new one can go on."""


def write_whole(path: Path, text: str) -> None:
    """Replace a file at once: whoever is killed leaves the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")  # the same name again: the next one takes what is left of it
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def end_with_parent() -> None:
    """Let this process be killed when the one that started it ends, however that ends; on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def one_line(error: BaseException) -> str:
    """An error for a cell of the table."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}{'…' * (len(text) > 160)}" if text else type(error).__name__


class Results:
    """What is known of the units of a step: a JSON object in a file, written anew with each of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.units: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def keep(self, unit: str, found: dict[str, Any]) -> None:
        """Keep what has been found of a unit."""
        self.units[unit] = found
        write_whole(self.path, json.dumps(self.units, indent=1, ensure_ascii=False) + "\n")

    def add(self, unit: str, found: dict[str, Any]) -> None:
        """Keep what has been found of a unit, and print it."""
        self.keep(unit, found)
        shown = ", ".join(f"{name} {value}" for name, value in found.items() if name != "passed")
        print(f"{'' if found.get('passed', True) else 'FAILED '}{unit}: {shown}", flush=True)

    def find(self, probes: Mapping[str, Callable[[], dict[str, Any]]]) -> int:
        """Find what is not known yet; what fails stands in its place. Returns the status to exit with."""
        for unit in self.rest(list(probes)):
            try:
                found = probes[unit]()
            except Exception as error:  # stands in its place; the next one is tried
                self.add(unit, {"passed": False, "said": one_line(error)})
                if lost_the_gpu(error):
                    return AGAIN
            else:
                self.add(unit, found)
        return self.conclude(list(probes))

    def rest(self, units: list[str]) -> list[str]:
        """Return the units of which nothing is known."""
        return [unit for unit in units if unit not in self.units]

    def conclude(self, units: list[str]) -> int:
        """Print how many of the units are well; 0 if all are."""
        well = sum(bool(self.units.get(unit, {}).get("passed")) for unit in units)
        print(f"{well} of {len(units)} well", flush=True)
        return int(well < len(units))


def lost_the_gpu(error: BaseException) -> bool:
    """Tell whether nothing that follows in this process means anything."""
    from gpu_faults import sticky_status  # beside the tests, which ask the same

    return sticky_status(error) is not None


def folder_of_results() -> Path:
    """Return where results go: the environment variable ``OUT``."""
    return Path(os.environ["OUT"])
