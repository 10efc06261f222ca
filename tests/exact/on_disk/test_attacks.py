"""What others put into a folder where a matrix grows, stands or is replaced: nothing of theirs is touched."""

import os
import shutil
import stat
import time

import numpy as np
import pytest
from gram_files import OTHER, SQUARE, cut, read, write

from ckncuda.errors import InvalidData
from ckncuda.exact.on_disk.folder import check_gram_path
from ckncuda.exact.on_disk.reading import open_gram
from ckncuda.exact.on_disk.writing import GramStore

STRANGER = 12345
as_root = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can")


@pytest.fixture
def foreign(tmp_path, listing):
    """Files of somebody else, which stay as they are, in a folder whose names look like ours."""
    folder = tmp_path / "foreign"
    (folder / "0").mkdir(parents=True)
    for name in ("file", "0/0", "0/1", "0/2", "0/0.abc.partial", "x.partial", "zarr.abc.partial"):
        (folder / name).write_bytes(b"precious")
    before = listing(folder)
    yield folder
    assert listing(folder) == before


@pytest.fixture
def begun(part, path, matrix):
    write(path, matrix, tiles=2)
    return part


def replace_by_link(place, target):
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(target)


LINKS = {
    "c/0": "0",  # tiles would be overwritten there
    "c": ".",  # what is half-written would be deleted
    ".lock": "file",
    "zarr.json": "file",
    "checksums": "file",
    "c/0/0": "file",
    "c/2": "0",
    "zarr.abc.partial": "file",
}


@pytest.mark.parametrize("place", LINKS)
def test_links_in_a_folder_where_a_matrix_grows(begun, path, matrix, foreign, place):
    replace_by_link(begun / place, foreign / LINKS[place])
    with pytest.raises(InvalidData, match=f"{place} is a link, and is not followed: remove it"):
        write(path, matrix)


@pytest.mark.parametrize("place", ["c/0", "c", "zarr.json", "checksums", "c/0/0"])
def test_links_in_a_matrix_that_would_be_replaced_or_mended(tmp_path, matrix, foreign, place):
    path = tmp_path / "K.zarr"
    write(path, matrix)
    replace_by_link(path / place, foreign / LINKS[place])
    for identity in ({}, {"identity": OTHER}):
        with pytest.raises(InvalidData, match=f"{place} is a link|no Gram matrix of ckn gram, or one whose"):
            write(path, matrix, **identity)


def test_links_in_place_of_the_folders_themselves(tmp_path, matrix, foreign):
    path = tmp_path / "K.zarr"
    (tmp_path / "K.zarr.part").symlink_to(foreign)
    with pytest.raises(InvalidData, match="is no folder"):
        write(path, matrix)
    (tmp_path / "K.zarr.part").unlink()
    write(path, matrix)
    (tmp_path / ".K.zarr.replaced").symlink_to(foreign)
    with pytest.raises(InvalidData, match="is in the way and not of ckn gram"):
        write(path, -matrix, identity=OTHER)
    np.testing.assert_array_equal(read(path), matrix)


@pytest.mark.parametrize("name", [".lock", "checksums"])
def test_another_name_of_a_foreign_file(begun, path, matrix, foreign, name):
    (begun / name).unlink(missing_ok=True)
    os.link(foreign / "file", begun / name)
    with pytest.raises(InvalidData, match=f"{name} is another name of a file that stands elsewhere"):
        write(path, matrix)


@as_root
@pytest.mark.parametrize("place", ["", "c", "c/0"])
def test_a_folder_of_another_user(begun, path, matrix, place):
    os.chown(begun / place, STRANGER, -1)
    with pytest.raises(InvalidData, match=f"belongs to another user .number {STRANGER}"):
        write(path, matrix)


@as_root
def test_a_matrix_of_another_user_is_refused_before_the_work(tmp_path, matrix):
    write(tmp_path / "K.zarr", matrix)
    os.chown(tmp_path / "K.zarr", STRANGER, -1)
    with pytest.raises(InvalidData, match=f"belongs to another user .number {STRANGER}"):
        check_gram_path(tmp_path / "K.zarr")


def test_a_matrix_that_could_not_be_removed_is_refused_before_the_work(tmp_path, matrix, monkeypatch):
    write(tmp_path / "K.zarr", matrix)
    protected = tmp_path / "K.zarr" / "c" / "1"
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(protected))  # root may do anything
    with pytest.raises(InvalidData, match="could not be removed, since .*c/1 is write-protected; make it"):
        check_gram_path(tmp_path / "K.zarr")


@pytest.mark.parametrize("place", ["", "c", "c/0"])
def test_a_folder_into_which_everybody_may_write(begun, path, matrix, place):
    (begun / place).chmod(0o777)
    with pytest.raises(InvalidData, match="everybody may write into"):
        write(path, matrix)
    (begun / place).chmod(0o755)
    write(path, matrix)


def test_whatever_the_umask_nobody_else_may_write_into_what_we_make(begun, path, matrix, tmp_path):
    previous = os.umask(0)
    try:
        write(path, matrix, tiles=3)
        write(tmp_path / "L.zarr", matrix)
    finally:
        os.umask(previous)
    write(path, matrix)
    folders = [place for place in (tmp_path / "L.zarr").rglob("*") if place.is_dir()]
    assert not any(stat.S_IMODE(place.stat().st_mode) & 0o002 for place in folders)


@pytest.mark.parametrize("place", [".lock", "zarr.json", "checksums", "c/0/0"])
def test_pipes_in_a_folder_are_refused_or_replaced_at_once(begun, path, matrix, place):
    (begun / place).unlink(missing_ok=True)
    os.mkfifo(begun / place)
    moment = time.monotonic()
    try:
        write(path, matrix)
    except InvalidData:
        assert place != "c/0/0"
    else:
        np.testing.assert_array_equal(read(path), matrix)
    assert time.monotonic() - moment < 5


@pytest.mark.parametrize("place", ["zarr.json", "checksums", "c/1/0"])
def test_pipes_in_a_matrix_that_is_read(tmp_path, matrix, place):
    path = tmp_path / "K.zarr"
    write(path, matrix)
    (path / place).unlink()
    os.mkfifo(path / place)
    moment = time.monotonic()
    with pytest.raises(InvalidData, match=r"K\.zarr"):
        open_gram(path)[0:10]
    assert time.monotonic() - moment < 1


@pytest.mark.parametrize("name", ["K.zarr", "K.npy", "K.npy.part", "K.zarr.part"])
def test_pipes_in_place_of_a_matrix(tmp_path, matrix, name):
    os.mkfifo(tmp_path / name)
    path = tmp_path / name.removesuffix(".part")
    moment = time.monotonic()
    with pytest.raises(InvalidData):
        write(path, matrix)
    with pytest.raises(InvalidData):
        open_gram(path)
    assert time.monotonic() - moment < 1


def test_links_that_appear_while_the_matrix_grows(tmp_path, matrix, foreign):
    path = tmp_path / "K.zarr"
    with GramStore(path, SQUARE, OTHER) as opened:
        left = opened.unfinished()
        opened.fill(cut(matrix, left[:1]))
        os.unlink(tmp_path / "K.zarr.part" / "checksums")
        (tmp_path / "K.zarr.part" / "checksums").symlink_to(foreign / "file")
        opened.fill(cut(matrix, left[1:]))
        opened.finish()
    np.testing.assert_array_equal(open_gram(path)[0:10], matrix)
