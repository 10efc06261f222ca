"""Gram matrices that are there already, as they are read."""

import numpy as np
import pytest
from gram_files import write

from ckncuda import GramRidge
from ckncuda.errors import InvalidData
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
    shape, dtype = (3, 3), "float32"

    def __init__(self, error):
        self.error = error

    def __getitem__(self, rows):
        raise self.error


def test_what_a_reader_says_of_a_disk_and_of_memory():
    damaged = r"K\.zarr is damaged; give the same ckn gram again, which mends it \(Input/output error\)"
    with pytest.raises(InvalidData, match=damaged):
        ZarrRows("K.zarr", Unreadable(OSError(5, "Input/output error")))[:2]
    with pytest.raises(MemoryError):  # is no damage
        ZarrRows("K.zarr", Unreadable(MemoryError()))[:2]


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
        ("K.npy", "cannot be read as a matrix"),
        *((name, "holds no matrix of floating-point numbers") for name in arrays),
    ]:
        with pytest.raises(InvalidData, match=words):
            open_gram(tmp_path / name)
