"""Commands that are killed and interrupted: each takes about a second, on inputs that are made once."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nursery import LONG, Ended

LAYER = ("--layer", "filters=24,patch=3,subsampling=2,kernel=exp,sigma=0.6", "--preprocess", "none")
PAIRS = ("--layer", "patch=3,subsampling=2,kernel=exp,sigma=0.6", "--preprocess", "none", "--tile", "12")
ONE = ("--threads", "1")


@dataclass(frozen=True)
class Command:
    """A command, what it leaves, and what lies there before."""

    arguments: tuple[str, ...]
    output: str
    before: Mapping[
        str, str
    ]  # names of files or folders that are there before: copies of which of the inputs


FIT = ("fit", "xy.npz", "-o", "new.ckn", "--patches", "20000", *LAYER, *ONE)
SEARCH = ("search", "few.npz", "-o", "new.ckn", "--trials", "2", "--hold-out", "0", *ONE)
COMMANDS = {
    "fit": Command(FIT, "new.ckn", {"new.ckn": "old.ckn"}),
    "extract npy": Command(
        ("extract", "m.ckn", "many.npy", "-o", "f.npy", *ONE), "f.npy", {"f.npy": "old.npy"}
    ),
    "extract npz": Command(
        ("extract", "m.ckn", "many.npy", "-o", "f.npz", *ONE), "f.npz", {"f.npz": "xy.npz"}
    ),
    "predict": Command(("predict", "m.ckn", "many.npy", "-o", "p.csv", *ONE), "p.csv", {"p.csv": "old.csv"}),
    "gram zarr": Command(
        ("gram", "pairs.npy", "-o", "K.zarr", *PAIRS, *ONE), "K.zarr", {"K.zarr": "old.zarr"}
    ),
    "gram npy": Command(("gram", "pairs.npy", "-o", "K.npy", *PAIRS, *ONE), "K.npy", {"K.npy": "old.npy"}),
    "gram workers": Command(("gram", "pairs.npy", "-o", "K.zarr", *PAIRS, "--workers", "2"), "K.zarr", {}),
    "search": Command(SEARCH, "new.ckn", {"new.ckn": "old.ckn"}),
}
NEEDS = {
    "gram zarr": ["zarr"],
    "gram npy": ["zarr"],
    "gram workers": ["zarr", "distributed"],
    "search": ["optuna"],
}

TO_MAKE = (
    ("fit", "xy.npz", "-o", "m.ckn", "--patches", "500", *LAYER),
    ("fit", "xy.npz", "-o", "old.ckn", "--patches", "500", "--seed", "1", *LAYER),
    ("gram", "few.npy", "-o", "old.zarr", *PAIRS),
)
"""What makes the inputs, beside the arrays."""


def write_arrays(folder: Path) -> None:
    """Write images and labels that the commands read."""
    rng = np.random.default_rng(11)

    def images(n: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(n) % 3
        pixels = rng.integers(0, 200, (n, *shape)) + 20 * labels.reshape(n, 1, 1, 1)
        return pixels.astype(np.uint8), labels

    pixels, labels = images(400, 16, 16, 3)
    np.savez(folder / "xy.npz", images=pixels, labels=labels)
    np.save(folder / "many.npy", images(4000, 16, 16, 3)[0])
    pixels, labels = images(60, 8, 8, 1)
    np.savez(folder / "few.npz", images=pixels, labels=labels)
    np.save(folder / "few.npy", pixels)
    np.save(folder / "pairs.npy", images(144, 8, 8, 3)[0])
    np.save(folder / "old.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    (folder / "old.csv").write_text("Id,Prediction\n1,0\n")


def told(path: Path) -> object:
    """Return all that a file or a folder holds, or None where there is none."""
    if path.is_dir():
        return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    return path.read_bytes() if os.path.lexists(path) else None


def names(folder: Path) -> set[str]:
    """Return the names of all that lies in a folder, but chunks of matrices."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


class Process:
    """`ckn` in a process of its own, which begins with imports; like a child of a nursery."""

    def __init__(
        self, arguments: tuple[str, ...], folder: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115  (closed by wait)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CKNCUDA_")}
        self._started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ckncuda.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._files[0],
            stderr=self._files[1],
            cwd=folder,
            env=kept | {"OPENBLAS_NUM_THREADS": "1"} | dict(env or {}),
            preexec_fn=_attentive,
        )
        self.pid = self._process.pid

    def wait_for(self, pattern: str) -> None:
        """Wait until a line like this stands on its standard error."""
        end = time.monotonic() + LONG
        while time.monotonic() < end and self._process.poll() is None:
            told = os.pread(self._files[1].fileno(), 1 << 20, 0).decode("utf-8", "replace")
            if re.search(pattern, told, re.MULTILINE):
                return
            time.sleep(0.001)
        raise AssertionError(f"no {pattern} in {told[-500:]}")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, if it is still there."""
        self._process.send_signal(number)

    def wait(self, limit: float = LONG) -> Ended:
        """Wait for its end; one that takes longer is killed."""
        try:
            self._process.wait(limit)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        seconds, texts = time.perf_counter() - self._started, []
        for file in self._files:
            file.seek(0)
            texts.append(file.read())
            file.close()
        return Ended(self._process.returncode, seconds, 0, None, *texts)


def _attentive() -> None:
    """Take signals that whoever runs the tests had told them to ignore, as nohup does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
