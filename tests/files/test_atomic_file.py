import os
import stat

import pytest

from ckncuda.errors import InvalidData
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
            (tmp_path / "missing" / "out", r"cannot write .*missing/out: No such file or directory"),
            (tmp_path, "it is a folder"),
            (tmp_path / "pipe", "it is a device or a pipe"),
        ):
            with pytest.raises(InvalidData, match=words):
                check(path)
    assert os.listdir(tmp_path) == ["pipe"]
    assert (tmp_path / "pipe").is_fifo()


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
