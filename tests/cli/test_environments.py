"""The same predictions whatever has become of Numba; and packages that do not import."""

import pytest

ABSENT = "import sys; sys.modules[{!r}] = None"
PACKAGES = {  # of Numba, in the way of the one that is installed
    "not installed": None,
    "too new a NumPy": "raise ImportError('Numba needs NumPy 1.0 or less. Got NumPy 2.4.')",
    "an error of the loader": "raise OSError('libllvm.so: cannot open shared object file')",
    "anything else": "raise SystemError('initialization of _internal failed')",
    "without llvmlite": "import llvmlite_that_is_not_there",
    "too old": "__version__ = '0.59.1'\nclass config: DISABLE_JIT = 0",
    "half an installation": "",
    "other parts within": "__version__ = '0.99.0'\nclass config: DISABLE_JIT = 0",
}
REASONS = {
    "not installed": "Numba is not installed; install it with: pip install 'numba",
    "too new a NumPy": "does not import (ImportError: Numba needs NumPy 1.0 or less",
    "an error of the loader": "does not import (OSError: libllvm.so",
    "anything else": "does not import (SystemError: initialization",
    "without llvmlite": "does not import (ModuleNotFoundError: No module named 'llvmlite_that_is_not_there')",
    "too old": "Numba 0.59.1 is older than 0.60; renew it with: pip install 'numba",
    "half an installation": "Numba is installed in part only",
    "other parts within": "does not compile encode (",
    "disabled": "unset NUMBA_DISABLE_JIT",
    "told what cannot be": "or unset NUMBA_NUM_THREADS",
    "without a cache": "set the environment variable CKNCUDA_CPU_CACHE",
}


@pytest.fixture
def without(tmp_path):
    """Make an environment in whose processes a module is absent, or does this when it is imported."""

    def made(module, does):
        folder = tmp_path / "in-the-way"
        folder.mkdir(exist_ok=True)
        name = "sitecustomize" if does is None else module
        (folder / f"{name}.py").write_text(ABSENT.format(module) if does is None else does)
        return {"PYTHONPATH": str(folder)}

    return made


@pytest.fixture(scope="module")
def expected(ckn, data, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("expected") / "p.csv"
    assert ckn("predict", model, data.csv, "-o", path).rc == 0
    return path.read_text()


def environment_of(case, without):
    if case == "disabled":
        return {"NUMBA_DISABLE_JIT": "1"}
    if case == "told what cannot be":
        return {"NUMBA_NUM_THREADS": "0"}
    if case == "without a cache":
        return {"CKNCUDA_CPU_CACHE": "/dev/null/kept"}
    return {} if case == "as it is" else without("numba", PACKAGES[case])


@pytest.mark.parametrize(
    "case", [*PACKAGES, "disabled", "told what cannot be", "without a cache", "as it is"]
)
def test_predictions_are_the_same_whatever_has_become_of_numba(
    works, data, model, expected, without, tmp_path, case
):
    if case in ("disabled", "told what cannot be", "without a cache", "other parts within"):
        pytest.importorskip("numba")
    environment = environment_of(case, without)
    predict = ("predict", model, data.csv, "-o", "p.csv")
    done = works(*predict, env=environment, process=True)
    assert (tmp_path / "p.csv").read_text() == expected
    said = [line for line in done.stderr.splitlines() if "Numba" in line or "NUMBA" in line]
    if case in ("as it is", "not installed"):  # nobody expects what was never installed
        assert not [line for line in said if "plain" in line]
    else:
        (line,) = said
        assert "plain inner loops" in line
        assert REASONS[case] in line


@pytest.mark.parametrize("case", REASONS)
def test_backends_says_why_numba_compiles_nothing(works, without, case):
    lines = works("backends", env=environment_of(case, without), process=True).stdout.splitlines()
    (numpy,) = (line for line in lines if line.startswith("numpy"))
    assert "works" in numpy
    assert REASONS[case] in numpy


BROKEN = {
    "optuna": (("search", "-o", "m.ckn"), "'optuna<"),
    "matplotlib": (("distance", "-o", "plot.png"), "'matplotlib<"),
    "zarr": (("gram", "-o", "K.zarr"), "'zarr<"),
    "distributed": (("gram", "-o", "K.zarr", "--scheduler", "tls://a:1"), "'dask[distributed]<"),
    "sklearn": (("baseline",), "'scikit-learn<"),
    "skimage": (("baseline",), "'scikit-image<"),
}


@pytest.mark.parametrize("module", BROKEN)
def test_a_package_that_does_not_import_is_not_called_absent(refused, data, without, module):
    for needed in {"distributed": ["zarr"], "skimage": ["sklearn"]}.get(module, []):
        pytest.importorskip(needed)
    arguments, package = BROKEN[module]
    environment = without(module, "raise RuntimeError('built for\\x1b[31m another NumPy')")
    words = [
        f"{module} is installed but does not import (RuntimeError",
        "\\x1b[31m",
        "--force-reinstall",
        package,
    ]
    refused(*arguments, data.npz, words=words, env=environment)


def test_a_package_that_is_absent_is_one_to_install(refused, data, without):
    """From where it is, not as an extra of a name that anybody may take."""
    words = ["install them with: pip install 'optuna<"]
    line = refused("search", data.npz, "-o", "m.ckn", words=words, env=without("optuna", None))
    assert "ckncuda[" not in line
