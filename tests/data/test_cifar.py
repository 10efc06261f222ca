import gc
import os
import pickle
import struct

import numpy as np
import pytest
from factories import Call

from ckncuda.data import open_images
from ckncuda.errors import InvalidData

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 32, 32, 3), np.uint8)
LABELS = RNG.integers(0, 10, 12)
ROWS = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)).reshape(12, 3072)


def binary(rows, *label_columns):
    labels = np.stack(label_columns, axis=1).astype(np.uint8)
    return np.concatenate([labels, rows], axis=1).tobytes()


def python3_pickle(rows, labels, protocol, key="labels", keys_as_bytes=True):
    batch = {"batch_label": b"training batch", key: [int(label) for label in labels], "data": rows}
    if keys_as_bytes:
        batch = {name.encode(): value for name, value in batch.items()}
    return pickle.dumps(batch, protocol=protocol)


def python2_pickle(rows, labels):
    """The opcodes that Python 2 and NumPy 1 wrote: 8-bit strings, and the old module names."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\0K\1\x87R(K\3" + text(b"|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    data = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
        b"(K\1" + b"J" + struct.pack("<i", len(rows)) + b"M\0\x0c\x86" + dtype + b"\x89"
        b"T" + struct.pack("<i", rows.nbytes) + rows.tobytes() + b"tb"
    )
    label_list = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\2}(" + text(b"data") + data + text(b"labels") + label_list + b"u."


def python2_text(rows, labels):
    """The instructions that Python 2 wrote where no protocol was asked for: all are lines of text."""

    def text(value):
        quoted = "".join(chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in value)
        return b"S'" + quoted.replace("\\x5c", "\\\\").replace("\\x27", "\\'").encode() + b"'\np0\n"

    dtype = (
        b"cnumpy\ndtype\np1\n("
        + text(b"u1")
        + b"I0\nI1\ntp2\nRp3\n(I3\n"
        + text(b"|")
        + b"NNNI-1\nI-1\nI0\ntb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\np4\n(cnumpy\nndarray\np5\n(I0\nt" + text(b"b") + b"tR"
    array += b"(I1\n(L%dL\nI3072\nt" % len(rows) + dtype + b"I00\n" + text(rows.tobytes()) + b"tb"
    labels = b"(lp6\n" + b"".join(b"I%d\na" % label for label in labels)
    return b"(dp7\n" + text(b"data") + array + b"s" + text(b"labels") + labels + b"s."


def with_labels(labels_of, protocol=2):
    """A batch whose labels are something else than a list of integers of Python."""
    return lambda rows, labels: pickle.dumps({b"data": rows, b"labels": labels_of(labels)}, protocol)


def read_only(rows):
    return np.frombuffer(rows.tobytes(), np.uint8).reshape(rows.shape)


ENCODINGS = {
    "python 2": python2_pickle,
    "python 2, text": python2_text,
    "protocol 0": lambda rows, labels: python3_pickle(rows, labels, 0),
    "protocol 1": lambda rows, labels: python3_pickle(rows, labels, 1),
    "protocol 3": lambda rows, labels: python3_pickle(rows, labels, 3),
    "protocol 2": lambda rows, labels: python3_pickle(rows, labels, 2),
    "protocol 4": lambda rows, labels: python3_pickle(rows, labels, 4),
    "protocol 5": lambda rows, labels: python3_pickle(rows, labels, 5),
    "read-only": lambda rows, labels: python3_pickle(read_only(rows), labels, 5),
    "keys of str": lambda rows, labels: python3_pickle(rows, labels, 4, keys_as_bytes=False),
    "numpy 1 names": lambda r, labels: python3_pickle(r, labels, 2).replace(b"numpy._core.", b"numpy.core."),
    "fortran": lambda rows, labels: python3_pickle(np.asfortranarray(rows), labels, 5),
    "fortran, protocol 2": lambda rows, labels: python3_pickle(np.asfortranarray(rows), labels, 2),
    **{f"NumPy's integers, protocol {p}": with_labels(list, p) for p in (0, 2, 3, 4, 5)},
    "labels of int64": with_labels(lambda labels: labels),
    "labels of int16, big-endian": with_labels(lambda labels: labels.astype(">i2"), 4),
    "labels of uint8": with_labels(lambda labels: labels.astype(np.uint8), 5),
    "labels of int32, sliced": with_labels(lambda labels: np.repeat(labels, 2).astype(np.int32)[::2], 5),
    "with more in it": lambda rows, labels: pickle.dumps(
        {
            "data": rows,
            "labels": list(map(int, labels)),
            "filenames": ["a.png"] * len(rows),
            "mean": 0.5,
            "of": (1,),
        }
        | {"note": "x" * 1000, "nothing": None, "true": True},
        4,
    ),
}


@pytest.fixture
def folder(tmp_path):
    """CIFAR-10's binary files, three of them for training; the number 10 sorts behind 2."""
    for name, part in [("1", slice(0, 3)), ("2", slice(3, 4)), ("10", slice(4, 8))]:
        (tmp_path / f"data_batch_{name}.bin").write_bytes(binary(ROWS[part], LABELS[part]))
    (tmp_path / "test_batch.bin").write_bytes(binary(ROWS[8:], LABELS[8:]))
    (tmp_path / "batches.meta.txt").write_text("airplane\n")
    return tmp_path


def test_binary_folder(folder):
    with open_images(folder, split="train") as source:
        assert (source.shape, source.dtype) == ((8, 32, 32, 3), np.uint8)
        assert source.labels.tolist() == LABELS[:8].tolist()
        np.testing.assert_array_equal(source.read(0, 8), IMAGES[:8])
        np.testing.assert_array_equal(source.read(2, 5), IMAGES[2:5])
        np.testing.assert_array_equal(np.concatenate(list(source.blocks(3))), IMAGES[:8])
    with open_images(folder, split="test") as source:
        np.testing.assert_array_equal(source.read(0, 4), IMAGES[8:])


def test_splits(folder):
    with pytest.raises(InvalidData, match="--split train or --split test"):
        open_images(folder)
    (folder / "test_batch.bin").unlink()
    assert len(open_images(folder)) == 8
    with pytest.raises(InvalidData, match="no test split"):
        open_images(folder, split="test")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_pickled_folder(tmp_path, encoding, recwarn):
    for number, part in [(1, slice(0, 5)), (2, slice(5, 12))]:
        (tmp_path / f"data_batch_{number}").write_bytes(ENCODINGS[encoding](ROWS[part], LABELS[part]))
    with open_images(tmp_path) as source:
        assert source.labels.tolist() == LABELS.tolist()
        np.testing.assert_array_equal(source.read(0, 12), IMAGES)
        np.testing.assert_array_equal(source.read(4, 6), IMAGES[4:6])
        np.testing.assert_array_equal(source.read(0, 2), IMAGES[:2])
    assert not recwarn.list


@pytest.mark.parametrize("name", ["data_batch_1", "batch.pkl"])
def test_one_pickled_file(tmp_path, name):
    (tmp_path / name).write_bytes(python3_pickle(ROWS, LABELS, 2))
    np.testing.assert_array_equal(open_images(tmp_path / name, split="test").read(0, 12), IMAGES)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("data_batch_1.bin", [LABELS]),
        ("other.bin", [LABELS]),
        ("train.bin", [LABELS, LABELS + 80]),  # of CIFAR-100, whose fine labels count
        ("other.bin", [LABELS, LABELS + 80]),
    ],
)
def test_one_binary_file(tmp_path, name, columns):
    (tmp_path / name).write_bytes(binary(ROWS, *columns))
    source = open_images(tmp_path / name)
    np.testing.assert_array_equal(source.read(0, 12), IMAGES)
    assert source.labels.tolist() == columns[-1].tolist()


def test_cifar_100_folder(tmp_path):
    fine = LABELS + 80
    (tmp_path / "train").write_bytes(python3_pickle(ROWS, fine, 2, key="fine_labels"))
    (tmp_path / "test").write_bytes(python3_pickle(ROWS[:2], fine[:2], 2, key="fine_labels"))
    assert open_images(tmp_path, split="train").labels.tolist() == fine.tolist()
    assert len(open_images(tmp_path, split="test")) == 2


def test_a_binary_batch_that_begins_like_idx(tmp_path):
    rows = ROWS.copy()
    rows[0, :3] = 0, 8, 3
    (tmp_path / "other.bin").write_bytes(binary(rows, np.zeros(12, int)))
    assert open_images(tmp_path / "other.bin").shape == (12, 32, 32, 3)


@pytest.mark.parametrize("change", [-1, 1, -3073 * 12])
def test_truncated_binary(folder, change):
    content = (folder / "data_batch_1.bin").read_bytes() * 4
    (folder / "data_batch_1.bin").write_bytes((content + b"\0")[: len(content) + change])
    with pytest.raises(InvalidData, match=r"data_batch_1\.bin is truncated.*multiple of 3073"):
        open_images(folder, split="train")


def test_binary_labels_out_of_range(tmp_path):
    labels = LABELS.copy()
    labels[5] = 11
    (tmp_path / "data_batch_1.bin").write_bytes(binary(ROWS, labels))
    with pytest.raises(InvalidData, match="label 11 of image 6; CIFAR-10's are 0 to 9"):
        open_images(tmp_path)


@pytest.mark.parametrize("keep", [0.01, 0.5, 0.999])
def test_truncated_pickle(tmp_path, keep):
    content = python3_pickle(ROWS, LABELS, 4)
    (tmp_path / "data_batch_1").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InvalidData, match=r"data_batch_1 is (truncated|damaged)"):
        open_images(tmp_path)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (b"<html>not found</html>", "truncated or damaged, or no pickled CIFAR batch"),
        (pickle.dumps({"data": ROWS, "labels": [0] * 12}) + b"\0", "more follows behind its end"),
        ({"data": ROWS, "labels": [0.5] * 12}, "label a float of image 1; expected a whole number"),
        ({"data": ROWS, "labels": [2**40] * 12}, "label 1099511627776 of image 1"),
        (b"cos\nsystem\n(S'true'\ntR.", "which no CIFAR batch needs"),
        (b"cnumpy\nload\n(S'x'\ntR.", "which no CIFAR batch needs"),
        (b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.", "which no CIFAR batch needs"),
        (b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__reduce__\x93.", "which no CIFAR batch needs"),
        (b"c_codecs\nencode\n(Vabc\nVrot13\ntR.", "rot13"),
        ([1, 2], "no CIFAR batch; expected a dictionary"),
        ({"data": ROWS}, "no CIFAR batch; expected a dictionary"),
        ({"data": [1], "labels": [1]}, "no CIFAR batch; expected a dictionary"),
        ({"data": ROWS[:, :100], "labels": [0] * 12}, r"shape \(12, 100\).*expected uint8 \[n, 3072\]"),
        ({"data": ROWS.astype(int), "labels": list(range(12))}, "int64; expected uint8"),
        ({"data": ROWS, "labels": [1, 2]}, "2 labels; expected 12"),
        ({"data": ROWS, "labels": [10] * 12}, "label 10 of image 1"),
        ({"data": ROWS, "fine_labels": [100] * 12}, "CIFAR-100's are 0 to 99"),
    ],
)
def test_files_that_hold_no_batch(tmp_path, batch, message):
    content = batch if isinstance(batch, bytes) else pickle.dumps(batch, 2)
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(InvalidData, match=message):
        open_images(tmp_path)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, protocol):
    mark = tmp_path / "exploded"
    content = pickle.dumps({"data": ROWS, "labels": Call(os.mkdir, str(mark))}, protocol)
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(InvalidData, match=r"asks for (posix|nt)\.mkdir.*refused"):
        open_images(tmp_path)
    assert not mark.exists()
    pickle.loads(content)
    assert mark.exists()  # it would have run


def test_folders_of_several_kinds_and_of_none(folder):
    (folder / "data_batch_1").write_bytes(python3_pickle(ROWS, LABELS, 2))
    with pytest.raises(InvalidData, match="more than one kind"):
        open_images(folder, split="train")
    (folder / "empty").mkdir()
    with pytest.raises(InvalidData, match="no CIFAR batches"):
        open_images(folder / "empty", format="cifar")


@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_1.bin"])
def test_a_batch_that_shrinks_while_it_is_read(tmp_path, name):
    content = binary(ROWS, LABELS) if name.endswith(".bin") else python3_pickle(ROWS, LABELS, 5)
    (tmp_path / name).write_bytes(content)
    with open_images(tmp_path) as source:
        source.read(0, 2)
        os.truncate(tmp_path / name, 20_000)
        with pytest.raises(InvalidData, match="has become shorter while it was read"):
            source.read(4, 12)


def test_a_pickled_batch_is_streamed(tmp_path, peak_memory):
    rows = RNG.integers(0, 256, (4000, 3072), np.uint8)  # 12 MB
    (tmp_path / "data_batch_1").write_bytes(python3_pickle(rows, np.zeros(4000, int), 5))
    with peak_memory() as peak, open_images(tmp_path) as source:
        for number, block in enumerate(source.blocks(50)):
            assert block[0, 0, 0, 0] == rows[50 * number, 0]
    assert peak() < rows.nbytes / 3


@pytest.mark.parametrize("content", [b"\xff" * 3073, b"\xff" * 100, b""], ids=["label", "cut", "empty"])
def test_no_refused_file_is_left_open(tmp_path, content, recwarn):
    (tmp_path / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(InvalidData, match=r"data_batch_1\.bin"):
        open_images(tmp_path / "data_batch_1.bin", format="cifar")
    gc.collect()
    assert [str(warning.message) for warning in recwarn if warning.category is ResourceWarning] == []
