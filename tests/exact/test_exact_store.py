"""Gram matrices on disk: resumed, verified, and never half of one under its name."""

import dataclasses
import os
import shutil
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr

from ckncuda import Exponential, LayerSpec
from ckncuda.backend import get_backend
from ckncuda.errors import InvalidData, NotInstalled
from ckncuda.exact import ExactKernel, gram
from ckncuda.exact.job import GramJob, seconds_a_pair
from ckncuda.exact.on_disk import folder as gram_folder
from ckncuda.exact.on_disk.folder import check_gram_path
from ckncuda.exact.on_disk.writing import GramStore
from ckncuda.exact.tiles import Tiling
from ckncuda.images.preprocess import ZCA
from ckncuda.images.preprocessed import PreprocessedImages, fit_preprocessing
from ckncuda.images.sources import ArrayImages

IDENTITY = {
    "images": "a",
    "images2": None,
    "preprocessing": [],
    "kernel": {"tangent": False},
    "shape": [10, 10],
    "dtype": "float32",
    "tile": 4,
    "backend": "numpy",
}
SQUARE = Tiling(10, tile=4)
KERNEL = ExactKernel([LayerSpec(filters=1, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))])


@pytest.fixture
def matrix(rng):
    one = rng.normal(size=(10, 10)).astype(np.float32)
    return one + one.T


def cut(matrix, tiles):
    """What computes these tiles, if the matrix is known."""
    return ((tile, matrix[tile.rows, tile.columns]) for tile in tiles)


def write(path, matrix, *, tiles=None, identity=IDENTITY):
    """Compute so many of the tiles that are missing, all by default; says which were missing."""
    with GramStore(path, SQUARE, identity) as opened:
        left = opened.unfinished()
        opened.fill(cut(matrix, left[:tiles]))
        if tiles is None:
            opened.finish()
    return left


def read(path):
    return zarr.open_array(str(path), mode="r")[:] if path.suffix == ".zarr" else np.load(path)


@pytest.fixture(params=["K.zarr", "K.npy"])
def path(request, tmp_path):
    return tmp_path / request.param


def test_what_was_begun_is_gone_on_with(path, matrix, tmp_path):
    assert len(write(path, matrix, tiles=2)) == 6
    assert os.listdir(tmp_path) == [path.name + ".part"]
    assert len(write(path, matrix, tiles=1)) == 4
    assert len(write(path, matrix)) == 3
    assert os.listdir(tmp_path) == [path.name]
    stored = read(path)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, matrix)


def test_matrix_of_images_with_others(path, rng):
    tiling = Tiling(5, 9, 4)
    expected = rng.normal(size=(5, 9))
    with GramStore(path, tiling, IDENTITY | {"dtype": "float64"}) as opened:
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
def test_a_damaged_tile_is_found_and_recomputed(path, matrix, damage, place):
    write(path, matrix, tiles=6)  # all, but not yet under its name
    DAMAGES[damage](path.with_name(path.name + ".part") / "c" / place)
    (left,) = write(path, matrix)
    assert left.rows.start == 0
    assert left.columns.start == 4 * max(int(place[0]), int(place[-1]))
    np.testing.assert_array_equal(read(path), matrix)


def test_a_finished_matrix_is_verified_and_mended(tmp_path, matrix, listing_of):
    path = tmp_path / "K.zarr"
    write(path, matrix)
    whole = listing_of(path)
    assert write(path, matrix) == []
    assert listing_of(path) == whole
    flipped(path / "c/1/2")
    assert len(write(path, matrix)) == 1
    assert listing_of(tmp_path) == {f"K.zarr/{name}": content for name, content in whole.items()}


@pytest.fixture
def listing_of():
    def listing(folder):
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return listing


def test_another_finished_matrix_stands_until_the_new_one_is_there(path, matrix, tmp_path):
    write(path, matrix)
    write(path, -matrix, tiles=3, identity=IDENTITY | {"images": "b"})
    np.testing.assert_array_equal(read(path), matrix)
    write(path, -matrix, identity=IDENTITY | {"images": "b"})
    np.testing.assert_array_equal(read(path), -matrix)
    assert os.listdir(tmp_path) == [path.name]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path, matrix):
    path = tmp_path / "K.zarr"
    write(path, matrix)
    path.rename(tmp_path / ".K.zarr.replaced")  # as far as the kill let it come
    other = IDENTITY | {"images": "b"}
    write(path, -matrix, tiles=6, identity=other)
    assert write(path, -matrix, identity=other) == []
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


def test_what_a_killed_process_left_is_removed(tmp_path, matrix):
    path = tmp_path / "K.npy"
    write(path, matrix, tiles=3)
    half_written = tmp_path / "K.npy.part/c/0/0.f00.partial", tmp_path / ".K.npy.abc.part"
    for file in half_written:
        file.write_bytes(b"half")
    write(path, matrix, tiles=1)
    assert not any(file.exists() for file in half_written)
    empty = tmp_path / "L.npy.part"
    empty.mkdir()
    write(tmp_path / "L.npy", matrix)
    assert not empty.exists()


def test_places_where_no_matrix_can_be_written(tmp_path, matrix):
    folder = tmp_path / "photos.zarr"
    folder.mkdir()
    (folder / "cat.jpg").touch()
    (tmp_path / "K.zarr.part").mkdir()
    (tmp_path / "K.zarr.part" / "cat.jpg").touch()
    (tmp_path / "L.zarr.part").touch()
    (tmp_path / "d.npy").mkdir()
    for name, words in [
        ("K.txt", "ending in .zarr or .npy"),
        ("photos.zarr", "no Gram matrix of ckn gram"),
        ("nowhere/K.zarr", "No such file or directory"),
        ("d.npy", "it is a folder"),
        ("K.zarr", "holds cat.jpg"),
        ("L.zarr", "L.zarr.part, where the matrix grows .* is no folder: move it elsewhere"),
    ]:
        with pytest.raises(InvalidData, match=words):
            write(tmp_path / name, matrix)
    assert (folder / "cat.jpg").exists()
    assert sorted(os.listdir(tmp_path)) == ["K.zarr.part", "L.zarr.part", "d.npy", "photos.zarr"]
    assert os.listdir(tmp_path / "K.zarr.part") == ["cat.jpg"]
    with pytest.raises(InvalidData, match="no Gram matrix"):
        check_gram_path(folder)


def test_a_description_that_is_damaged(path, matrix):
    write(path, matrix, tiles=1)
    part = path.with_name(path.name + ".part")
    whole = (part / "zarr.json").read_text()
    for damaged in (
        whole[:9],
        "[]",
        whole.replace("crc32c", "crc33c"),
        whole.replace("chunk_grid", "chunk_grit"),
    ):
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
    write(link, -matrix, identity=IDENTITY | {"images": "b"})
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
    identity = IDENTITY | {"images": "b"}
    with GramStore(path, SQUARE, identity) as opened:
        opened.fill(cut(-matrix, opened.unfinished()))
        other.parent.mkdir(exist_ok=True)
        other.write_text("precious")
        with pytest.raises(InvalidData, match=r"K\.zarr"):
            opened.finish()
    assert other.read_text() == "precious"
    other.rename(tmp_path / "cat.jpg")
    assert write(path, -matrix, identity=identity) == []
    np.testing.assert_array_equal(read(path), -matrix)


def test_a_finished_matrix_with_something_else_in_it_is_not_replaced(tmp_path, matrix):
    write(tmp_path / "K.zarr", matrix)
    (tmp_path / "K.zarr" / "notes.txt").touch()
    with pytest.raises(InvalidData, match=r"cannot write .*K\.zarr: it holds notes.txt"):
        check_gram_path(tmp_path / "K.zarr")


def test_a_rename_that_the_disk_refuses_leaves_the_finished_matrix(tmp_path, matrix, monkeypatch):
    path, rename = tmp_path / "K.zarr", Path.rename

    def refuse(self, target):
        if self.name == "K.zarr.part":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    write(path, matrix)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(InvalidData, match=r"No space left on device; its finished tiles are kept"):
        write(path, -matrix, identity=IDENTITY | {"images": "b"})
    np.testing.assert_array_equal(read(path), matrix)
    assert sorted(os.listdir(tmp_path)) == ["K.zarr", "K.zarr.part"]


def test_half_of_a_description_is_no_obstacle(path, matrix, tmp_path):
    part = path.with_name(path.name + ".part")
    part.mkdir()
    (part / "zarr.abc.partial").touch()
    write(path, matrix)
    np.testing.assert_array_equal(read(path), matrix)
    assert os.listdir(tmp_path) == [path.name]


def test_files_of_others_that_end_like_ours_stay(tmp_path, matrix):
    part = tmp_path / "K.zarr.part"
    part.mkdir()
    (part / "movie.partial").touch()
    with pytest.raises(InvalidData, match="holds movie.partial"):
        write(tmp_path / "K.zarr", matrix)
    assert os.listdir(part) == ["movie.partial"]


def test_tiles_that_do_not_say_of_which_matrix_they_are_not_taken(path, matrix):
    write(path, matrix, tiles=2)
    (path.with_name(path.name + ".part") / "zarr.json").unlink()
    with pytest.raises(InvalidData, match="no folder of ckn gram, since it holds c;"):
        write(path, -matrix, identity=IDENTITY | {"images": "b"})


def test_a_kill_while_a_folder_is_removed_leaves_what_is_known_as_ours(path, matrix, monkeypatch):
    write(path, matrix, tiles=6)
    part, unlink = path.with_name(path.name + ".part"), Path.unlink

    def kill(self, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", kill)
    with pytest.raises(KeyboardInterrupt):
        gram_folder.remove(part)
    monkeypatch.setattr(Path, "unlink", unlink)
    assert (part / "zarr.json").exists()
    assert not (part / "c").exists()
    assert len(write(path, matrix)) == 6


def test_a_folder_in_the_place_of_a_tile(path, matrix):
    write(path, matrix, tiles=5)
    chunk = path.with_name(path.name + ".part") / "c" / "1" / "0"
    chunk.unlink()
    chunk.mkdir()
    (chunk / "cat.jpg").touch()
    with pytest.raises(InvalidData, match="c/1/0 is in the way of a tile: delete it, then give the same"):
        write(path, matrix)
    (chunk / "cat.jpg").unlink()
    assert len(write(path, matrix)) == 2
    np.testing.assert_array_equal(read(path), matrix)


def test_a_file_in_the_place_of_a_row_of_tiles(path, matrix):
    write(path, matrix, tiles=5)
    row = path.with_name(path.name + ".part") / "c" / "2"
    shutil.rmtree(row)
    row.touch()
    with pytest.raises(InvalidData, match="c/2 is in the way of a tile: delete it, then give the same"):
        write(path, matrix)
    row.unlink()
    write(path, matrix)


def test_numbers_that_are_not_finite_are_refused(path, matrix):
    matrix[5, 9] = np.inf
    with pytest.raises(InvalidData, match="image 6 and image 10 is inf.*scale or preprocess"):
        write(path, matrix)


def test_nothing_is_left_of_a_matrix_without_a_tile(path, matrix, tmp_path):
    with pytest.raises(InvalidData, match="image 1 and image 1 is inf"):
        write(path, matrix * np.inf)
    assert os.listdir(tmp_path) == []


def test_a_matrix_that_was_killed_before_its_first_tile_is_not_gone_on_with(path, matrix):
    write(path, matrix, tiles=1)
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part / "c")
    (part / "c" / "0").mkdir(parents=True)
    (part / "c" / "0" / "0.abc.partial").touch()
    write(path, -matrix, identity=IDENTITY | {"images": "b"})
    np.testing.assert_array_equal(read(path), -matrix)


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
        with pytest.raises(InvalidData, match=r"GiB more, but .* GiB are free there: make room"):
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
    with pytest.raises(NotInstalled, match=r"pip install 'ckncuda\[exact\]'"):
        write(path, matrix)


def test_memory_is_that_of_a_row_of_tiles(path):
    tiling = Tiling(2048, tile=128)  # 34 MB in all
    block = np.ones((128, 128))
    tracemalloc.start()
    try:
        with GramStore(path, tiling, IDENTITY | {"dtype": "float64"}) as opened:
            opened.fill((tile, block) for tile in opened.unfinished())
            opened.finish()
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


@pytest.fixture
def images(rng):
    return ArrayImages(rng.normal(size=(9, 6, 6, 2)).astype(np.float32))


@pytest.mark.parametrize("rectangular", [False, True])
def test_a_job_gives_the_matrix_of_memory(images, rng, rectangular):
    backend = get_backend("numpy", threads=1)
    others = ArrayImages(rng.normal(size=(5, 6, 6, 2)).astype(np.float32)) if rectangular else None
    job = GramJob(KERNEL, images, others, dtype="float64", tile=4)
    expected = gram(images, KERNEL, others, dtype=np.float64, tile=4, backend=backend)
    for tile, block in job.blocks(job.tiling, backend):
        np.testing.assert_array_equal(block, expected[tile.rows, tile.columns])
    assert 0 < seconds_a_pair(job, next(iter(job.tiling)), backend) < 1


def test_identity_tells_matrices_apart(images):
    one = GramJob(KERNEL, images).identity("numpy")
    changed = images.array.copy()
    changed[3, 2, 1, 0] += 1
    others = [
        GramJob(KERNEL, ArrayImages(changed)),
        GramJob(KERNEL, images, images),
        GramJob(KERNEL, images, tile=3),
        GramJob(KERNEL, images, dtype="float64"),
        GramJob(ExactKernel(KERNEL.layers, flip=True), images),
        GramJob(KERNEL, images, preprocessing=fit_preprocessing(images, [ZCA()])),
    ]
    assert one == GramJob(KERNEL, ArrayImages(images.array.copy())).identity("numpy")
    filters = ExactKernel([dataclasses.replace(KERNEL.layers[0], filters=64, epsilon=0.5)])
    assert one == GramJob(filters, images).identity("numpy")
    assert len({str(job.identity("numpy")) for job in others} | {str(one)}) == 7


def test_preprocessing_is_learned_from_the_first_images_alone(images, rng):
    others = ArrayImages(rng.normal(size=(3, 6, 6, 2)).astype(np.float32))
    steps = fit_preprocessing(images, [ZCA(epsilon=0.5)])
    job = GramJob(KERNEL, images, others, steps)
    tile = next(iter(job.tiling))
    maps, other_maps = job.read(tile)
    np.testing.assert_array_equal(maps, PreprocessedImages(images, steps).read(0, 9))
    np.testing.assert_allclose(other_maps, steps[0].apply(others.array), rtol=1e-5, atol=1e-6)
