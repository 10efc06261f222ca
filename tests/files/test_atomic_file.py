import errno
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from ckncuda.errors import InvalidData
from ckncuda.files import atomic_file as module
from ckncuda.files import lock
from ckncuda.files.atomic_file import atomic_file, check_writable


def test_the_file_appears_when_the_block_ends_with_ordinary_permissions(tmp_path):
    path = tmp_path / "out"
    with atomic_file(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["out"]
    (tmp_path / "theirs").touch()
    assert path.stat().st_mode == (tmp_path / "theirs").stat().st_mode


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_after_a_failure_the_old_file_stands(tmp_path, failure):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(failure), atomic_file(path) as file:
        file.write(b"half")
        raise failure
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def test_places_where_nothing_can_be_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for check in (check_writable, lambda path: atomic_file(path).__enter__()):
        for path, words in (
            (
                tmp_path / "missing" / "out",
                r"cannot write .*: No such file .*missing\): make that folder",
            ),
            (tmp_path, "it is a folder"),
            (tmp_path / "pipe", "it is a device or a pipe"),
        ):
            with pytest.raises(InvalidData, match=words):
                check(path)
    assert os.listdir(tmp_path) == ["pipe"]
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["x" * 255, "x" * 230 + ".ckn", "é" * 127, "é" * 100 + "."], ids=len)
def test_names_as_long_as_there_may_be(tmp_path, name):
    """The temporary file has another, and is found again."""
    check_writable(tmp_path / name)
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / name) as file:
        (made,) = os.listdir(tmp_path)
        os.link(tmp_path / made, tmp_path / "kept")
        raise KeyboardInterrupt
    os.rename(tmp_path / "kept", tmp_path / made)  # as a killed writer leaves it
    with atomic_file(tmp_path / name) as file:
        file.write(b"whole")
    assert os.listdir(tmp_path) == [name]
    for longer in (check_writable, lambda path: atomic_file(path).__enter__()):
        with pytest.raises(InvalidData, match="File name too long: give a shorter name$"):
            longer(tmp_path / (name + "x" * 90))
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(not hasattr(os, "fchmod"), reason="modes of POSIX")
def test_the_mode_of_no_other_file_changes(tmp_path):
    """Somebody who may write into the folder puts a link in place of what is being written."""
    secret, path = tmp_path / "secret", tmp_path / "shared" / "out"
    path.parent.mkdir()
    secret.write_bytes(b"")
    secret.chmod(0o600)
    path.write_bytes(b"old")
    path.chmod(0o666)
    with atomic_file(path) as file:
        file.write(b"new")
        (being_written,) = path.parent.glob(".out.*.part")
        being_written.unlink()
        being_written.symlink_to(secret)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_write_protected_files_stand_and_modes_stay(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(0o444)
    with pytest.raises(InvalidData, match="it is write-protected"), atomic_file(path):
        pass
    assert path.read_bytes() == b"old"
    path.chmod(0o600)
    with atomic_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_links_stay_and_what_they_point_at_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    with atomic_file(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"new"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    """Writes go to a device that is always full; the temporary name is removed all the same."""

    def full(descriptor, mode):
        os.close(descriptor)
        return open("/dev/full", "r+b", buffering=0)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdopen", full)
        with pytest.raises(InvalidData, match="No space left on device; nothing was left behind"):
            with atomic_file(tmp_path / "out") as file:
                file.write(b"x")
    assert os.listdir(tmp_path) == []


WRITER = """
import sys, time
from ckncuda.files.atomic_file import atomic_file
with atomic_file(sys.argv[1]) as file:
    file.write(b"half"); file.flush(); print("begun", flush=True); time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that has begun to write the file ``out``."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "out")], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"begun\n"
        yield process
        process.kill()


@pytest.mark.parametrize("next_writer", [check_writable, lambda path: atomic_file(path).__enter__()])
def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path, writer, next_writer):
    theirs = [".out.0123456789abcde.part", ".out.png.0123456789abcdef.part", ".out.notes-and-more-0.part"]
    for name in theirs:
        (tmp_path / name).touch()
    (left,) = set(os.listdir(tmp_path)) - set(theirs)
    next_writer(tmp_path / "out")
    assert (tmp_path / left).exists()  # it lives
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    next_writer(tmp_path / "out")
    assert not (tmp_path / left).exists()
    assert set(theirs) <= set(os.listdir(tmp_path))


def test_links_and_pipes_are_not_what_is_left_over(tmp_path):
    (tmp_path / "precious").touch()
    (tmp_path / ".out.0123456789abcdef.part").symlink_to("precious")
    os.mkfifo(tmp_path / ".out.0123456789abcdee.part")
    before = os.listdir(tmp_path)
    check_writable(tmp_path / "out")
    assert os.listdir(tmp_path) == before


@pytest.mark.parametrize(("age", "stays"), [(3600, True), (100000, False)])
@pytest.mark.parametrize("locks", ["no system of locks", "no locks on this disk", "Windows"])
def test_where_there_are_no_locks_age_tells_what_is_left_over(tmp_path, monkeypatch, age, stays, locks):
    def flock(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    if locks == "Windows":
        monkeypatch.setattr(module, "RENAMES_OPEN_FILES", False)
        for name in ("getuid", "fchmod", "O_NOFOLLOW", "O_NONBLOCK"):
            monkeypatch.delattr(os, name, raising=False)
    if locks != "no locks on this disk":
        monkeypatch.setattr(lock, "fcntl", None)
    else:
        monkeypatch.setattr(lock.fcntl, "flock", flock)
    left = tmp_path / ".out.0123456789abcdef.part"
    left.touch()
    os.utime(left, (time.time() - age,) * 2)
    with atomic_file(tmp_path / "out") as file:
        file.write(b"whole")
    assert left.exists() == stays
    assert (tmp_path / "out").read_bytes() == b"whole"


def test_one_that_looks_for_left_over_files_is_quicker_than_the_lock(tmp_path, monkeypatch):
    """Between the file's making and its locking, somebody else takes it for left over."""
    locks, removed = module.lock, []

    def quicker(descriptor):
        if not removed:
            removed.extend(tmp_path.iterdir())
            module.remove_left_over(tmp_path / "out")
        return locks(descriptor)

    monkeypatch.setattr(module, "lock", quicker)
    with atomic_file(tmp_path / "out") as file:
        file.write(b"whole")
    assert len(removed) == 1
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_files_of_other_threads_keep_their_modes(tmp_path, monkeypatch, mask):
    """The umask is the whole process's: while one changes it, another makes a file."""
    modes, change = [], os.umask

    def theirs():
        (tmp_path / "theirs").touch()
        modes.append(stat.S_IMODE((tmp_path / "theirs").stat().st_mode))
        (tmp_path / "theirs").unlink()

    def changed(new):
        old = change(new)
        theirs()
        return old

    previous = os.umask(mask)
    try:
        monkeypatch.setattr(os, "umask", changed)
        with atomic_file(tmp_path / "ours"):
            theirs()
    finally:
        change(previous)
    assert set(modes) == {0o666 & ~mask}
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == 0o666 & ~mask


def test_what_replaces_a_private_file_is_private_while_it_is_written(tmp_path):
    (tmp_path / "out").touch(0o600)
    with atomic_file(tmp_path / "out"):
        (temporary,) = tmp_path.glob(".out.*.part")
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
