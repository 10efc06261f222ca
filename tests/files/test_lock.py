"""Locks between processes, and disks that have none."""

import errno
import os

import pytest

from ckncuda.errors import InvalidData
from ckncuda.exact.on_disk.folder import LOCK, locked
from ckncuda.files import lock as module
from ckncuda.files.atomic_file import atomic_file
from ckncuda.files.lock import lock, open_locked
from ckncuda.studies.search.folder import alone_in

pytest.importorskip("fcntl")


def gram_folder(folder):
    locked(folder, folder / "K.zarr").close()


def search_folder(folder):
    with alone_in(folder):
        pass


def file(folder):
    with atomic_file(folder / "out") as out:
        out.write(b"whole")


@pytest.mark.parametrize(("name", "enter"), [(LOCK, gram_folder), ("lock", search_folder)])
def test_whoever_comes_second_is_refused_until_the_first_has_left(tmp_path, name, enter):
    with open_locked(tmp_path / name, "taken"), pytest.raises(InvalidData, match="another .*: wait for it"):
        enter(tmp_path)
    enter(tmp_path)


@pytest.mark.parametrize("enter", [gram_folder, search_folder, file])
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_where_a_disk_has_no_locks_nobody_is_kept_out(tmp_path, monkeypatch, enter, number):
    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.fcntl, "flock", flock)
    enter(tmp_path)


@pytest.mark.parametrize("enter", [gram_folder, search_folder, file])
def test_other_failures_of_a_lock_are_not_passed_over(tmp_path, monkeypatch, enter):
    def flock(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with pytest.raises((OSError, InvalidData), match="Input/output error"):
        enter(tmp_path)
    assert not list(tmp_path.glob(".out.*"))


def test_a_lock_goes_with_its_file(tmp_path):
    with open(tmp_path / "x", "wb") as first, open(tmp_path / "x", "rb") as second:
        assert lock(first.fileno()) is True
        assert lock(second.fileno()) is False
        first.close()
        assert lock(second.fileno()) is True
