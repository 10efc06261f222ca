"""Outputs that cannot be written: no folder, no permission, no space."""

import os
import shutil
import subprocess

import pytest

COMMANDS = {
    "fit": "m.ckn",
    "extract-npy": "f.npy",
    "extract-npz": "f.npz",
    "predict": "s.csv",
    "scores": "s.npy",
}


def arguments(command, output, data, model, tiny):
    """What makes each command write this output."""
    return {
        "fit": ("fit", data.npz, "-o", output, *tiny),
        "extract": ("extract", model, data.npy, "-o", output),
        "predict": ("predict", model, data.npy, "-o", output),
        "scores": ("predict", model, data.npy, "-o", "submission.csv", "--scores", output),
    }[command.split("-")[0]]


@pytest.fixture
def mounted(tmp_path):
    """Mount a tmpfs of 1 MB on a new folder; skips where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounts = []

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(["size=1m", *options]), "ckn-test", str(folder)]
        if (
            shutil.which("mount") is None
            or subprocess.run(command, capture_output=True, check=False).returncode
        ):
            pytest.skip("no file system can be mounted here")
        mounts.append(folder)
        return folder

    yield mount
    for mounted_folder in mounts:
        subprocess.run(["umount", str(mounted_folder)], check=True)


@pytest.mark.parametrize("command", ["fit", "extract-npy", "predict", "scores"])
def test_output_in_a_folder_that_is_missing(refused, data, model, tiny, command):
    output = "nowhere/" + COMMANDS[command]
    words = ["cannot write", output, "No such file or directory"]
    refused(*arguments(command, output, data, model, tiny), words=words)


@pytest.mark.parametrize("command", ["fit", "extract-npy", "predict"])
def test_output_that_is_a_folder(refused, data, model, tiny, tmp_path, command):
    (tmp_path / COMMANDS[command]).mkdir()
    words = ["cannot write", COMMANDS[command], "it is a folder"]
    refused(*arguments(command, COMMANDS[command], data, model, tiny), words=words)


def test_output_that_is_no_file_is_not_replaced(refused, data, model, tiny, tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")  # as /dev/null: what stands there must not become a file
    refused(*arguments("extract", "pipe.npy", data, model, tiny), words=["cannot write", "pipe.npy"])
    assert (tmp_path / "pipe.npy").is_fifo()


@pytest.mark.parametrize("command", ["fit", "extract-npy", "predict"])
def test_output_in_a_folder_without_permission(refused, data, model, tiny, tmp_path, command):
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    words = ["cannot write", "Permission denied"]
    refused(*arguments(command, f"closed/{COMMANDS[command]}", data, model, tiny), words=words)


def test_output_on_a_read_only_disk(refused, data, model, tiny, mounted):
    mounted("ro")
    words = ["cannot write disk/f.npy", "Read-only file system"]
    refused(*arguments("extract", "disk/f.npy", data, model, tiny), words=words)


@pytest.mark.parametrize("command", COMMANDS)
def test_disk_that_fills_up(refused, data, model, tiny, mounted, command):
    folder = mounted()
    (folder / COMMANDS[command]).write_bytes(b"what stood here before")
    with open(folder / "filler", "wb", buffering=0) as file:  # ends with a short write and then an error
        with pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(1 << 16))
        spare = 4 if command.startswith("extract") else 0  # so that features fail after their first page
        file.truncate(file.tell() - spare * 1024)
    output = f"disk/{COMMANDS[command]}"
    words = [f"cannot write {output}", "No space left on device"]
    refused(*arguments(command, output, data, model, tiny), words=words)


@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
@pytest.mark.parametrize("command", COMMANDS)
def test_file_that_may_not_grow(
    refused, works, data, model, tiny, tmp_path, limited_files, command, existing
):
    output = COMMANDS[command]
    if existing:
        (tmp_path / output).write_bytes(b"what stood here before")
    works(*arguments(command, f"other-{output}", data, model, tiny))  # keeps what it compiles while it may
    words = [f"cannot write {output}", "File too large"]
    with limited_files(64 if command in ("predict", "scores") else 2000):
        refused(*arguments(command, output, data, model, tiny), words=words)


def test_features_of_another_suffix(refused, data, model):
    refused("extract", model, data.npy, "-o", "features.txt", words=["features.txt", ".npy or .npz"])


def test_scores_and_submission_in_one_file(refused, data, model):
    words = ["--scores and -o", "give each its own"]
    refused("predict", model, data.npy, "-o", "s.csv", "--scores", "./s.csv", words=words)


def test_submission_that_fails_leaves_no_scores(refused, data, model, mounted):
    folder = mounted()
    with open(folder / "filler", "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(1 << 16))
    words = ["cannot write disk/s.csv", "No space"]
    refused("predict", model, data.npy, "-o", "disk/s.csv", "--scores", "s.npy", words=words)


def test_standard_output_that_is_full(ckn, command, model, environment):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*command, "info", model],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            check=False,
        )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr
