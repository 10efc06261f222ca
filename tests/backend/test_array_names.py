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

REFUSED = """
import json, sys
import cupy
import numpy as np

def array(*shape, dtype=np.float32):
    try:
        return cupy.zeros(shape, dtype)
    except cupy.cuda.runtime.CUDARuntimeError:  # there is no device: memory that nothing will read
        memory = cupy.cuda.UnownedMemory(host.ctypes.data, host.nbytes, host, 0)
        return cupy.ndarray(shape, dtype, memptr=cupy.cuda.MemoryPointer(memory, 0))

host = np.zeros(1000, np.float32)
a, b, maps, sums = array(4, 5), array(5, 6), array(2, 3, 3, 1), array(4, 5, dtype=np.float64)
refused = None
try:
    eval(json.loads(sys.argv[1]))
except Exception as error:
    refused = f"{type(error).__module__} {type(error).__name__}: {error}"
print(json.dumps(refused))
"""
CALLS = [
    "np.matmul(a, b, out=array(4, 6))",
    "np.matmul(b.T, a.T)",
    "np.matmul(a, array(3, 5, 6))",
    "np.einsum('ij,ij->i', a, a)",
    "np.pad(maps, ((0, 0), (1, 0), (0, 1), (0, 0)))",
    "np.concatenate([maps, maps], axis=3)",
    "np.zeros_like(maps, shape=(2, 5, 5, 1))",
    "np.zeros_like(a, dtype=np.float64)",
    "np.where(a > 0, a, np.float32(1))",
    "np.maximum(a, np.float32(1e-3))",
    "np.asarray(host, like=a)",
    "sums.__iadd__(a)",
    "(a * np.sqrt(a)).sum(axis=1, keepdims=True)",
]
"""Forms in which array operations of the way back are written."""


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
    assert {"matmul", "pad", "einsum", "zeros_like", "linalg.norm", "exp"} <= names()


def answered(program, *arguments):
    """What a program answers in a process that has the real CuPy, or skip."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if "cuda_on_cpu" not in path]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "ignore", "-c", program, *map(json.dumps, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=120)
    if "No module named 'cupy'" in done.stderr:
        pytest.skip("CuPy is not installed")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_real_cupy_has_what_device_arrays_are_given_to():
    """It can be imported without a GPU and without a driver."""
    assert answered(FOUND, sorted(names())) == []


@pytest.mark.parametrize("call", CALLS)
def test_numpys_functions_hand_device_arrays_to_cupy(call):
    """Without a driver they come as far as CUDA; what NumPy or CuPy refuses does not."""
    refused = answered(REFUSED, call)
    assert refused is None or re.search("cuda|cublas|driver", refused, re.IGNORECASE), refused
