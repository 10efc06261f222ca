"""Functions of NumPy's that device arrays are given to: CuPy has them all, not only its stand-in."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ckncuda

ROOMS = ("backend/any_array", "layer/dot_product.py", "classifier", "images")
ON_THE_HOST = {"errstate"}  # warnings, of which a GPU has none
FOUND = """
import functools, json, sys
import cupy

def there(name):
    return functools.reduce(lambda o, part: getattr(o, part, None), name.split("."), cupy) is not None

print(json.dumps([name for name in json.loads(sys.argv[1]) if not there(name)]))
"""


def names():
    """Names of NumPy's that are called in these rooms, such as ``linalg.solve``."""
    package, found = Path(ckncuda.__file__).parent, set()
    for room in ROOMS:
        place = package / room
        for path in [place] if place.suffix else sorted(place.glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
                if re.fullmatch(r"np(\.\w+)+", called):
                    found.add(called.removeprefix("np."))
    return found - ON_THE_HOST


def test_the_names_are_read():
    assert {"matmul", "pad", "einsum", "zeros_like", "linalg.solve", "exp"} <= names()


def test_the_real_cupy_has_what_device_arrays_are_given_to():
    """It can be imported without a GPU and without a driver."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if "cuda_on_cpu" not in path]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "ignore", "-c", FOUND, json.dumps(sorted(names()))]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=120)
    if "No module named 'cupy'" in done.stderr:
        pytest.skip("CuPy is not installed")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
