import bz2
import gzip
import lzma
import os
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckncuda.data import open_images, read_labels
from ckncuda.errors import InvalidData


@pytest.fixture
def csv(tmp_path):
    def write(text):
        (tmp_path / "Y.csv").write_bytes(text.encode())
        return tmp_path / "Y.csv"

    return write


@settings(max_examples=50, deadline=None)
@given(
    data=st.data(),
    labels=st.lists(st.integers(0, 2**40), min_size=1, max_size=30),
    first=st.sampled_from([0, 1]),
)
def test_ids_in_any_order(tmp_path_factory, data, labels, first):
    order = data.draw(st.permutations(range(len(labels))))
    path = tmp_path_factory.mktemp("labels") / "Y.csv"
    path.write_text("Id,Prediction\n" + "".join(f"{i + first},{labels[i]}\n" for i in order))
    read = read_labels(path, len(labels))
    assert (read.dtype, read.tolist()) == (np.int64, labels)


@pytest.mark.parametrize(
    "text",
    [
        "Id,Prediction\n1,4\n2,5\n",
        "Id,Prediction\r\n1,4\r\n2,5\r\n",
        "Id,Prediction\n1,4,\n2,5,",
        "\ufeffImageId,Label\n2 , 5\n 1, 4\n\n\n",
        '"Id","Prediction"\n1,4\n2,5\n',
        ",0\n0,4\n1,5\n".replace(",0\n", ",y\n", 1),
        "2,5\n1,4\n",
        '"1","4"\n"2","5"\n',
        '"Id","the ""label"", of all"\n1,"4"\n2,"5"\n',
        "Id,Prediction\n1,4.0\n2,5.\n",
        "Id,Prediction\n1.0,4.00\n2.0,5\n",
        "Id;Prediction\n1;4\n2;5\n",
        "Id\tPrediction\n1\t4\n2\t5\n",
        "Id,Prediction\r1,4\r2,5\r",
        "label\n4\n5\n",
        "4\n5\n",
        '"label"\n"4"\n"5.0"\n',
        "\ufeffy\n4,\n5,\n",
        "4.000000000000000000e+00\n5.000000000000000000e+00\n",  # numpy.savetxt
        "1.0e+00 4.0e+00\n2.0e+00 5.0e+00\n",
        "1 4\n2 5\n",
        "Id Prediction\n1 4\n2 5\n",
        ",0\n0,4\n1,5\n",  # a series of pandas
        '"","x"\n"1",4\n"2",5\n',  # R
        "# Id,Prediction\n1,4\n2,5\n",
    ],
)
def test_dialects(csv, text):
    assert read_labels(csv(text), 2).tolist() == [4, 5]


@pytest.mark.parametrize(
    ("rows", "n", "messages"),
    [
        ("1,0\n2,0\n2,1\n", 3, ["id 2 stands in lines 3 and 4"]),
        ("1,0\n3,0\n", 3, ["2 labels for 3 images", "no label for id 2"]),
        ("1,0\n2,0\n3,0\n", 2, ["3 labels for 2 images", "no image for id 3"]),
        ("2,0\n3,0\n4,0\n", 3, ["no label for id 1", "no image for id 4"]),
        ("0,0\n1,0\n3,0\n", 3, ["no label for id 2", "no image for id 3", "the ids 0 to 2"]),
        ("5,0\n", 20, ["1 labels for 20 images", "no label for id 1, 2, 3, 4, 6 and 14 more"]),
        ("", 2, ["0 labels for 2 images"]),
        (
            "1,0\n2,cat\n",
            2,
            ["line 3", "label 'cat' is not an integer", "number the classes"],
        ),
        ("1,0\n2,\n", 2, ["line 3", "has 1 values"]),
        ("1,0\n2,1.5\n", 2, ["line 3", "label '1.5' is not an integer"]),
        ("1,0\n2,1e-3\n", 2, ["line 3", "label '1e-3' is not an integer"]),
        ("1,0\n2,1e999\n", 2, ["line 3", "label '1e999' is not an integer"]),
        ("1,0\n2,1e30\n", 2, ["line 3", "label 1e30; expected 0 or greater, below 2**63"]),
        (f"{10**30},0\n1,0\n", 2, [f"no image for id {10**30}", "no label for id 2"]),
        (f"{'9' * 99999},0\n", 2, ["line 2", "is not an integer"]),
        ("a.png,0\nb.png,1\n", 2, ["line 2", "id 'a.png'", "the number of an image, from 1"]),
        ("1,\x1b[31m\n", 1, ["line 2", r"\x1b[31m"]),
        ("1,0\nb,1\n", 2, ["line 3", "id 'b' is not an integer"]),
        ("1,0\n2,-1\n", 2, ["line 3", "label -1; expected 0 or greater"]),
        (f"1,0\n2,{2**63}\n", 2, ["line 3", "expected 0 or greater, below"]),
        ("1,0\n2,1,7\n", 2, ["line 3", "has 3 values"]),
        ("1,0\n\n2,1\n", 2, ["line 3", "has 1 values"]),
    ],
)
def test_csv_refused(csv, rows, n, messages):
    path = csv("Id,Prediction\n" + rows)
    with pytest.raises(InvalidData) as caught:
        read_labels(path, n)
    assert all(message in str(caught.value) for message in [str(path), *messages]), str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3\n4\n5\n", "3 labels for 2 images, in one column"),
        ("label\n3\n", "1 labels for 2 images, in one column"),
        ("NA\n3\n4\n", "line 1: label 'NA' is not an integer"),
        ("3.5\n3\n4\n", "line 1: label '3.5' is not an integer"),
        ("nan\n3\n4\n", "line 1: label 'nan' is not an integer"),
        ("cat\ndog\n", "line 2: label 'dog' is not an integer; expected numbers: number the classes"),
        ("3\n4,5\n", "line 2: '4,5' has 2 values"),
        ("0\n4\n5\n", "in one column.*if line 1 is a header, remove it"),
        ("3,4,5\n", "one line of 3 values"),
        ("3 4 5\n", "one line of 3 values"),
        ("# labels\n1,4\n2,5\n", "line 1: '# labels' has 1 values"),
    ],
)
def test_one_column_refused(csv, text, message):
    with pytest.raises(InvalidData, match=message):
        read_labels(csv(text), 2)


PACKS = [gzip.compress, bz2.compress, lzma.compress]


@pytest.mark.parametrize("pack", PACKS)
def test_compressed_csv(tmp_path, pack):
    (tmp_path / "Y.csv").write_bytes(pack(b"Id,Prediction\n2,5\n1,4\n"))
    assert read_labels(tmp_path / "Y.csv", 2).tolist() == [4, 5]
    (tmp_path / "Y.csv").write_bytes(pack(b"Id,Prediction\n2,5\n1,4\n")[:-10])
    with pytest.raises(InvalidData, match="truncated or damaged"):
        read_labels(tmp_path / "Y.csv", 2)


UNITS = [b"\0", b"1", b"1,2\n", b"1\n", b'"']


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("pack", [bytes, *PACKS])
def test_bombs_are_refused_before_they_go_off(tmp_path, unit, pack):
    (tmp_path / "Y.csv").write_bytes(pack(unit * ((2 << 20) // len(unit))))
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(InvalidData, match="labels of 100 images take fewer"):
        read_labels(tmp_path / "Y.csv", 100)
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 2
    assert peak < 32 << 20


def test_many_more_labels_than_images_are_counted(csv):
    with pytest.raises(InvalidData, match="60000 labels for 10 images; give the labels of these images"):
        read_labels(csv("Id,Prediction\n" + "".join(f"{i},3\n" for i in range(1, 60001))), 10)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "Y.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(InvalidData, match=f"is a {kind}, not a file"):
        read_labels(path, 2)


@pytest.mark.parametrize("name", ["y.npy", "labels.npz", "y.npz", "only.npz", "idx", "idx.gz"])
def test_other_formats(tmp_path, name):
    labels = np.array([7, 0, 3], np.uint8)
    path = tmp_path / name
    idx = np.array([2049, 3], ">i4").tobytes() + labels.tobytes()
    if name == "y.npy":
        np.save(path, labels)
    elif name == "only.npz":
        np.savez(path, labels)
    elif name.endswith(".npz"):
        np.savez_compressed(path, other=labels * 2, **{path.stem: labels})
    else:
        path.write_bytes(gzip.compress(idx) if name.endswith(".gz") else idx)
    read = read_labels(path, 3)
    assert (read.dtype, read.tolist()) == (np.int64, [7, 0, 3])
    with pytest.raises(InvalidData, match="3 labels; expected 4"):
        read_labels(path, 4)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1], "expected whole numbers"),
        ([0, -1], "label -1 of image 2"),
        ([[0, 1], [1, 0]], "one axis"),
        ([[1, 2]], "expected one axis.*: give labels\\[0\\]"),
        (np.array([0, None]), r"pickled Python objects.*never loaded.*save numpy.array\(a.tolist\(\)\)"),
    ],
)
def test_arrays_refused(tmp_path, labels, message):
    np.save(tmp_path / "y.npy", labels)
    with pytest.raises(InvalidData, match=message):
        read_labels(tmp_path / "y.npy", 2)


def test_files_refused(tmp_path):
    np.savez(tmp_path / "y.npz", a=[1], b=[2])
    (tmp_path / "idx").write_bytes(np.array([2049, 3], ">i4").tobytes() + b"\0")
    for name, message in (
        ("y.npz", "the arrays a, b; expected one array labels or y"),
        ("idx", "truncated"),
        ("nowhere", "no such file"),
    ):
        with pytest.raises(InvalidData, match=message):
            read_labels(tmp_path / name, 1)


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(b"") * 60_000,
        b"\x1f\x8b\x08\x08" + bytes(6) + b"a" * (1 << 21) + b"\0",
        bz2.compress(b"") * 80_000,
        lzma.compress(b"") * 40_000,
    ],
    ids=["members of gzip", "a name in gzip", "streams of bzip2", "streams of xz"],
)
def test_packed_labels_of_which_nothing_comes_are_refused_at_once(tmp_path, content):
    (tmp_path / "Y.csv").write_bytes(content)
    start = time.process_time()
    with pytest.raises(
        InvalidData, match=r"Y\.csv has more than .* bytes, and labels of so many images take"
    ):
        read_labels(tmp_path / "Y.csv", 5)
    with pytest.raises(InvalidData, match=r"Y\.csv is compressed|Y\.csv has more than"):
        open_images(tmp_path / "Y.csv")
    assert time.process_time() - start < 0.2
