import subprocess
import sys

import numpy as np
import pytest

from ckncuda.backend import backend_statuses, get_backend
from ckncuda.errors import BackendUnavailable, InvalidSpec


def test_importing_the_library_loads_no_gpu_code():
    code = "import sys, ckncuda; assert 'cupy' not in sys.modules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_environment_chooses_for_auto(monkeypatch):
    monkeypatch.setenv("CKNCUDA_BACKEND", "reference")
    assert get_backend("auto").name == "reference"
    assert get_backend("numpy").name == "numpy"
    monkeypatch.setenv("CKNCUDA_BACKEND", "abacus")
    with pytest.raises(
        InvalidSpec, match="there is no backend 'abacus' .*CKNCUDA_BACKEND.*; give auto, numpy"
    ):
        get_backend("auto")


@pytest.mark.parametrize(
    "given", [{"name": "numpy"}, {"name": "numpy", "threads": 3, "memory": 1 << 28}, {"name": "reference"}]
)
def test_options_of_a_backend_make_the_same_one(given):
    backend = get_backend(**given)
    again = get_backend(**backend.options)
    assert given.items() <= backend.options.items()
    assert again.options == backend.options
    assert (again.description, again.memory_budget) == (backend.description, backend.memory_budget)


def test_options_out_of_range():
    with pytest.raises(InvalidSpec, match="threads is 0"):
        get_backend("numpy", threads=0)
    with pytest.raises(InvalidSpec, match="at least 64 MiB"):
        get_backend("numpy", memory=1000)


def test_a_backend_that_does_not_work_says_why():
    status = {s.name: s for s in backend_statuses()}
    assert status["numpy"].works
    assert status["reference"].works
    if status["cupy"].works:
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendUnavailable, match="cannot run here: ") as caught:
        get_backend("cupy")
    assert status["cupy"].detail in str(caught.value)
    assert "install" in str(caught.value) or "--backend numpy" in str(caught.value)


@pytest.mark.parametrize("name", ["threads", "memory"])
@pytest.mark.parametrize("value", [True, np.True_, 2.5, "4", "2GiB", [4], np.array([4, 4])])
def test_options_that_are_no_whole_numbers(name, value):
    with pytest.raises(InvalidSpec, match=f"{name} is .*; it must be a whole number of "):
        get_backend("numpy", **{name: value})


def test_whole_numbers_of_any_type():
    assert get_backend("numpy", threads=np.int64(1), memory=np.uint32(1 << 30)).memory_budget == 1 << 30


def test_a_variable_that_is_empty_is_not_set(monkeypatch):
    monkeypatch.setenv("CKNCUDA_BACKEND", "")
    assert get_backend("auto").name in ("numpy", "cupy")
