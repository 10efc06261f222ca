"""A folder whose description was changed in any byte is refused; tiles out of place are computed anew."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from gram_files import IDENTITY, OTHER, read, write

from ckncuda.errors import InvalidData
from ckncuda.exact.on_disk.description import Description, read_description
from ckncuda.exact.on_disk.reading import open_gram


@pytest.fixture
def written(tmp_path, matrix):
    write(tmp_path / "K.zarr", matrix)
    return tmp_path / "K.zarr"


def test_what_is_written_is_read(tmp_path):
    description = Description(IDENTITY)
    (tmp_path / "zarr.json").write_bytes(description.to_bytes())
    assert read_description(tmp_path) == description
    assert (description.shape, description.chunk_shape, description.chunk_bytes) == ((10, 10), (4, 4), 64)


@pytest.mark.parametrize("change", ["flipped", "replaced by a digit", "removed", "doubled"])
def test_every_byte_counts(tmp_path, change):
    whole = Description(IDENTITY).to_bytes()
    changes = {
        "flipped": lambda byte: bytes([byte[0] ^ 1]),
        "replaced by a digit": lambda byte: b"7",
        "removed": lambda byte: b"",
        "doubled": lambda byte: byte * 2,
    }
    for place in range(0, len(whole), 1 if change == "flipped" else 5):
        changed = changes[change](whole[place : place + 1])
        content = whole[:place] + changed + whole[place + 1 :]
        (tmp_path / "zarr.json").write_bytes(content)
        if content != whole:
            with pytest.raises(InvalidData, match="is damaged, or not of ckn gram"):
                read_description(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 100, 0.5, -1])
def test_a_description_that_is_cut(written, matrix, length):
    whole = (written / "zarr.json").read_bytes()
    cut = whole[: int(len(whole) * length) if isinstance(length, float) else length]
    (written / "zarr.json").write_bytes(cut)
    refused(written, matrix)


def refused(path, matrix):
    """Reading and writing a matrix are refused; what stands there stays."""
    with pytest.raises(InvalidData, match=r"zarr\.json is damaged, or not of ckn gram; compute it again"):
        open_gram(path)
    with pytest.raises(InvalidData, match="no Gram matrix of ckn gram, or one whose zarr.json is damaged"):
        write(path, matrix)


def deep(levels):
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    "content",
    [
        deep(100_000),
        deep(5_000_000),
        b'{"attributes": {"ckncuda_gram": ' + b"9" * 6000 + b"}}",
        b'{"attributes": {"ckncuda_gram": {"shape": [1e400, 2], "tile": 4, "dtype": "float32"}}}',
        b'{"attributes": {"ckncuda_gram": {"shape": [NaN, 2], "tile": 4, "dtype": "float32"}}}',
        b'{"attributes": {"ckncuda_gram": {"shape": [true, 2], "tile": 4, "dtype": "float32"}}}',
        b'{"attributes": {"ckncuda_gram": {"shape": [2, 2], "tile": 4, "dtype": ["float32"]}}}',
        b'{"attributes": {"ckncuda_gram": [], "ckncuda_sha256": ""}}',
        b"\xff\xfe",
        b"null",
    ],
    ids=range(10),
)
def test_what_is_no_description(written, matrix, content):
    (written / "zarr.json").write_bytes(content)
    with pytest.raises(InvalidData):
        open_gram(written)
    with pytest.raises(InvalidData):
        write(written, matrix)


def of_the_first_version(path, change=lambda described: None):
    """Make a folder one of the first ckncuda, which has no checksums; change its description."""
    described = json.loads((path / "zarr.json").read_bytes())
    del described["attributes"]["ckncuda_sha256"]
    change(described)
    (path / "zarr.json").write_text(json.dumps(described))
    (path / "checksums").unlink()


def test_folders_of_the_first_version_are_read_and_gone_on_with(tmp_path, matrix):
    path = tmp_path / "K.zarr"
    write(path, matrix, tiles=3)
    of_the_first_version(tmp_path / "K.zarr.part")
    assert len(write(path, matrix)) == 3
    np.testing.assert_array_equal(open_gram(path)[2:9], matrix[2:9])
    assert write(path, matrix) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["codecs"][0]["configuration"].update(endian="big"),
        lambda d: d.update(shape=[10, 8]),
        lambda d: d.update(shape=[10, 12]),
        lambda d: d.update(data_type="int32"),
        lambda d: d.update(data_type="float64"),
        lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[8, 2]),
        lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[10, 10]),
        lambda d: d.update(fill_value=0.0),
        lambda d: d["codecs"].pop(),
        lambda d: d["codecs"].append({"name": "gzip", "configuration": {"level": 9}}),
        lambda d: d["chunk_key_encoding"]["configuration"].update(separator="."),
        lambda d: d["attributes"].update(more=1),
        lambda d: d.update(storage_transformers=[{"name": "x"}]),
        lambda d: d["codecs"].insert(0, {"name": "transpose", "configuration": {"order": [1, 0]}}),
        lambda d: d.update(node_type="group"),
    ],
)
@pytest.mark.parametrize("first_version", [True, False])
def test_a_description_that_does_not_follow_from_the_matrix(written, matrix, change, first_version):
    """Tiles agree with their checksums whatever Zarr is told of them."""
    if first_version:
        of_the_first_version(written, change)
    else:
        described = json.loads((written / "zarr.json").read_bytes())
        change(described)
        (written / "zarr.json").write_text(json.dumps(described, indent=2))
    refused(written, matrix)


@pytest.mark.parametrize("name", ["images", "kernel", "preprocessing", "dtype", "shape", "tile", "format"])
def test_an_identity_that_was_changed(written, matrix, name):
    """It would be taken for another matrix's, and read as one."""
    values = {"shape": [10, 9], "dtype": "float64", "tile": 5}
    described = json.loads((written / "zarr.json").read_bytes())
    described["attributes"]["ckncuda_gram"][name] = values.get(name, "other")
    (written / "zarr.json").write_text(json.dumps(described, indent=2))
    refused(written, matrix)


def exchange(one, other):
    one.rename(one.parent / "between")
    other.rename(one)
    (one.parent / "between").rename(other)


@pytest.mark.parametrize(("one", "other"), [("0/1", "1/0"), ("0/0", "1/1"), ("0/1", "1/2"), ("2/0", "0/2")])
@pytest.mark.parametrize("finished", [True, False])
def test_tiles_that_change_places(tmp_path, matrix, one, other, finished):
    path = tmp_path / "K.zarr"
    write(path, matrix, tiles=None if finished else 6)
    folder = path if finished else tmp_path / "K.zarr.part"
    exchange(folder / "c" / one, folder / "c" / other)
    if finished:
        with pytest.raises(InvalidData, match="is damaged; give the same ckn gram again, which mends it"):
            open_gram(path)[0:10]
    assert 1 <= len(write(path, matrix)) <= 2
    np.testing.assert_array_equal(read(path), matrix)


def test_a_tile_of_another_matrix(tmp_path, matrix):
    path, other = tmp_path / "K.zarr", tmp_path / "L.zarr"
    write(path, matrix)
    write(other, -matrix, identity=OTHER)
    shutil.copy(other / "c/1/1", path / "c/1/1")
    with pytest.raises(InvalidData, match="is damaged"):
        open_gram(path)[5:6]
    np.testing.assert_array_equal(open_gram(path)[0:4], matrix[0:4])
    assert len(write(path, matrix)) == 1
    np.testing.assert_array_equal(open_gram(path)[0:10], matrix)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[: 5 * 13 - 3]),  # half a line at the end
        lambda path: path.write_bytes(path.read_bytes().replace(b"0/0", b"0/9")),
        lambda path: path.write_bytes(b"\xff" * 1000),
    ],
    ids=["removed", "emptied", "cut", "another place", "noise"],
)
def test_checksums_that_are_damaged(tmp_path, matrix, damage, listing):
    path = tmp_path / "K.zarr"
    write(path, matrix)
    whole = listing(path)
    damage(path / "checksums")
    with pytest.raises(InvalidData, match="is damaged"):
        open_gram(path)[0:10]
    assert len(write(path, matrix)) >= 1
    np.testing.assert_array_equal(open_gram(path)[0:10], matrix)
    assert listing(path) == whole


def test_a_kill_between_a_tile_and_its_checksum(tmp_path, matrix):
    path = tmp_path / "K.zarr"
    write(path, matrix, tiles=3)
    checksums = tmp_path / "K.zarr.part" / "checksums"
    os.truncate(checksums, checksums.stat().st_size - 5)
    assert len(write(path, matrix)) == 4
    np.testing.assert_array_equal(open_gram(path)[0:10], matrix)


def test_the_checksum_is_of_the_identity():
    described = json.loads(Description(IDENTITY).to_bytes())
    plain = json.dumps(IDENTITY, sort_keys=True).encode()
    assert described["attributes"]["ckncuda_sha256"] == hashlib.sha256(plain).hexdigest()
