"""Outputs that cannot be written: no folder, no permission, no space."""

import contextlib
import os
import shutil
import subprocess

import pytest

OUTPUTS = ("m.ckn", "f.npy", "f.npz", "s.csv", "s.npy")


@pytest.fixture
def writing(data, model, tiny):
    """Give the arguments of a command that writes this output."""

    def arguments(output):
        return {
            "m.ckn": ("fit", data.npz, "-o", output, *tiny),
            "s.csv": ("predict", model, data.npy, "-o", output),
            "s.npy": ("predict", model, data.npy, "-o", "submission.csv", "--scores", output),
        }.get(output[-5:], ("extract", model, data.npy, "-o", output))

    return arguments


@pytest.fixture
def mounted(tmp_path):
    """Mount a tmpfs of 1 MB on a new folder; skips where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with contextlib.ExitStack() as stack:

        def mount(*options):
            command = ["mount", "-t", "tmpfs", "-o", ",".join(["size=1m", *options]), "ckn-test", folder]
            if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
                pytest.skip("no file system can be mounted here")
            stack.callback(subprocess.run, ["umount", folder], check=True)
            return folder

        yield mount


def fill(folder, spare=0):
    """Leave so many bytes of a disk."""
    with open(folder / "filler", "wb", buffering=0) as file:  # ends with a short write and then an error
        with pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(1 << 16))
        file.truncate(file.tell() - spare)


@pytest.mark.parametrize("output", ["m.ckn", "f.npy", "s.csv", "s.npy"])
def test_output_in_a_folder_that_is_missing(refused, writing, output):
    words = ["cannot write", f"nowhere/{output}", "No such file or directory"]
    refused(*writing(f"nowhere/{output}"), words=words)


@pytest.mark.parametrize("output", ["m.ckn", "f.npy", "s.csv"])
def test_output_that_is_a_folder(refused, writing, tmp_path, output):
    (tmp_path / output).mkdir()
    refused(*writing(output), words=["cannot write", output, "it is a folder"])


def test_output_that_is_no_file_is_not_replaced(refused, writing, tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")  # as /dev/null: what stands there must not become a file
    refused(*writing("pipe.npy"), words=["cannot write", "pipe.npy"])
    assert (tmp_path / "pipe.npy").is_fifo()


@pytest.mark.parametrize("output", ["m.ckn", "f.npy", "s.csv"])
def test_output_in_a_folder_without_permission(refused, writing, tmp_path, output):
    (tmp_path / "closed").mkdir(mode=0o500)
    if os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("this user may write everywhere")
    refused(*writing(f"closed/{output}"), words=["cannot write", "Permission denied"])


def test_output_on_a_read_only_disk(refused, writing, mounted):
    mounted("ro")
    refused(*writing("disk/f.npy"), words=["cannot write disk/f.npy", "Read-only file system"])


@pytest.mark.parametrize("output", OUTPUTS)
def test_disk_that_fills_up(refused, writing, mounted, output):
    folder = mounted()
    (folder / output).write_bytes(b"what stood here before")
    fill(folder, spare=4096 if output[0] == "f" else 0)  # so that features fail after their first page
    refused(*writing(f"disk/{output}"), words=[f"cannot write disk/{output}", "No space left on device"])


@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_file_that_may_not_grow(refused, works, writing, tmp_path, limited_files, output, existing):
    if existing:
        (tmp_path / output).write_bytes(b"what stood here before")
    works(*writing(f"other-{output}"))  # keeps what it compiles while it may
    with limited_files(64 if output[0] == "s" else 2000):
        refused(*writing(output), words=[f"cannot write {output}", "File too large"])


def test_features_of_another_suffix(refused, writing):
    refused(*writing("features.txt"), words=["features.txt", ".npy or .npz"])


def test_scores_and_submission_in_one_file(refused, writing):
    words = ["--scores and -o", "give each its own"]
    refused(*writing("s.csv"), "--scores", "./s.csv", words=words)


def test_submission_that_fails_leaves_no_scores(refused, writing, mounted):
    fill(mounted())
    refused(*writing("disk/s.csv"), "--scores", "s.npy", words=["cannot write disk/s.csv", "No space"])


def test_standard_output_that_is_full(ckn, model):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = ckn("info", model, stdout=full)
    assert done.rc == 2
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr
