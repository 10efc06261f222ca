"""The machine: GPU, driver, libraries, tools. Ends with 2 where our kernels cannot run, and says why."""

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib import metadata

from gpu_report import gpu_state, machine
from gpu_results import Results, folder_of_results

PACKAGES = (
    "cupy-cuda13x", "cupy-cuda12x", "torch", "numpy", "scipy", "numba", "pytest", "pytest-xdist",
    "hypothesis", "nvidia-cuda-nvrtc", "nvidia-cublas", "nvidia-cuda-runtime", "nvidia-cusolver",
    "cuda-pathfinder",
)  # fmt: skip
TOOLS = ("nvidia-smi", "compute-sanitizer", "ncu", "nsys", "nvcc", "g++")


def packages() -> str:
    """Versions of the packages that matter here."""

    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "none"

    return ", ".join(f"{name} {version(name)}" for name in PACKAGES)


def imported(name: str) -> object:
    """Return a module, or None: whatever it is that keeps it from being one."""
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken installation is a fact, and not the end
        print(f"{name} does not import: {error!r}", flush=True)
        return None


def usable() -> str:
    """Why the CUDA backend cannot run here, or that it can."""
    from ckncuda.backend.cupy import why_unavailable

    return why_unavailable() or "yes"


FACTS: dict[str, Callable[[], str]] = {
    "system": lambda: f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
    "nvidia-smi": lambda: gpu_state() or "no answer",
    "packages": packages,
    "tools": lambda: ", ".join(f"{name} {shutil.which(name) or 'none'}" for name in TOOLS),
    "libraries": lambda: "; ".join(
        f"{a}: {b}" for a, b in machine(imported("cupy"), imported("torch")).items()
    ),
    "usable": usable,
}


def main() -> int:
    """Write each fact as it is found."""
    results = Results(folder_of_results() / "facts.json")
    for name, fact in FACTS.items():
        try:
            said = fact()
        except Exception as error:  # facts that cannot be had are facts
            said = f"unknown: {error!r}"
        results.add(name, {"is": said})
    reason = results.units["usable"]["is"]
    print("our kernels can run here" if reason == "yes" else reason, flush=True)
    return 0 if reason == "yes" else 2


if __name__ == "__main__":
    sys.exit(main())
