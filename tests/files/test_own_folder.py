"""Folders of ours hold no links, and are nobody else's."""

import os
import time

import pytest

from ckncuda.errors import InvalidData
from ckncuda.files.own_folder import (
    append_whole,
    check_own_file,
    check_own_folder,
    entries_within,
    make_own_folder,
    open_own_file,
)

STRANGER = 12345
as_root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root gives files away"
)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "ours"
    (folder / "c" / "0").mkdir(parents=True)
    (folder / "c" / "0" / "1").write_bytes(b"tile")
    return folder


@pytest.fixture
def foreign(tmp_path):
    """A file of somebody else, which stays as it is."""
    path = tmp_path / "foreign"
    path.write_bytes(b"precious")
    yield path
    assert path.read_bytes() == b"precious"


def test_a_folder_of_ours(folder, tmp_path):
    check_own_folder(folder)
    assert sorted(entry.name for entry in entries_within(folder)) == ["0", "1", "c"]
    make_own_folder(folder)
    previous = os.umask(0)
    try:
        make_own_folder(tmp_path / "new")
        open_own_file(tmp_path / "new" / "lock").close()
    finally:
        os.umask(previous)
    assert not (tmp_path / "new").stat().st_mode & 0o002
    assert not (tmp_path / "new" / "lock").stat().st_mode & 0o002


@pytest.mark.parametrize("place", ["lock", "c/0/2", "c/1"])
@pytest.mark.parametrize("target", ["foreign", "nowhere", "."])
def test_links_in_it(folder, foreign, place, target):
    (folder / place).symlink_to(foreign.parent / target)
    for check in (check_own_folder, make_own_folder):
        with pytest.raises(InvalidData, match=f"{place} is a link, and is not followed: remove it"):
            check(folder)
    with pytest.raises(InvalidData, match=f"{place} is a link"):
        open_own_file(folder / place)
    with pytest.raises(InvalidData, match=f"{place} is a link"):
        check_own_file(folder / place)


def test_a_link_and_a_file_in_place_of_the_folder(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "file").touch()
    for name, words in (("link", "link is a link"), ("file", "file is no folder")):
        for check in (check_own_folder, make_own_folder):
            with pytest.raises(InvalidData, match=words):
                check(tmp_path / name)


def test_a_link_that_appears_after_the_check(folder, foreign, monkeypatch):
    (folder / "lock").symlink_to(foreign)
    monkeypatch.setattr("ckncuda.files.own_folder.check_own_file", lambda path: None)
    with pytest.raises(OSError, match="symbolic links"):
        open_own_file(folder / "lock")


def test_another_name_of_a_foreign_file(folder, foreign):
    os.link(foreign, folder / "lock")
    for check in (check_own_file, open_own_file):
        with pytest.raises(InvalidData, match="lock is another name of a file that stands elsewhere"):
            check(folder / "lock")


def test_a_pipe_and_a_folder_in_place_of_a_file(folder):
    os.mkfifo(folder / "lock")
    begin = time.monotonic()
    for place in ("lock", "c"):
        for check in (check_own_file, open_own_file):
            with pytest.raises(InvalidData, match=f"{place} is no file: remove it"):
                check(folder / place)
    assert time.monotonic() - begin < 1


def test_a_file_of_ours_is_gone_on_with(folder):
    for _ in range(2):
        with open_own_file(folder / "journal") as file:
            file.write(b"line\n")
    check_own_file(folder / "journal")
    with open_own_file(folder / "journal") as file:
        file.seek(0)
        assert file.read() == b"line\nline\n"


@pytest.mark.parametrize("place", ["", "c", "c/0"])
def test_a_folder_into_which_everybody_may_write(folder, place):
    (folder / place).chmod(0o777)
    with pytest.raises(
        InvalidData, match=f"everybody may write into (.*{place}), and.*: chmod -R o-w .*{place}, if"
    ):
        check_own_folder(folder)


@as_root
@pytest.mark.parametrize("place", ["", "c", "lock"])
def test_what_belongs_to_another_user(folder, place):
    (folder / "lock").touch()
    os.chown(folder / place, STRANGER, -1)
    check = check_own_file if place == "lock" else check_own_folder
    with pytest.raises(InvalidData, match=f"belongs to another user .number {STRANGER}"):
        check(folder / place if place == "lock" else folder)


def test_a_file_system_without_owners(folder, monkeypatch):
    """All files have one owner there, whoever makes them."""
    monkeypatch.setattr(os, "getuid", lambda: STRANGER)
    monkeypatch.setattr("ckncuda.files.own_folder._SYSTEM", -2)
    check_own_folder(folder)


@pytest.mark.parametrize("size", [10, 12, 13])
def test_a_line_is_written_whole_or_not_at_all(tmp_path, full_disk, size):
    with open_own_file(tmp_path / "log") as file:
        append_whole(file, b"ten bytes\n")
        with full_disk(size):
            with pytest.raises(OSError, match="File too large"):
                append_whole(file, b"more\n")
            assert (tmp_path / "log").read_bytes() == b"ten bytes\n"
            file.close()  # writes nothing any more
    assert (tmp_path / "log").read_bytes() == b"ten bytes\n"
