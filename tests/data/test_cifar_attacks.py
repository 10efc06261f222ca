"""Pickles that would do harm: none of their instructions is run, and NumPy is afterwards what it was."""

import os
import pickle
import pickletools
import struct
import time

import numpy as np
import pytest
from factories import Call

from ckncuda.data import open_images
from ckncuda.errors import InvalidData

ROWS = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
BYTES = b"T" + struct.pack("<i", ROWS.nbytes) + ROWS.tobytes()
HARMLESS = b"\x80\2}(U\6labels](K\0K\1K\2eU\4data"  # a batch up to its images
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
UINT8 = b"cnumpy\ndtype\n(U\2u1K\0K\1tR(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"


def text(value):
    return b"U" + bytes([len(value)]) + value


def integer(value):
    return b"J" + struct.pack("<i", value)


def array(shape=b"K\3M\0\x0c\x86", kind=UINT8, fortran=b"\x89", data=BYTES):
    """Instructions of an array; by default the images of three."""
    return RECONSTRUCT + b"(K\1" + shape + kind + fortran + data + b"tb"


def batch(images):
    return HARMLESS + images + b"u."


def dtype_with(state):
    return b"cnumpy\ndtype\n(U\2u1K\0K\1tR" + state + b"b"


STATE = b"(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0t"
DEEP = b")" + b"\x85" * 200_000
ATTACKS = {
    # Calls.
    "REDUCE of os.system": batch(b"cos\nsystem\n(S'exit 1'\ntR"),
    "REDUCE of builtins.exec": batch(b"cbuiltins\nexec\n(S'raise SystemExit'\ntR"),
    "STACK_GLOBAL": b"\x80\4\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "STACK_GLOBAL of a path": b"\x80\4\x8c\x05numpy\x8c\x12ndarray.__reduce__\x93.",
    "names that are no text": b"\x80\4K\1K\2\x93.",
    "INST": b"\x80\2(S'true'\nios\nsystem\n.",
    "OBJ": b"\x80\2(cos\nsystem\nS'true'\no.",
    "NEWOBJ": b"\x80\2cnumpy\nndarray\nK\1\x85\x85\x81.",
    "NEWOBJ_EX": b"\x80\4cnumpy\nndarray\n)}\x92.",
    "EXT1": b"\x80\2\x82\1.",
    "EXT4": b"\x80\2\x84\1\0\0\0.",
    "PERSID": b"Pfile\n.",
    "BINPERSID": b"\x80\2K\1Q.",
    "NEXT_BUFFER": b"\x80\5\x97.",
    "functions of the reader's": batch(b"cckncuda.data.cifar_pickle\nread_bytes\n)R"),
    "numpy.load": batch(b"cnumpy\nload\n(S'x'\ntR"),
    "a name called as another": batch(b"cnumpy\nndarray\n(K\1tR"),
    "a list called": batch(b"]K\1\x85R"),
    # Types and arrays that are not what they seem.
    "a dtype of objects": batch(array(kind=b"cnumpy\ndtype\n(U\2O8K\0K\1tR")),
    "a dtype of fields": batch(array(kind=b"cnumpy\ndtype\n(U\3V16K\0K\1tR")),
    "a dtype of a gigabyte": batch(array(kind=b"cnumpy\ndtype\n(U\nu100000000K\0K\1tR")),
    "a dtype from a list": batch(array(kind=b"cnumpy\ndtype\n(](U\2u1eK\0K\1tR")),
    "a dtype with a state of its own": batch(
        array(kind=dtype_with(STATE.replace(integer(-1), integer(1 << 30), 1)))
    ),
    "a dtype with fields in its state": batch(array(kind=dtype_with(STATE.replace(b"NNN", b"N(U\1at}", 1)))),
    "a dtype with metadata": batch(array(kind=dtype_with(STATE[:-1] + b"}t"))),
    "a state for a list": batch(b"]K\1\x85b"),
    "a state for a name": batch(b"cnumpy\nndarray\n}b"),
    "a state twice": batch(array() + b"(K\1" + b"K\3M\0\x0c\x86" + UINT8 + b"\x89" + text(b"") + b"tb"),
    "an array over less": batch(array(data=text(b"short"))),
    "an array over nothing": batch(RECONSTRUCT),
    "an array over a list": batch(array(data=b"](K\1e")),
    "an array of a class of its own": batch(array().replace(b"cnumpy\nndarray", b"cnumpy\nmatrix")),
    "an array of negative length": batch(array(shape=integer(-1) + integer(-9216) + b"\x86")),
    "an array of 2**33": batch(array(shape=b"\x8a\5\0\0\0\0\2M\0\x0c\x86")),
    "an array of many axes": batch(array(shape=b"(" + b"K\1" * 100 + b"t")),
    "an array with a shape of arrays": batch(array(shape=array() + b"\x85")),
    "a buffer as a type": batch(array(kind=text(b"u1"))),
    # Containers.
    "a tuple as a key": b"\x80\2}(K\1\x85K\2u.",
    "tuples as a key that take for ever to hash": b"\x80\2}(K\1" + b"q\0h\0\x86" * 60 + b"K\2u.",
    "an array as a key": b"\x80\2}(" + array() + b"K\2u.",
    "a list in itself as labels": b"\x80\2}(U\6labels]q\0(K\1K\1h\0eU\4data" + array() + b"u.",
    "a dictionary in itself": b"\x80\2}q\0(U\4datah\0U\6labelsh\0u.",
    "a tuple deep in itself": batch(DEEP),
    "a tuple deep in itself as a state": batch(RECONSTRUCT + DEEP + b"b"),
    "an array as a list": b"\x80\2}(U\6labels" + array() + b"K\1aU\4data" + array() + b"u.",
    # Sizes.
    "a string of gigabytes": batch(array(data=b"T\xff\xff\xff\x7f" + ROWS.tobytes())),
    "a string of exabytes": b"\x80\4\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "text of exabytes": b"\x80\4\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
    "a frame of exabytes": b"\x80\4\x95\xff\xff\xff\xff\xff\xff\xff\x7f" + batch(b"N"),
    "a frame that ends too early": b"\x80\4\x95\1\0\0\0\0\0\0\0" + batch(b"N"),
    "a number of 4 gigabytes": b"\x80\2\x8b\xff\xff\xff\x7f.",
    "a number of 255 bytes": b"\x80\2\x8a\xff" + b"\1" * 255 + b".",
    "a number of many digits": b"I" + b"9" * 100_000 + b"\n.",
    "a line without an end": b"\x80\2c" + b"x" * 1_000_000,
    "text without an end": b"\x80\2S'" + b"x" * 1_000_000,
    "labels of 2**33 in 300 bytes": b"\x80\2}(U\6labels"
    + array(shape=b"\x8a\5\0\0\0\0\2\x85", data=text(b""))
    + b"U\4data"
    + array()
    + b"u.",
    "instructions without an end": b"\x80\2" + b"(" * 2_000_000,
    # Stacks and memories that are not there.
    "an empty stack": b"\x80\2.",
    "a stack that is below a mark": b"\x80\2}(s.",
    "no mark": b"\x80\2u.",
    "nothing remembered": b"\x80\2h\7.",
    "a key without a value": b"\x80\2}(U\4datau.",
    "more behind": batch(array()) + batch(array()),
}


def digest_of_numpy():
    """Say of NumPy what an attack would change: its types, how they compute, and its functions."""
    kind = np.dtype("u1")
    names = [name for name in dir(np) if not name.startswith("_")]
    return (
        kind.itemsize,
        kind.flags,
        kind.alignment,
        kind.hasobject,
        kind.metadata,
        np.zeros(3, kind).nbytes,
        names,
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_and_nothing_is_run(tmp_path, monkeypatch, name):
    def runs(*arguments, **options):
        raise AssertionError("code of the pickle runs")

    for module, function in [(os, "system"), (pickle, "loads"), (pickle, "load"), (np, "load")]:
        monkeypatch.setattr(module, function, runs)
    before, start = digest_of_numpy(), time.process_time()
    (tmp_path / "data_batch_1").write_bytes(ATTACKS[name])
    with pytest.raises(InvalidData, match="data_batch_1"):
        open_images(tmp_path, format="cifar")
    assert time.process_time() - start < 2
    assert digest_of_numpy() == before
    (tmp_path / "data_batch_1").write_bytes(batch(array()))
    with open_images(tmp_path) as source:  # a good one is read as before
        assert source.read(0, 3).transpose(0, 3, 1, 2).tobytes() == ROWS.tobytes()


def test_the_parts_of_attacks_are_those_of_a_batch():
    """A batch made of the parts above unpickles: each attack differs from it in one thing."""
    loaded = pickle.loads(batch(array()), encoding="bytes")
    assert loaded[b"data"].tobytes() == ROWS.tobytes()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_calls_of_all_protocols_are_refused(tmp_path, protocol):
    mark = tmp_path / "exploded"
    for where in ("data", "labels", "batch_label"):
        content = pickle.dumps(
            {"data": ROWS, "labels": [0, 1, 2]} | {where: Call(os.mkdir, str(mark))}, protocol
        )
        (tmp_path / "data_batch_1").write_bytes(content)
        with pytest.raises(InvalidData, match=r"asks for (posix|nt)\.mkdir.*refused"):
            open_images(tmp_path)
        assert not mark.exists()


@pytest.mark.parametrize("seed", range(4))
def test_damaged_batches_are_refused_or_read(tmp_path, seed):
    rng = np.random.default_rng(seed)
    whole = np.frombuffer(pickle.dumps({b"data": ROWS[:1], b"labels": [3]}, 2 + seed), np.uint8)
    held = np.array([i for i in range(len(whole)) if i < 200 or i > len(whole) - 200])
    for _ in range(150):
        content = whole.copy()
        content[rng.choice(held, rng.integers(1, 4))] = rng.integers(0, 256, 1)
        (tmp_path / "data_batch_1").write_bytes(content.tobytes())
        try:
            with open_images(tmp_path, format="cifar") as source:
                source.read(0, len(source))
        except InvalidData:
            pass


def test_every_instruction_is_known_or_named(tmp_path):
    for op in pickletools.opcodes:
        (tmp_path / "data_batch_1").write_bytes(b"\x80\5" + op.code.encode("latin1"))
        with pytest.raises(InvalidData):
            open_images(tmp_path, format="cifar")
