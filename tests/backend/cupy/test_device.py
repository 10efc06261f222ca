"""What the GPU can do, and what is said before its kernels are compiled."""

import logging
import subprocess
import sys

import pytest
from cuda_on_cpu import compiler
from factories import make_layer

from ckncuda.backend import get_backend
from ckncuda.backend.cupy import CupyBackend
from ckncuda.errors import BackendUnavailable, InvalidSpec


def test_precisions(device):
    with pytest.raises(InvalidSpec, match="there is no precision 'half'; the precisions are float32, tf32"):
        CupyBackend(precision="half")
    with pytest.raises(InvalidSpec, match="the backend numpy has no precision 'tf32'"):
        get_backend("numpy", precision="tf32")
    assert get_backend("cupy", precision="tf32").precision == "tf32"
    assert get_backend("auto").name == "cupy"


@pytest.mark.parametrize("options", [{}, {"memory": 64 << 20, "precision": "bfloat16"}], ids=str)
def test_options_make_the_same_backend(device, options):
    made = get_backend("cupy", **options)
    again = get_backend(**made.options)
    assert again.options == made.options
    assert (again.memory_budget, again.precision) == (made.memory_budget, made.precision)


def test_an_old_gpu_computes_without_tensor_cores(device, monkeypatch, rng, check_encode):
    monkeypatch.setattr("ckncuda.backend.cupy.device.compute_capability", lambda: 75)
    old = CupyBackend()
    assert old.gpu.products == "Fma"
    check_encode(old, rng.normal(size=(2, 9, 9, 3)), [make_layer(3, rng)])
    with pytest.raises(BackendUnavailable, match=r"the precision tf32 needs compute capability 8.0 .* 7.5"):
        CupyBackend(precision="tf32")


def test_the_first_use_of_a_kernel_says_that_it_compiles(device, monkeypatch, tmp_path, rng, caplog):
    from ckncuda.backend.cupy.device import compiled

    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "new"))
    for expected in (1, 0):
        compiled.cache_clear()
        caplog.clear()
        with caplog.at_level(logging.INFO, "ckncuda"):
            device.encode(device.asarray(rng.normal(size=(1, 8, 8, 1))), [make_layer(1, rng)])
        assert caplog.text.count("Compiling CUDA kernels") == expected


@pytest.mark.parametrize(
    "problem", [RuntimeError("Could not determine home directory."), PermissionError(13, "no")]
)
def test_nowhere_to_mark_what_is_compiled_costs_the_message_alone(
    device, monkeypatch, problem, rng, caplog, check_encode
):
    from ckncuda.backend.cupy.device import compiled

    def home():
        raise problem

    monkeypatch.setenv("CKNCUDA_CPU_CACHE", str(compiler.cache_folder()))
    monkeypatch.delenv("CUPY_CACHE_DIR", raising=False)
    monkeypatch.setattr("pathlib.Path.home", home)
    compiled.cache_clear()
    with caplog.at_level(logging.INFO, "ckncuda"):
        check_encode(device, rng.normal(size=(1, 8, 8, 1)), [make_layer(1, rng)])
    assert caplog.text.count("Compiling CUDA kernels") == 1


def test_an_empty_folder_of_the_cache_is_none(device, monkeypatch, tmp_path, rng):
    """Such a variable is not set: marks must not land in the current folder."""
    from ckncuda.backend.cupy.device import compiled

    monkeypatch.setenv("CUPY_CACHE_DIR", "")
    monkeypatch.setenv("CKNCUDA_CPU_CACHE", str(compiler.cache_folder()))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    compiled.cache_clear()
    device.encode(device.asarray(rng.normal(size=(1, 8, 8, 1))), [make_layer(1, rng)])
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_importing_the_backend_needs_no_cupy():
    code = "import sys, ckncuda.backend.cupy; assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
