"""Gram matrices on disk: resumed, verified, and never half of one under its name."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from gram_files import IDENTITY, OTHER, SQUARE, cut, read, write

from ckncuda.errors import InvalidData, NotInstalled
from ckncuda.exact.on_disk.writing import GramStore
from ckncuda.exact.tiles import Tiling


def test_what_was_begun_is_gone_on_with(path, matrix, tmp_path):
    assert len(write(path, matrix, tiles=2)) == 6
    assert os.listdir(tmp_path) == [path.name + ".part"]
    assert len(write(path, matrix, tiles=1)) == 4
    assert len(write(path, matrix)) == 3
    assert os.listdir(tmp_path) == [path.name]
    np.testing.assert_array_equal(read(path), matrix, strict=True)


def test_matrix_of_images_with_others(path, rng):
    tiling = Tiling(5, 9, 4)
    expected = rng.normal(size=(5, 9))
    with GramStore(path, tiling, IDENTITY | {"dtype": "float64", "shape": [5, 9]}) as opened:
        opened.fill(cut(expected, opened.unfinished()))
        opened.finish()
    np.testing.assert_array_equal(read(path), expected)


def test_progress_counts_what_was_there(path, matrix):
    write(path, matrix, tiles=2)
    said = []
    with GramStore(path, SQUARE, IDENTITY) as opened:
        left = opened.unfinished(lambda *news: said.append(news))
        assert said == [("verifying tiles", number, 6) for number in range(1, 7)]
        del said[:]
        opened.fill(cut(matrix, left), lambda *news: said.append(news))
    assert said[0] == ("Gram matrix", 10 + 16, 55)
    assert said[-1] == ("Gram matrix", 55, 55)


def flipped(chunk):
    data = bytearray(chunk.read_bytes())
    data[17] ^= 1
    chunk.write_bytes(data)


DAMAGES = {
    "flipped": flipped,
    "truncated": lambda chunk: os.truncate(chunk, 30),
    "emptied": lambda chunk: os.truncate(chunk, 0),
    "zeroed": lambda chunk: chunk.write_bytes(bytes(len(chunk.read_bytes()))),
    "longer": lambda chunk: chunk.write_bytes(chunk.read_bytes() + b"more"),
    "removed": lambda chunk: chunk.unlink(),
}


@pytest.mark.parametrize("place", ["0/0", "0/2", "2/0"])  # on the diagonal, above and below it
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_tile_is_found_and_recomputed(path, part, matrix, damage, place):
    write(path, matrix, tiles=6)  # all, but not yet under its name
    DAMAGES[damage](part / "c" / place)
    (left,) = write(path, matrix)
    assert left.rows.start == 0
    assert left.columns.start == 4 * max(int(place[0]), int(place[-1]))
    np.testing.assert_array_equal(read(path), matrix)


def test_a_finished_matrix_is_verified_and_mended(tmp_path, matrix, listing):
    path = tmp_path / "K.zarr"
    write(path, matrix)
    whole = listing(path)
    assert write(path, matrix) == []
    assert listing(path) == whole
    flipped(path / "c/1/2")
    assert len(write(path, matrix)) == 1
    assert listing(path) == whole
    assert os.listdir(tmp_path) == ["K.zarr"]


def test_another_finished_matrix_stands_until_the_new_one_is_there(path, matrix, tmp_path):
    write(path, matrix)
    write(path, -matrix, tiles=3, identity=OTHER)
    np.testing.assert_array_equal(read(path), matrix)
    write(path, -matrix, identity=OTHER)
    np.testing.assert_array_equal(read(path), -matrix)
    assert os.listdir(tmp_path) == [path.name]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path, matrix):
    path = tmp_path / "K.zarr"
    write(path, matrix)
    path.rename(tmp_path / ".K.zarr.replaced")  # as far as the kill let it come
    write(path, -matrix, tiles=6, identity=OTHER)
    assert write(path, -matrix, identity=OTHER) == []
    np.testing.assert_array_equal(read(path), -matrix)
    assert os.listdir(tmp_path) == ["K.zarr"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("images", "b", "differs in IMAGES."),
        ("images2", "b", "differs in IMAGES2"),
        ("kernel", {"tangent": True}, "differs in the kernel"),
        ("preprocessing", [{"name": "zca"}], "the preprocessing"),
        ("tile", 5, "tile: 4 there, 5 here"),
        ("dtype", "float64", "dtype: float32 there, float64 here"),
        ("backend", "cupy", "the backend: numpy there, cupy here"),
    ],
)
def test_beginnings_of_other_matrices_are_refused(path, matrix, name, value, words):
    write(path, matrix, tiles=2)
    with pytest.raises(InvalidData, match=f"beginning of another matrix.*{words}.*delete the folder"):
        write(path, matrix, identity=IDENTITY | {name: value})
    assert len(write(path, matrix)) == 4  # and stay as they were


def test_only_one_process_writes(path, matrix):
    with GramStore(path, SQUARE, IDENTITY):
        with pytest.raises(InvalidData, match="another process is computing"):
            write(path, matrix)
    write(path, matrix)


def test_a_rename_that_the_disk_refuses_leaves_the_finished_matrix(tmp_path, matrix, monkeypatch):
    path, rename = tmp_path / "K.zarr", Path.rename

    def refuse(self, target):
        if self.name == "K.zarr.part":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    write(path, matrix)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(InvalidData, match=r"No space left on device; its finished tiles are kept"):
        write(path, -matrix, identity=OTHER)
    np.testing.assert_array_equal(read(path), matrix)
    assert sorted(os.listdir(tmp_path)) == ["K.zarr", "K.zarr.part"]


def test_numbers_that_are_not_finite_are_refused(path, matrix, tmp_path):
    with pytest.raises(InvalidData, match="image 1 and image 1 is inf"):
        write(path, matrix * np.inf)
    assert os.listdir(tmp_path) == []  # there was no tile yet
    matrix[5, 9] = np.inf
    with pytest.raises(InvalidData, match="image 6 and image 10 is inf.*scale or preprocess"):
        write(path, matrix)


def test_it_says_which_finished_matrix_it_replaces(path, matrix):
    write(path, matrix)
    with GramStore(path, SQUARE, IDENTITY) as opened:
        assert opened.replaces is None
    with GramStore(path, SQUARE, IDENTITY | {"images": "b", "tile": 4}) as opened:
        assert opened.replaces == ("IMAGES" if path.suffix == ".zarr" else None)  # a .npy does not say what


def test_a_disk_that_is_too_small_is_found_before_the_work(path, matrix, monkeypatch):
    usage = shutil.disk_usage(path.parent)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with GramStore(path, SQUARE, IDENTITY) as opened:
        with pytest.raises(InvalidData, match=r"takes .* more, but 100 bytes are free there: make"):
            opened.check_space(opened.unfinished())


def test_finishing_needs_all_tiles(path, matrix):
    with GramStore(path, SQUARE, IDENTITY) as opened:
        opened.fill(cut(matrix, opened.unfinished()[:5]))
        with pytest.raises(InvalidData, match="lacks 3 pairs"):
            opened.finish()
    assert not path.exists()


@pytest.mark.parametrize("harm", [Path.unlink, lambda chunk: chunk.write_bytes(b"")])
def test_a_tile_that_is_harmed_before_the_end_is_in_no_result(tmp_path, matrix, harm):
    path = tmp_path / "K.npy"
    with GramStore(path, SQUARE, IDENTITY) as opened:
        opened.fill(cut(matrix, opened.unfinished()))
        harm(tmp_path / "K.npy.part/c/1/2")
        with pytest.raises(InvalidData, match="has been damaged meanwhile"):
            opened.finish()
    assert not path.exists()
    assert len(write(path, matrix)) == 1
    np.testing.assert_array_equal(read(path), matrix)


def test_without_zarr(path, matrix, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(NotInstalled, match="pip install 'zarr<"):
        write(path, matrix)


def test_memory_is_that_of_a_row_of_tiles(path, peak_memory):
    tiling = Tiling(2048, tile=128)  # 34 MB in all
    block = np.ones((128, 128))
    identity = IDENTITY | {"dtype": "float64", "shape": [2048, 2048], "tile": 128}
    with peak_memory() as peak, GramStore(path, tiling, identity) as opened:
        opened.fill((tile, block) for tile in opened.unfinished())
        opened.finish()
    assert peak() < 8e6


@pytest.mark.parametrize("more", [0, 5, 12])
def test_a_disk_that_is_full_when_a_checksum_is_written(tmp_path, matrix, full_disk, more):
    """The error is said once, nobody is kept out, and what was finished goes on with the same bits."""
    path = tmp_path / "K.zarr"
    write(path, matrix, tiles=5)
    checksums = tmp_path / "K.zarr.part" / "checksums"
    size = checksums.stat().st_size
    assert size > 68  # bytes of a tile, which fits the disk
    with (
        full_disk(size + more),
        pytest.raises(InvalidData, match=r"File too large; its finished tiles are kept"),
    ):
        write(path, matrix, tiles=1)
    assert checksums.stat().st_size == size
    write(path, matrix)
    np.testing.assert_array_equal(read(path), matrix)


def test_a_lock_that_is_removed_before_it_is_held_keeps_nobody_out(tmp_path, matrix, monkeypatch):
    """As when another process ends its work between our opening of the file and our locking it."""
    fcntl = pytest.importorskip("fcntl", reason="locks of POSIX")
    flock, lock = fcntl.flock, tmp_path / "K.zarr.part" / ".lock"

    def removed(file, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        lock.unlink()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", removed)
    with GramStore(tmp_path / "K.zarr", SQUARE, IDENTITY):
        assert lock.exists()
        with pytest.raises(InvalidData, match="another process is computing"):
            write(tmp_path / "K.zarr", matrix)
