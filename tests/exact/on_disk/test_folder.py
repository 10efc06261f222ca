"""The place where a matrix is written: links, left-over files, and what belongs to somebody else."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from gram_files import OTHER, SQUARE, cut, read, write

from ckncuda.errors import InvalidData
from ckncuda.exact.on_disk import folder as gram_folder
from ckncuda.exact.on_disk.folder import check_gram_path
from ckncuda.exact.on_disk.writing import GramStore


def test_what_a_killed_process_left_is_removed(tmp_path, matrix):
    path = tmp_path / "K.npy"
    write(path, matrix, tiles=3)
    half_written = tmp_path / "K.npy.part/c/0/0.f00.partial", tmp_path / ".K.npy.0123456789abcdef.part"
    for file in half_written:
        file.write_bytes(b"half")
    write(path, matrix, tiles=1)
    assert not any(file.exists() for file in half_written)
    empty = tmp_path / "L.npy.part"
    empty.mkdir()
    write(tmp_path / "L.npy", matrix)
    assert not empty.exists()


def test_places_where_no_matrix_can_be_written(tmp_path, matrix, listing):
    for folder in ("photos.zarr", "K.zarr.part", "M.zarr.part", "d.npy"):
        (tmp_path / folder).mkdir()
    for file in ("photos.zarr/cat.jpg", "K.zarr.part/cat.jpg", "M.zarr.part/movie.partial", "L.zarr.part"):
        (tmp_path / file).touch()
    before = listing(tmp_path)
    for name, words in [
        ("K.txt", "ending in .zarr or .npy"),
        ("photos.zarr", "no Gram matrix of ckn gram"),
        ("nowhere/K.zarr", "No such file or directory"),
        ("d.npy", "it is a folder"),
        ("K.zarr", "holds cat.jpg"),
        ("L.zarr", "L.zarr.part, where the matrix grows .* is no folder: move it elsewhere"),
        ("M.zarr", "holds movie.partial"),  # which ends like ours
    ]:
        with pytest.raises(InvalidData, match=words):
            write(tmp_path / name, matrix)
    assert listing(tmp_path) == before
    with pytest.raises(InvalidData, match="no Gram matrix"):
        check_gram_path(tmp_path / "photos.zarr")


def test_a_description_that_is_damaged(path, part, matrix):
    write(path, matrix, tiles=1)
    whole = (part / "zarr.json").read_text()
    misspelt = (whole.replace("crc32c", "crc33c"), whole.replace("chunk_grid", "chunk_grit"))
    for damaged in (whole[:9], "[]", *misspelt):
        (part / "zarr.json").write_text(damaged)
        with pytest.raises(InvalidData, match=r"K\..*part is damaged or no folder of ckn gram: delete"):
            write(path, matrix)
    (part / "zarr.json").write_text(whole)
    write(path, matrix)


def test_a_link_stays_and_what_it_points_at_is_replaced(tmp_path, matrix):
    (tmp_path / "disk").mkdir()
    for name in ("K.zarr", "K.npy"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
        write(tmp_path / name, matrix)
        assert (tmp_path / name).is_symlink()
        np.testing.assert_array_equal(read(tmp_path / name), matrix)


@pytest.mark.parametrize(("name", "target"), [("K.zarr", "mat"), ("K.zarr", "t.npy"), ("K.npy", "m.dat")])
def test_the_name_of_a_link_says_how_to_write_what_it_points_at(tmp_path, matrix, name, target):
    link, place = tmp_path / name, tmp_path / "disk" / target
    place.parent.mkdir()
    link.symlink_to(place)
    write(link, matrix, tiles=5)
    assert os.listdir(place.parent) == [target + ".part"]
    write(link, matrix)
    np.testing.assert_array_equal(read(link), matrix)
    assert os.listdir(place.parent) == [target]
    assert place.is_dir() == (name == "K.zarr")
    if name == "K.zarr":
        assert write(link, matrix) == []  # it is gone on with, not computed anew
    write(link, -matrix, identity=OTHER)
    np.testing.assert_array_equal(read(link), -matrix)
    assert link.is_symlink()
    assert os.listdir(place.parent) == [target]


def test_links_that_lead_nowhere_or_to_something_else(tmp_path, matrix):
    for name in ("loop.zarr", "loop.npy"):
        (tmp_path / name).symlink_to(tmp_path / name)
        with pytest.raises(InvalidData, match=f"{name}: Too many levels of symbolic links; give another"):
            check_gram_path(tmp_path / name)
    (tmp_path / "m.dat").write_text("precious")
    for name, words in (("S.npy", "m.dat, which is no .npy file"), ("S.zarr", "no Gram matrix of ckn gram")):
        (tmp_path / name).symlink_to("m.dat")
        with pytest.raises(InvalidData, match=words):
            write(tmp_path / name, matrix)
    assert (tmp_path / "m.dat").read_text() == "precious"
    (tmp_path / "K.zarr.part").symlink_to(tmp_path)
    with pytest.raises(InvalidData, match=r"K\.zarr\.part.*is no folder"):
        write(tmp_path / "K.zarr", matrix)


@pytest.mark.parametrize("place", ["K.zarr/cat.jpg", "K.zarr", ".K.zarr.replaced/cat.jpg"])
def test_what_somebody_else_puts_in_the_way_meanwhile_is_not_lost(tmp_path, matrix, place):
    path, other = tmp_path / "K.zarr", tmp_path / place
    if place != "K.zarr":
        write(path, matrix)
    with GramStore(path, SQUARE, OTHER) as opened:
        opened.fill(cut(-matrix, opened.unfinished()))
        other.parent.mkdir(exist_ok=True)
        other.write_text("precious")
        with pytest.raises(InvalidData, match=r"K\.zarr"):
            opened.finish()
    assert other.read_text() == "precious"
    other.rename(tmp_path / "cat.jpg")
    assert write(path, -matrix, identity=OTHER) == []
    np.testing.assert_array_equal(read(path), -matrix)


def test_a_finished_matrix_with_something_else_in_it_is_not_replaced(tmp_path, matrix):
    write(tmp_path / "K.zarr", matrix)
    (tmp_path / "K.zarr" / "notes.txt").touch()
    with pytest.raises(InvalidData, match=r"cannot write .*K\.zarr: it holds notes.txt"):
        check_gram_path(tmp_path / "K.zarr")


@pytest.mark.parametrize("place", ["c/cat.jpg", "c/0/cat.jpg", "c/photos/1", "c/0/0.d/1", "c/3/3/3"])
@pytest.mark.parametrize("folder", ["K.zarr", ".K.zarr.replaced"])
def test_nothing_of_somebody_else_goes_with_the_tiles(tmp_path, matrix, place, folder):
    path, precious = tmp_path / "K.zarr", tmp_path / folder / place
    write(path, matrix)
    if folder != "K.zarr":
        shutil.copytree(path, tmp_path / folder)
    precious.parent.mkdir(parents=True, exist_ok=True)
    precious.write_text("precious")
    with pytest.raises(InvalidData, match=r"K\.zarr: it holds c/|K\.zarr\.replaced is in the way"):
        write(path, -matrix, identity=OTHER)
    assert precious.read_text() == "precious"


def test_folders_in_folders_without_end(tmp_path, matrix):
    path = tmp_path / "K.zarr"
    write(path, matrix, tiles=2)
    places = [str(tmp_path / "K.zarr.part" / "c") + "/d" * depth for depth in range(1, 1501)]
    for place in places:
        os.mkdir(place)
    said = "holds folders in folders, 51 deep, which are not ours: remove them"
    with pytest.raises(InvalidData, match=said):
        write(path, matrix)
    for place in reversed(places):  # pytest, which removes what tests leave, goes down by recursion
        os.rmdir(place)


def test_half_of_a_description_is_no_obstacle(path, part, matrix, tmp_path):
    part.mkdir()
    (part / "zarr.abc.partial").touch()
    write(path, matrix)
    np.testing.assert_array_equal(read(path), matrix)
    assert os.listdir(tmp_path) == [path.name]


def test_tiles_that_do_not_say_of_which_matrix_they_are_not_taken(path, part, matrix):
    write(path, matrix, tiles=2)
    (part / "zarr.json").unlink()
    with pytest.raises(InvalidData, match="no folder of ckn gram, since it holds c;"):
        write(path, -matrix, identity=OTHER)


def test_a_kill_while_a_folder_is_removed_leaves_what_is_known_as_ours(path, part, matrix, monkeypatch):
    write(path, matrix, tiles=6)

    def kill(self, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "unlink", kill)
        gram_folder.remove(part)
    assert (part / "zarr.json").exists()
    assert not (part / "c").exists()
    assert len(write(path, matrix)) == 6


def test_a_folder_in_the_place_of_a_tile_and_a_file_in_that_of_a_row(path, part, matrix):
    write(path, matrix, tiles=5)
    chunk = part / "c" / "1" / "0"
    chunk.unlink()
    chunk.mkdir()
    (chunk / "cat.jpg").touch()
    with pytest.raises(InvalidData, match="c/1/0 is in the way of a tile: delete it, then give the same"):
        write(path, matrix)
    (chunk / "cat.jpg").unlink()
    row = part / "c" / "2"
    shutil.rmtree(row)
    row.touch()
    with pytest.raises(InvalidData, match="c/2 is in the way of a tile: delete it, then give the same"):
        write(path, matrix)
    row.unlink()
    assert len(write(path, matrix)) == 4
    np.testing.assert_array_equal(read(path), matrix)


def test_a_matrix_that_was_killed_before_its_first_tile_is_not_gone_on_with(path, part, matrix):
    write(path, matrix, tiles=1)
    shutil.rmtree(part / "c")
    (part / "c" / "0").mkdir(parents=True)
    (part / "c" / "0" / "0.abc.partial").touch()
    write(path, -matrix, identity=OTHER)
    np.testing.assert_array_equal(read(path), -matrix)
