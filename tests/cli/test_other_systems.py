"""Commands where a system lacks what only POSIX, or only Linux, has; and in surroundings that are odd."""

import os
import subprocess
import sys

import numpy as np
import pytest

from ckncuda import load

WINDOWS = """
import os, pathlib, signal, sys
for module in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[module] = None
for name in ("sched_getaffinity", "geteuid", "getuid", "getgid", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC",
             "pread", "preadv", "fchmod", "fchown", "chown", "mkfifo", "posix_fallocate", "posix_fadvise"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGALRM"):
    delattr(signal, name)
read_text = pathlib.Path.read_text
def without_proc(self, *arguments, **options):
    if str(self).startswith(("/proc", "/sys")):
        raise FileNotFoundError(str(self))
    return read_text(self, *arguments, **options)
pathlib.Path.read_text = without_proc
"""


@pytest.fixture
def windows(tmp_path):
    """The environment of a process that lacks what Windows lacks."""
    folder = tmp_path / "windows"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WINDOWS)
    return {"PYTHONPATH": str(folder)}


def test_the_main_job_where_there_is_no_posix(works, windows, data, tmp_path, tiny):
    fitted = works("fit", data.csv, "--labels", data.labels_csv, "-o", "m.ckn", *tiny, "--json", env=windows)
    assert fitted.told["peak_memory"] is None
    for _ in range(2):  # the second time in place of a file
        works("predict", "m.ckn", data.npy, "-o", "p.csv", env=windows)
    assert (tmp_path / "p.csv").read_text().count("\n") == 41
    works("extract", "m.ckn", data.npz, "-o", "f.npy", env=windows)
    assert "numpy" in works("backends", env=windows).stdout


def test_a_gram_matrix_where_there_is_no_posix(works, windows, data):
    pytest.importorskip("zarr")
    for _ in range(2):
        works("gram", data.npy, "-o", "K.zarr", "--preprocess", "none", env=windows)


def test_a_search_where_there_is_no_posix(works, windows, data):
    pytest.importorskip("optuna")
    pytest.importorskip("matplotlib")
    works("search", data.npz, "-o", "m.ckn", "--trials", "1", "--time", "1s", env=windows)


SURROUNDINGS = {
    "warnings are errors": {"PYTHONWARNINGS": "error"},
    "an encoding without λ": {"PYTHONIOENCODING": "ascii"},
    "a locale without UTF-8": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "a narrow terminal": {"COLUMNS": "1", "LINES": "1"},
    "a terminal of no width": {"COLUMNS": "0"},
    "no home": {"HOME": "/nonexistent/home"},
    "no folder of temporary files": {"TMPDIR": "/nonexistent/tmp"},
    "optimized away": {"PYTHONOPTIMIZE": "1"},
    "a BLAS of no threads": {"OPENBLAS_NUM_THREADS": "0", "OMP_NUM_THREADS": "none"},
    "variables that are empty": {"CKNCUDA_BACKEND": "", "CKNCUDA_CPU_CACHE": "", "NUMBA_CACHE_DIR": ""},
}


@pytest.mark.parametrize("case", SURROUNDINGS)
def test_surroundings_do_not_matter(works, data, model, tmp_path, case):
    works("predict", model, data.npy, "-o", "p.csv", env=SURROUNDINGS[case], process=True)
    assert (tmp_path / "p.csv").read_text().count("\n") == 41
    assert "λ = " in works("info", model, env=SURROUNDINGS[case], process=True).stdout.replace("\\u03bb", "λ")


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps folders that processes are in")
def test_a_current_folder_that_is_gone(data, model, tmp_path):
    (tmp_path / "gone").mkdir()
    for arguments, status in ((("info", model), 0), (("extract", model, data.npy, "-o", "f.npy"), 2)):
        command = f"cd gone; rmdir ../gone; mkdir ../gone; '{sys.executable}' -P -m ckncuda.cli "
        command += " ".join(f"'{word}'" for word in arguments)
        options = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
        done = subprocess.run(["bash", "-c", command], **options)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        assert status == 0 or "no longer exists" in done.stderr or "cannot write" in done.stderr


MESSAGES = {
    "threads": (("--threads", "0"), ["--threads", "0"]),
    "threads-negative": (("--threads", "-1"), ["--threads", "-1"]),
    "threads-none": (("--threads", "many"), ["--threads", "'many'"]),
    "threads-part": (("--threads", "1.5"), ["--threads", "'1.5'"]),
    "memory-1": (("--memory", "1"), ["memory is 1;", "at least 64 MiB"]),
    "memory-negative": (("--memory", "-1"), ["--memory", "'-1'", "2GiB"]),
    "memory-unit": (("--memory", "2Gigs"), ["--memory", "'2Gigs'", "2GiB"]),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_amounts_that_cannot_be(refused, data, model, case):
    options, words = MESSAGES[case]
    refused("extract", model, data.npy, "-o", "f.npy", *options, words=words)


def test_more_threads_than_cores_change_nothing(works, data, model, tmp_path):
    for threads in (1, 10**20):
        works("extract", model, data.npy, "-o", f"{threads}.npy", "--threads", threads)
    np.testing.assert_array_equal(np.load(tmp_path / "1.npy"), np.load(tmp_path / f"{10**20}.npy"))
    assert load(model).classifier is not None
