"""`ckn … --backend cupy` from end to end; without a GPU, the CPU executes the kernels."""

import os

import numpy as np
import pytest
from cuda_on_cpu import environment

from ckncuda.backend.cupy import why_unavailable


@pytest.fixture
def variables():
    """Variables with which a process finds a GPU."""
    if why_unavailable() is None:
        return {}
    if reason := environment.why_unavailable():
        pytest.skip(reason)
    return {name: value for name, value in environment.environment().items() if os.environ.get(name) != value}


def test_a_gpu_is_taken_where_there_is_one(works, data, tiny, variables):
    options = ("fit", data.csv, "--labels", data.labels_csv, "-o", "m.ckn", *tiny, "--json")
    result = works(*options, env=variables, process=True).told
    assert result["backend"] == "cupy"
    assert result["validation_accuracy"] > 0.5


@pytest.mark.usefixtures("device")
def test_a_gpu_is_not_taken_where_the_environment_names_another_backend(works, data, tiny):
    done = works("fit", data.npz, "-o", "n.ckn", *tiny, "--json", env={"CKNCUDA_BACKEND": "numpy"})
    assert done.told["backend"] == "numpy"


@pytest.mark.usefixtures("device")
def test_fit_extract_predict(works, data, tiny, tmp_path):
    works("fit", data.csv, "--labels", data.labels_csv, "-o", "m.ckn", *tiny, "--backend", "cupy")
    features, labels = {}, {}
    for backend in ("cupy", "numpy"):
        works("extract", "m.ckn", data.npz, "-o", f"{backend}.npy", "--backend", backend)
        works("predict", "m.ckn", data.csv, "-o", f"{backend}.csv", "--backend", backend)
        features[backend] = np.load(tmp_path / f"{backend}.npy")
        labels[backend] = (tmp_path / f"{backend}.csv").read_text()
    np.testing.assert_allclose(features["cupy"], features["numpy"], atol=1e-5)
    assert labels["cupy"] == labels["numpy"]


@pytest.mark.usefixtures("device")
def test_learned_on_a_cpu_used_on_a_gpu(works, data, network, tmp_path, relative_error):
    works("extract", network, data.npz, "-o", "numpy.npy", "--backend", "numpy")
    expected = np.load(tmp_path / "numpy.npy")
    for precision, least, most in (("float32", 0, 1e-5), ("tf32", 1e-5, 2e-2), ("bfloat16", 1e-4, 2e-1)):
        options = ("--backend", "cupy", "--precision", precision)
        works("extract", network, data.npz, "-o", "cupy.npy", *options)
        assert least <= relative_error(np.load(tmp_path / "cupy.npy"), expected) <= most


@pytest.mark.usefixtures("device")
def test_bench_measures_every_step(works, network):
    done = works("bench", network, "-n", "8", "--repeats", "1", "--backend", "cupy", "--json")
    assert "layer 1 (3x3, 4 filters)" in done.stdout


@pytest.mark.usefixtures("device")
def test_backends_says_what_computes(works):
    status = works("backends", "--json").told["cupy"]
    assert status["works"]
    assert status["detail"].startswith("CuPy ")
    assert "GiB" in status["detail"]


def test_a_precision_needs_a_gpu(refused, data, tiny):
    options = ("--backend", "numpy", "--precision", "tf32")
    words = ["the backend numpy has no precision 'tf32'; use --backend cupy, or float32"]
    refused("fit", data.npz, "-o", "m.ckn", *tiny, *options, words=words)


def test_a_broken_cupy_is_a_reason_not_a_crash(works, tmp_path):
    if reason := environment.why_unavailable():
        pytest.skip(reason)
    (tmp_path / "cupy").mkdir()
    broken = "raise ModuleNotFoundError('No module named cuda.pathfinder')"
    (tmp_path / "cupy" / "__init__.py").write_text(broken)
    found = {"PYTHONPATH": str(tmp_path), "LD_LIBRARY_PATH": environment.environment()["LD_LIBRARY_PATH"]}
    status = works("backends", "--json", env=found).told["cupy"]
    assert not status["works"]
    assert "ModuleNotFoundError: No module named cuda.pathfinder" in status["detail"]


def test_info_says_what_runs_in_one_kernel(works, network):
    assert "on a GPU: one fused kernel" in works("info", network).stdout
    (encoder,) = works("info", network, "--json").told["encoders"]
    assert encoder["layers"][0]["on_a_gpu"] == "one fused kernel"
