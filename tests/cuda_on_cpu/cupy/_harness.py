"""The package `cuda_on_cpu`, which is the folder above, by that name whatever else is on the path."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def harness(name: str) -> ModuleType:
    """A module of the harness."""
    folder = Path(__file__).resolve().parents[1]
    if "cuda_on_cpu" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "cuda_on_cpu", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules["cuda_on_cpu"] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"cuda_on_cpu.{name}")
