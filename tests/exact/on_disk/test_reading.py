"""Gram matrices that are there already, as they are read."""

import contextlib
import gc
import os

import numpy as np
import pytest
from gram_files import write

from ckncuda import GramRidge
from ckncuda.errors import InvalidData
from ckncuda.exact.on_disk.chunks import Chunks
from ckncuda.exact.on_disk.description import read_description
from ckncuda.exact.on_disk.reading import ZarrRows, open_gram


def test_rows_of_a_stored_matrix(path, matrix):
    gram = matrix @ matrix
    write(path, gram)
    rows, labels = open_gram(path), np.arange(10) % 2
    assert (rows.shape, rows.dtype, rows.ndim) == ((10, 10), np.float32, 2)
    np.testing.assert_array_equal(rows[3:9], gram[3:9])
    ridge, expected = (
        GramRidge(validation=0.5, regularization=1e-2).fit(kernels, labels) for kernels in (rows, gram)
    )
    np.testing.assert_array_equal(ridge.weights_, expected.weights_)


class Unreadable:
    def __init__(self, error):
        self.error = error

    def __getitem__(self, rows):
        raise self.error


def test_what_a_reader_says_of_a_disk_and_of_memory(tmp_path, matrix):
    damaged = r"K\.zarr is damaged; give the same ckn gram again, which mends it \(Input/output error\)"
    write(tmp_path / "K.zarr", matrix)
    description = read_description(tmp_path / "K.zarr")
    rest = description, Chunks(tmp_path / "K.zarr", description)
    with pytest.raises(InvalidData, match=damaged):
        ZarrRows("K.zarr", Unreadable(OSError(5, "Input/output error")), *rest)[:2]
    with pytest.raises(MemoryError):  # is no damage
        ZarrRows("K.zarr", Unreadable(MemoryError()), *rest)[:2]


def test_files_that_are_no_matrices(tmp_path):
    for folder in ("K.zarr.part", "mat.part"):
        (tmp_path / folder).mkdir()
    (tmp_path / "L.zarr").symlink_to(tmp_path / "mat")
    (tmp_path / "K.csv").write_text("1,2")
    (tmp_path / "K.npy").write_bytes(b"no array")
    arrays = {"a.npy": np.ones(3), "b.npy": np.ones((3, 3), int), "c.npy": np.array([["a"]])}
    for name, array in arrays.items():
        np.save(tmp_path / name, array)
    for name, words in [
        ("nowhere.npy", "there is no Gram matrix .*ckn gram"),
        ("K.zarr", "is not finished: give the same ckn gram again"),
        ("L.zarr", "is not finished: give the same ckn gram again"),
        ("K.csv", r"\.npy or \.zarr"),
        ("K.npy", "is no array in NumPy's format"),
        *((name, "holds no matrix of floating-point numbers") for name in arrays),
    ]:
        with pytest.raises(InvalidData, match=words):
            open_gram(tmp_path / name)


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_files_of_numpy_in_any_order(tmp_path, rng, dtype, order):
    gram = rng.normal(size=(7, 5)).astype(dtype, order=order)
    np.save(tmp_path / "K.npy", gram)
    rows = open_gram(tmp_path / "K.npy")
    assert (rows.shape, rows.dtype, rows.ndim) == ((7, 5), gram.dtype, 2)
    for part in (slice(7), slice(2, 5), slice(6, 7), slice(3, 3), slice(0, 7, 2), slice(-2, None)):
        np.testing.assert_array_equal(rows[part], gram[part])


def save_with(path, header, content=b""):
    length = len(header).to_bytes(2, "little")
    path.write_bytes(b"\x93NUMPY\x01\x00" + length + header + content)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 3), }",  # nothing behind it
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999, 999999999999), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 5000 + b", 1), }",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (3, 3), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 3), }",
        b"(" * 5000,
        b"{'descr': __import__('os').system('touch pwned'), 'fortran_order': False, 'shape': (3, 3), }",
        b"",
        b"\0" * 100,
    ],
    ids=range(9),
)
def test_headers_of_numpy_that_are_none(tmp_path, header):
    save_with(tmp_path / "K.npy", header)
    with pytest.raises(InvalidData, match=r"K\.npy (is truncated:|is no array|holds )"):
        open_gram(tmp_path / "K.npy")


@pytest.mark.parametrize("change", [-1, -30, 1, 500])
def test_files_that_are_shorter_or_longer_than_they_say(tmp_path, matrix, change):
    np.save(tmp_path / "K.npy", matrix)
    os.truncate(tmp_path / "K.npy", (tmp_path / "K.npy").stat().st_size + change)
    longer = f"holds more data than its header announces .{change} bytes.: it is damaged, or more than one"
    words = f"is truncated: its header announces 528 bytes, but {-change} bytes are missing"
    with pytest.raises(InvalidData, match=words if change < 0 else longer):
        open_gram(tmp_path / "K.npy")


@pytest.mark.parametrize("length", [0, 200, 400])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_that_shrinks_while_it_is_read(tmp_path, matrix, length, order):
    """Mapped into memory, it would end the process."""
    np.save(tmp_path / "K.npy", matrix.astype(matrix.dtype, order=order))
    rows = open_gram(tmp_path / "K.npy")
    os.truncate(tmp_path / "K.npy", length)
    with pytest.raises(InvalidData, match=r"K\.npy has become shorter while it was read: is it being"):
        rows[0:10]


def test_tiles_that_shrink_while_they_are_read(tmp_path, matrix):
    write(tmp_path / "K.zarr", matrix)
    rows = open_gram(tmp_path / "K.zarr")
    os.truncate(tmp_path / "K.zarr" / "c" / "1" / "0", 20)
    with pytest.raises(InvalidData, match=r"K\.zarr is damaged"):
        rows[0:10]


def test_a_tile_that_is_huge_is_not_read(tmp_path, matrix, peak_memory):
    write(tmp_path / "K.zarr", matrix)
    os.truncate(tmp_path / "K.zarr" / "c" / "0" / "0", 4 << 30)  # a hole
    with peak_memory() as peak, pytest.raises(InvalidData, match=r"K\.zarr is damaged"):
        open_gram(tmp_path / "K.zarr")[0:10]
    assert peak() < 10 << 20


@pytest.mark.parametrize("array", [np.eye(3), np.eye(3, dtype=int), np.ones(3)])
def test_no_file_is_left_open(tmp_path, array, recwarn):
    np.save(tmp_path / "K.npy", array)
    with contextlib.suppress(InvalidData):
        open_gram(tmp_path / "K.npy")[0:1]
    gc.collect()
    assert [str(warning.message) for warning in recwarn if warning.category is ResourceWarning] == []
