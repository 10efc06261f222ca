"""Mutations of every reader's input, each with a verdict: an error of the library's own, or a valid result.

They run in a child with bounded memory, so that a crash is a verdict as well; the next child goes on behind
it.  Mutation i of a reader depends on the seed, the reader and i alone.
"""

import collections
import json
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import nursery as nurseries
from fuzz.corpus import Seed
from fuzz.planted import PLANTED
from fuzz.readers import READERS, Reader, Wrong
from nursery import Child, Ended, Nursery

from ckncuda.errors import CknError

ROOT = Path(__file__).parents[2]
SEED = 20260101
REFUSED = "refused"
TOO_MUCH, HANGS = "too much memory", "hangs where no alarm reaches it"
_STATE = struct.Struct("<qqq")  # number of the mutation, how many were tried, how many of them refused


class Limits(NamedTuple):
    """What a mutation may take: seconds, and bytes of memory above the start."""

    seconds: float = 10.0
    memory: int = 1 << 30


class TooSlow(BaseException):
    """Raised by the alarm; no guard for exceptions takes it."""


@dataclass(frozen=True)
class Finding:
    """A verdict that should not be: the number of the mutation, its root, and all that is known of it."""

    number: int
    root: str
    told: str


@dataclass
class Found:
    """The outcome of many mutations of a reader."""

    reader: str
    mutations: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, 0)
    findings: list[Finding] = field(default_factory=list)
    warned: collections.Counter[str] = field(default_factory=collections.Counter)

    def __str__(self) -> str:
        """Return a line for each root, the traceback of its first mutation, and how to see it again."""
        rate = self.mutations / max(self.seconds, 1e-9)
        lines = [
            f"{self.reader}: {self.mutations} mutations, {self.refused} refused, "
            f"{len(self.findings)} findings; {rate:.0f}/s, "
            f"the slowest {self.slowest[0]:.2f} s ({self.slowest[1]})"
        ]
        by_root: dict[str, list[Finding]] = {}
        for each in self.findings:
            by_root.setdefault(each.root, []).append(each)
        for root, all_of_it in sorted(by_root.items(), key=lambda item: -len(item[1])):
            numbers = ", ".join(str(each.number) for each in all_of_it[:4])
            lines.append(f"  {len(all_of_it):6} x {root}   ({numbers})")
        for all_of_it in by_root.values():
            number = all_of_it[0].number
            again = f"PYTHONPATH=tests python -m fuzz {self.reader} --only {number} --write OUT"
            lines += [f"\n{self.reader}, mutation {number}: {again}", all_of_it[0].told]
        lines += [f"  warned {count} x {warning}" for warning, count in self.warned.most_common()]
        return "\n".join(lines)


def campaign(
    nursery: Nursery,
    reader: str,
    mutations: int,
    first: int = 0,
    seed: int = SEED,
    limits: Limits = Limits(),  # noqa: B008  (it cannot be changed)
) -> Found:
    """Try so many mutations of a reader's input, from the first on; those below 0 are its seeds."""
    found, began, stop = Found(reader), time.perf_counter(), first + mutations
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_quick_folder()) as scratch:
        state, told = Path(scratch) / "state", Path(scratch) / "told"
        number = first
        while number < stop:
            state.write_bytes(_STATE.pack(number, 0, 0))
            child = nursery.start("fuzz.campaign:attack", reader, seed, number, stop, scratch, tuple(limits))
            ended, killed_for = _watched(child, state, limits)
            number, tried, refused = _STATE.unpack(state.read_bytes())
            found.mutations, found.refused = found.mutations + tried, found.refused + refused
            if ended.status != 0:
                what = signal.Signals(-ended.status).name if ended.status < 0 else f"status {ended.status}"
                found.findings.append(Finding(number, killed_for or what, ended.stderr[-3000:]))
                number += 1
        for line in told.read_text().splitlines() if told.exists() else ():
            entry = json.loads(line)
            if "root" in entry:
                found.findings.append(Finding(**entry))
            else:
                found.warned.update(entry["warned"])
                found.slowest = max(found.slowest, tuple(entry["slowest"]))
    found.seconds = time.perf_counter() - began
    return found


def _watched(child: Child, state: Path, limits: Limits) -> tuple[Ended, str]:
    """Wait for a child's end; one that takes too much memory, or does not get on, is killed: returns why."""
    number = None
    while True:
        try:
            return child.wait(2 * limits.seconds + 1, memory=limits.memory, kill=False), ""
        except TimeoutError:
            before, (number, _, _) = number, _STATE.unpack(state.read_bytes())
        if child.holds() > limits.memory or number == before:
            child.kill()
            return child.wait(), HANGS if number == before else TOO_MUCH


def _quick_folder() -> str | None:
    """Return a folder in memory, where there is one: thousands of small files are written."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def drawn(reader: str, number: int, seed: int) -> random.Random:
    """Return the generator of a mutation."""
    return random.Random(f"{seed} {reader} {number}")


def attack(name: str, seed: int, first: int, stop: int, scratch: str, limits: tuple[float, int]) -> None:
    """Try the mutations from the first on, in a child; how far it is stands in a file.

    It ends early where a mutation took memory, which its peak would hide in those that follow.
    """
    place, reader = Path(scratch), (READERS | PLANTED)[name]
    corpus = list(reader.seeds(_emptied(place / "seeds")))
    with open(place / "state", "r+b") as file:
        state = mmap.mmap(file.fileno(), _STATE.size)
    warned: collections.Counter[str] = collections.Counter()
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, category, filename, line, *_: warned.update(
        [f"{category.__name__} {_short(filename)}:{line}"]
    )
    signal.signal(signal.SIGALRM, _alarm)
    seconds, memory = limits
    start, slowest, tried, refused = _peak(), (0.0, 0), 0, 0
    with open(place / "told", "a") as told:
        for number in range(max(first, -len(corpus)), stop):
            tried += 1
            state[:] = _STATE.pack(number, tried, refused)
            began = time.perf_counter()
            mutated = corpus[number] if number < 0 else reader.mutation(drawn(name, number, seed), corpus)
            root, text = _verdict(reader, mutated, _emptied(place / "files"), seconds, number < 0)
            slowest, held = max(slowest, (time.perf_counter() - began, number)), _peak() - start
            refused, root = refused + (root == REFUSED), root.removeprefix(REFUSED)
            if not root and held > memory:
                root, text = TOO_MUCH, f"{held / 2**30:.2f} GiB above the start; {text}"
            if root:
                told.write(json.dumps({"number": number, "root": root, "told": text}) + "\n")
                told.flush()
            if held > memory:
                break
        state[:] = _STATE.pack(number + 1, tried, refused)
        told.write(json.dumps({"warned": warned, "slowest": slowest}) + "\n")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * nurseries.UNIT


def _alarm(number: int, frame: Any) -> None:
    raise TooSlow


def _verdict(reader: Reader, mutated: Seed, folder: Path, seconds: float, good: bool) -> tuple[str, str]:
    """Return "" for a valid result, `REFUSED` for an error of ours, else the root; and what is to be told."""
    write(mutated.files, folder)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        reader.check(folder / mutated.opened, mutated.how)
    except BaseException as error:  # whatever it is: that is what is looked for
        signal.setitimer(signal.ITIMER_REAL, 0)
        if isinstance(error, CknError) and not good:
            return REFUSED, str(error)
        return _root(error), "".join(traceback.format_exception(error))[-6000:]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "", ""


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files into a folder."""
    for name, content in files.items():
        path = folder / name
        if "/" in name:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _emptied(folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    return folder


def _root(error: BaseException) -> str:
    """Return the type of an error, and the innermost line of ours that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if Path(f.filename).is_relative_to(ROOT / "ckncuda") or "/cli/" in f.filename]
    where = (ours or frames)[-1]
    kind = type(error).__name__
    text = str(error).split("\n")[0][:70] if isinstance(error, CknError | Wrong) else ""
    return f"{kind} {_short(where.filename)}:{where.lineno} {text}".strip()


def _short(filename: str) -> str:
    return "/".join(Path(filename).parts[-3:])
