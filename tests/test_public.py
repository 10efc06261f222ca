"""The public names, which are imported with the first of them that is asked for."""

import inspect
import pickle
import subprocess
import sys

import pytest

import ckncuda
from ckncuda import public


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_names_that_are_offered_are_those_of_public_and_no_others():
    assert dir(ckncuda) == sorted(["__version__", *public.__all__])
    everything = {}
    exec("from ckncuda import *", everything)
    assert set(public.__all__) == set(everything) - {"__builtins__"}
    assert sorted(public.__all__, key=str.lower) == sorted(ckncuda.__all__, key=str.lower)
    assert all(getattr(ckncuda, name) is getattr(public, name) for name in public.__all__)


@pytest.mark.parametrize("name", public.__all__)
def test_classes_and_functions_are_pickled_by_where_they_are_defined(name):
    value = getattr(ckncuda, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__module__ != "ckncuda"
        assert pickle.loads(pickle.dumps(value)) is value


@pytest.mark.parametrize("name", ["nope", "__nope__", "numpy", "np", "__wrapped__"])
def test_other_names_are_none(name):
    assert not hasattr(ckncuda, name)
    with pytest.raises(AttributeError, match=f"module 'ckncuda' has no attribute '{name}'"):
        getattr(ckncuda, name)


def test_nothing_slow_is_imported_before_a_name_is_asked_for():
    asked = "import sys, ckncuda; ckncuda.__version__; print('numpy' in sys.modules)"
    assert run(asked) == "False"
    assert run(asked.replace("ckncuda.__version__", "ckncuda.CKN")) == "True"


@pytest.mark.parametrize(
    "statement",
    [
        "from ckncuda import studies; studies.__name__",
        "import ckncuda.studies.speed; ckncuda.studies.speed, ckncuda.Model",
        "import ckncuda; ckncuda.exact.gram, ckncuda.layer.LayerSpec",
        "from ckncuda import data, fit; data.open_images, fit",
    ],
)
def test_modules_are_imported_beside_the_names(statement):
    run(statement)


def test_many_threads_may_ask_first():
    program = """
import threading, ckncuda
names, found = ["CKN", "fit", "gram", "load", "Model", "System", "exact", "__all__"] * 3, []
threads = [threading.Thread(target=lambda n=n: found.append(getattr(ckncuda, n) is not None)) for n in names]
for step in ("start", "join"):
    for thread in threads:
        getattr(thread, step)()
print(len(names) == len(found), set(found))
"""
    assert run(program) == "True {True}"
