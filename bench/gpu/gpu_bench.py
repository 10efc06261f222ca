"""How gpu_measure.py measures: in turns with PyTorch, failures in their rows, floors beside rates."""

import contextlib
import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from gpu_plan import Budget, OutOfTime, Plan, Subject
from gpu_report import Report, Row
from gpu_results import lost_the_gpu, one_line

from ckncuda.backend import Backend

try:
    import gpu_torch
except ImportError:  # ours is measured all the same
    gpu_torch = None

Run = Callable[[], Any]
Seconds = Callable[[Run], float]

OURS, TORCH = "ours", "PyTorch"
NO_TORCH = "PyTorch is not installed"


def our_backend(precision: str) -> Backend:
    """Ours on the GPU."""
    from ckncuda.backend.cupy import CupyBackend

    return CupyBackend(precision=precision)


def imported(name: str) -> Any:
    """A module, or None where there is none."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def wall_seconds(run: Run) -> float:
    """Seconds on the clock, for what ends when it returns."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def cupy_seconds(run: Run) -> float:
    """Seconds of a run on the device, on CuPy's current stream."""
    import cupy

    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, end)) / 1e3


def difference(found: Any, expected: Any) -> float:
    """Norm of the difference over the norm of what is expected; an array of any of the libraries."""
    if hasattr(found, "cpu"):  # PyTorch's
        found = found.float().cpu().numpy()
    found = found.get() if hasattr(found, "get") else np.asarray(found)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


class LostTheGpu(Exception):
    """Nothing that follows in this process means anything."""


class Bench:
    """What all measurements share."""

    def __init__(self, plan: Plan, report: Report, budget: Budget, rounds: int) -> None:
        self.plan, self.report, self.budget, self.rounds = plan, report, budget, rounds
        self.rehearsal = report.rehearsal
        self.device = "cpu" if self.rehearsal else "cuda"
        self.cupy = imported("cupy")
        self.clocks: dict[str, Seconds] = {OURS: wall_seconds, TORCH: wall_seconds}
        if not self.rehearsal:
            self.clocks[OURS] = cupy_seconds
            if gpu_torch:
                self.clocks[TORCH] = gpu_torch.cuda_seconds
        self.subjects = [Subject(network) for network in plan.networks]
        self.compiler_seconds: dict[str, float] = {}  # of each mode, the longest so far
        self._backends: dict[str, Backend] = {}

    def backend(self, precision: str) -> Backend:
        """Ours at a precision."""
        if precision not in self._backends:
            self._backends[precision] = our_backend(precision)
        return self._backends[precision]

    def release(self) -> None:
        """Give memory that neither library uses back to the other."""
        if self.rehearsal:
            return
        with contextlib.suppress(Exception):  # after an error of the device, nothing can be given back
            self.cupy.get_default_memory_pool().free_all_blocks()
            if gpu_torch:
                gpu_torch.torch.cuda.empty_cache()

    def fill(self, row: Row, measure: Callable[[Row], None]) -> Row:
        """Measure what belongs into a row; what goes wrong stands in its remarks."""
        try:
            self.budget.check()
            measure(row)
        except OutOfTime as error:
            row.remarks.append(str(error))
        except Exception as error:
            self.note(row, "", error)
        return row

    def note(self, row: Row, side: str, error: Exception) -> None:
        """Put a failure into a row; one that takes the GPU with it ends this process once the row is kept."""
        row.remarks.append(f"{side} failed: {one_line(error)}".lstrip())
        row.lost_the_gpu |= lost_the_gpu(error)

    def add(self, row: Row, measure: Callable[[Row], None]) -> Row:
        """Fill a row, unless it is known from an earlier run, and add it to the report."""
        known = self.report.earlier.pop((row.what, row.precision), None)
        row = known or self.fill(row, measure)
        self.report.add(row)
        if row is not known and row.lost_the_gpu:
            raise LostTheGpu
        return row

    def in_turns(self, row: Row, runs: dict[str, Run], clocks: dict[str, Seconds] | None = None) -> None:
        """Let the sides take turns and keep their seconds in the row; a side that fails leaves."""
        clocks = clocks or self.clocks
        for side, run in list(runs.items()):
            try:
                clocks[side](run)  # compiles, loads, takes memory; waits, so that it fails here if it does
            except Exception as error:
                self.note(row, side, error)
                del runs[side]
        row.seconds = {side: [] for side in runs}
        for number in range(self.rounds if runs else 0):
            if number and self.budget.left() < sum(taken[-1] for taken in row.seconds.values()):
                row.remarks.append(f"time for {number} of {self.rounds} turns")
                break
            for side, run in runs.items():
                row.seconds[side].append(clocks[side](run))

    def rates(self, row: Row, count: int, flop: float) -> float | None:
        """Put the rates of so many images or patches a turn into the row; ours' seconds."""
        medians = {side: statistics.median(taken) for side, taken in row.seconds.items()}
        ours, theirs = medians.get(OURS), medians.get(TORCH)
        row.ours = count / ours if ours else None
        row.theirs = count / theirs if theirs else None
        row.tflops = flop / ours / 1e12 if ours and flop else None
        return ours

    def of_floor(self, row: Row, seconds: float | None, flop: float, moved: float) -> None:
        """How near ours is to what the device could do at best, and what bounds that."""
        rate, copy = self.report.matrix_rates.get(row.precision), self.report.copy_rate
        if not seconds or not copy or (flop and not rate):
            return
        products, copies = flop / rate if rate else 0.0, moved / copy
        floor, bound = max((products, "products"), (copies, "memory"))
        row.of_floor = floor / seconds
        row.remarks.append(f"{1e3 * seconds:.3g} ms, floor {1e3 * floor:.3g} ms by {bound}")

    def typical_seconds(self, side: str, run: Run) -> float:
        """Median of many turns after a few that warm up."""
        turns = 1 if self.rehearsal else 20
        for _ in range(min(3, turns)):
            self.clocks[side](run)
        return statistics.median(self.clocks[side](run) for _ in range(turns))
