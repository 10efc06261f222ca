"""What an installation lacks is said before the work, with what brings it; "auto" goes on without."""

import logging
import tomllib
from pathlib import Path

import gpu
import pytest

from ckncuda import backend
from ckncuda.backend.cupy import availability
from ckncuda.errors import BackendUnavailable, installing

COMPLETE = f"install CuPy and what it needs with: {installing('cuda13')}"
LACKS = {
    "nvrtc": (
        "LACKS",
        "nvrtc",
        "CuPy does not find the compiler of kernels, NVRTC (RuntimeError: Failure finding",
    ),
    "headers": (
        "LACKS",
        "headers",
        "CuPy does not find the headers of CUDA (CompileException: catastrophic error",
    ),
    "cublas": ("LACKS", "cublas", "CuPy does not find the library cuBLAS (ImportError: Failure finding"),
    "cusolver": (
        "LACKS",
        "cusolver",
        "CuPy does not find the library cuSOLVER (ImportError: Failure finding",
    ),
    "all of them": ("LACKS", "nvrtc,headers,cublas", "CuPy does not find the compiler of kernels, NVRTC"),
    "old": ("CUPY_VERSION", "14.1.1", "CuPy 14.1.1 is installed, and 14.2 is needed"),
    "older": ("CUPY_VERSION", "13.6.0rc1", "CuPy 13.6.0rc1 is installed, and 14.2 is needed"),
}
DRIVER = (
    "the NVIDIA driver is too old: it knows CUDA 12.4, CuPy is for 13.0; install a newer driver, or "
    f"install CuPy for CUDA 12 with: {installing('cuda12')}"
)


@pytest.fixture
def installation(monkeypatch):
    """Let this process's CuPy lack something."""
    with gpu.a_gpu():
        import cupy

        def lacks(variable, value):
            if variable == "CUPY_VERSION":
                monkeypatch.setattr(cupy, "__version__", value)
            else:
                monkeypatch.setenv(f"CKNCUDA_CPU_{variable}", value)
            availability.unavailability.cache_clear()
            backend._warn_once.cache_clear()

        yield lacks


def reason():
    """What `ckn backends` says."""
    (status,) = (status for status in backend.backend_statuses() if status.name == "cupy")
    return None if status.works else status.detail


@pytest.mark.parametrize("case", LACKS)
def test_what_is_missing_is_named_with_the_command_that_brings_it(installation, case, caplog):
    variable, value, words = LACKS[case]
    assert reason() is None
    installation(variable, value)
    said = reason()
    assert said.startswith(words)
    assert said.endswith(COMPLETE)
    assert len(said.splitlines()) == 1
    with pytest.raises(BackendUnavailable, match="the backend cupy cannot run here"):
        backend.get_backend("cupy")
    with caplog.at_level(logging.WARNING, "ckncuda"):
        assert [backend.get_backend("auto").name for _ in range(3)] == ["numpy"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        f"the GPU is not used, NumPy computes instead: {said}"
    ]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("LACKS", "driver", DRIVER),
        (
            "COMPUTE_CAPABILITY",
            "61",
            "this GPU has compute capability 6.1, and 7.5 is needed; use --backend numpy",
        ),
    ],
)
def test_a_gpu_or_a_driver_that_is_too_old(installation, variable, value, words, caplog):
    installation(variable, value)
    assert reason() == words
    with caplog.at_level(logging.WARNING, "ckncuda"):
        assert backend.get_backend("auto").name == "numpy"
    assert words in caplog.text


def test_a_cupy_that_does_not_import(installation, monkeypatch):
    import builtins

    whole = builtins.__import__

    def broken(name, *arguments):
        if name == "cupy":
            raise OSError("libcudart.so.13: cannot open shared object file")
        return whole(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", broken)
    availability.unavailability.cache_clear()
    assert availability.why_unavailable().startswith("CuPy cannot be imported (OSError: libcudart.so.13")


def test_a_machine_without_a_gpu_is_no_surprise(installation, caplog):
    installation("DEVICES", "0")
    assert "CUDA finds no usable GPU" in reason()
    with caplog.at_level(logging.WARNING, "ckncuda"):
        assert backend.get_backend("auto").name == "numpy"
    assert not caplog.records


def test_it_is_looked_for_once(installation, monkeypatch):
    looked = []
    whole = availability._of_installation
    monkeypatch.setattr(availability, "_of_installation", lambda cupy: looked.append(1) or whole(cupy))
    availability.unavailability.cache_clear()
    assert [availability.why_unavailable() for _ in range(3)] == [None] * 3
    assert len(looked) == 1


@pytest.mark.parametrize("cuda", [12, 13])
def test_the_extras_bring_what_is_looked_for(cuda):
    """The kernels' compiler, headers and libraries, and a CuPy that finds what it has compiled."""
    path = Path(__file__).parents[3] / "pyproject.toml"
    (extra,) = tomllib.loads(path.read_text())["project"]["optional-dependencies"][f"cuda{cuda}"]
    least = ".".join(map(str, availability.LEAST_CUPY))
    assert extra.startswith(f"cupy-cuda{cuda}x[ctk]>={least},")
