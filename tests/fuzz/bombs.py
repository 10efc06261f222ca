"""Small or sparse files that announce, or unpack to, more than a machine should give; each is made cheaply.

A bomb is written into a folder and returns the arguments of `ckn` that read it.  Beside it lie ``x.npy``,
five images, ``Y.csv``, their labels, and ``m.ckn``, a model.
"""

import bz2
import gzip
import io
import json
import lzma
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from bombs import sparse, zeros_deflated
from fuzz.corpus import IMAGES, LABELS, npy_of
from numpy.lib import format as npy_format
from picture_files import chunk, encoded
from PIL import Image

from ckncuda.data.picture_chunks import PNG_SIGNATURE

Bomb = Callable[[Path], list[str]]
MIB = 1 << 20
BOMBS: dict[str, Bomb] = {}

LAYER = ("--layer", "filters=2,patch=2,subsampling=2,kernel=exp,sigma=0.6", "--preprocess", "none")
FIT = ("fit", "-o", "new.ckn", "--patches", "50", *LAYER)
EXACT = ("fit", "-o", "new.ckn", "--method", "exact", "--labels", "Y.csv", "--layer")
EXACT = (*EXACT, "patch=2,subsampling=2,kernel=exp,sigma=0.6", "--preprocess", "none")
SEARCH = ("search", "x.npy", "--labels", "Y.csv", "-o", "new.ckn", "--trials", "1", "--hold-out", "0")


def bomb(function: Bomb) -> Bomb:
    """Add a bomb to the list."""
    BOMBS[function.__name__] = function
    return function


def lay_out(folder: Path) -> None:
    """Write the good files that commands need beside a bomb."""
    np.save(folder / "x.npy", IMAGES)
    table = "".join(f"{i},{label}\n" for i, label in enumerate(LABELS, 1))
    (folder / "Y.csv").write_text("Id,Prediction\n" + table)
    stored = Path(__file__).parents[1] / "model_files" / "version_3.ckn"
    (folder / "m.ckn").write_bytes(stored.read_bytes())


def npy_head(shape: tuple[int, ...], dtype: str, fortran: bool = False) -> bytes:
    """Return the header of an array."""
    out = io.BytesIO()
    npy_format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": fortran, "shape": shape})
    return out.getvalue()


def gzipped_zeros(head: bytes, size: int) -> bytes:
    """Return a gzip file of many members."""
    return gzip.compress(head, mtime=0) + gzip.compress(bytes(16 * MIB), mtime=0) * (size // (16 * MIB))


def bzipped_zeros(head: bytes, size: int) -> bytes:
    """Return a stream of bzip2."""
    packer = bz2.BZ2Compressor()
    return b"".join([packer.compress(each) for each in _pieces(head, size)]) + packer.flush()


def zeros_in_lzma(head: bytes, size: int) -> bytes:
    """Return a stream of LZMA as archives have it, made in the quickest way."""
    quick = {"mode": lzma.MODE_FAST, "mf": lzma.MF_HC3, "depth": 1, "nice_len": 273}
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": 4096, "lc": 3, "lp": 0, "pb": 2, **quick}]
    packer = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=filters)
    stream = b"".join([packer.compress(each) for each in _pieces(head, size)]) + packer.flush()
    return struct.pack("<2BHBI", 9, 4, 5, 2 * 45 + 3, 4096) + stream


def _pieces(head: bytes, size: int) -> Iterator[bytes]:
    yield head
    for _ in range(size // (16 * MIB)):
        yield bytes(16 * MIB)


PACKERS = {
    zipfile.ZIP_DEFLATED: zeros_deflated,
    zipfile.ZIP_BZIP2: bzipped_zeros,
    zipfile.ZIP_LZMA: zeros_in_lzma,
}


def archive(path: Path, key: str, head: bytes, size: int, method: int = zipfile.ZIP_DEFLATED) -> None:
    """Write an archive of an array that announces what its header says, and holds so many bytes of zeros.

    Its checksum is wrong: who comes to see that has unpacked it all.
    """
    stored, length, name = PACKERS[method](head, size), len(head) + size, f"{key}.npy".encode()
    flags, sizes = 2 * (method == zipfile.ZIP_LZMA), (1, len(stored), length, len(name))
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, flags, method, 0, 33, *sizes, 0) + name
    central = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, flags, method, 0, 33, *sizes, *(0,) * 6) + name
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local) + len(stored), 0)
    path.write_bytes(local + stored + central + end)


@bomb
def labels_deflated(folder: Path) -> list[str]:
    """Announce, and hold, 2^27 labels of 8 bytes."""
    archive(folder / "Y.npz", "labels", npy_head((1 << 27,), "<i8"), 1024 * MIB)
    return [*FIT, "x.npy", "--labels", "Y.npz"]


@bomb
def labels_bzipped(folder: Path) -> list[str]:
    """Announce, and hold, as many labels of a byte as take more memory than a refusal may."""
    archive(folder / "Y.npz", "y", npy_head((320 * MIB,), "|u1"), 320 * MIB, zipfile.ZIP_BZIP2)
    return [*FIT, "x.npy", "--labels", "Y.npz"]


@bomb
def labels_in_lzma(folder: Path) -> list[str]:
    """Announce, and hold, as many labels of a byte as take more memory than a refusal may."""
    archive(folder / "Y.npz", "labels", npy_head((320 * MIB,), "|u1"), 320 * MIB, zipfile.ZIP_LZMA)
    return [*FIT, "x.npy", "--labels", "Y.npz"]


@bomb
def labels_beside_images(folder: Path) -> list[str]:
    """Hold five images and a billion labels in one archive."""
    archive(folder / "xy.npz", "labels", npy_head((1 << 27,), "<i8"), 1024 * MIB)
    with zipfile.ZipFile(folder / "xy.npz", "a") as made:
        made.writestr("images.npy", npy_of(IMAGES))
    return [*FIT, "xy.npz"]


@bomb
def labels_in_fortran_order(folder: Path) -> list[str]:
    """Announce a column of labels, in the other order."""
    archive(folder / "Y.npz", "labels", npy_head((1 << 27, 1), "<i8", fortran=True), 1024 * MIB)
    return [*FIT, "x.npy", "--labels", "Y.npz"]


@bomb
def labels_of_idx_gzipped(folder: Path) -> list[str]:
    """Announce, and hold, 2^30 labels."""
    (folder / "Y.gz").write_bytes(gzipped_zeros(struct.pack(">2I", 0x801, 1 << 30), 1024 * MIB))
    return [*FIT, "x.npy", "--labels", "Y.gz"]


@bomb
def labels_of_idx_beside_images(folder: Path) -> list[str]:
    """Hold labels like MNIST's beside five images, 2^30 of them."""
    (folder / "images-idx3").write_bytes(struct.pack(">4I", 0x803, 5, 8, 8) + bytes(320))
    (folder / "labels-idx1.gz").write_bytes(gzipped_zeros(struct.pack(">2I", 0x801, 1 << 30), 1024 * MIB))
    return [*FIT, "images-idx3"]


@bomb
def labels_of_idx_sparse(folder: Path) -> list[str]:
    """Hold 4 billion labels."""
    sparse(folder / "Y", struct.pack(">2I", 0x801, 2**32 - 1), 8 + 2**32 - 1)
    return [*FIT, "x.npy", "--labels", "Y"]


@bomb
def labels_of_npy_sparse(folder: Path) -> list[str]:
    """Hold 2^30 labels of 8 bytes."""
    head = npy_head((1 << 30,), "<i8")
    sparse(folder / "Y.npy", head, len(head) + 8 * (1 << 30))
    return [*FIT, "x.npy", "--labels", "Y.npy"]


@bomb
def labels_of_npy_in_lines(folder: Path) -> list[str]:
    """Hold text that never ends where labels are expected."""
    sparse(folder / "Y.csv", b"Id,Prediction\n1,", 4096 * MIB)
    return [*FIT, "x.npy", "--labels", "Y.csv"]


@bomb
def one_image_deflated(folder: Path) -> list[str]:
    """Announce one image of 65535 x 65535."""
    archive(folder / "x.npz", "images", npy_head((1, 65535, 65535), "|u1"), 1024 * MIB)
    return [*FIT, "x.npz"]


@bomb
def one_image_to_predict(folder: Path) -> list[str]:
    """Announce one image that a model shall take."""
    archive(folder / "x.npz", "images", npy_head((1, 65535, 65535, 3), "<f4"), 1024 * MIB)
    return ["predict", "m.ckn", "x.npz", "-o", "p.csv"]


@bomb
def one_image_of_npy(folder: Path) -> list[str]:
    """Hold one image of 65535 x 65535."""
    head = npy_head((1, 65535, 65535, 1), "|u1")
    sparse(folder / "big.npy", head, len(head) + 65535**2)
    return [*FIT, "big.npy"]


@bomb
def one_image_of_idx_gzipped(folder: Path) -> list[str]:
    """Announce one image of 65535 x 65535."""
    (folder / "x.gz").write_bytes(gzipped_zeros(struct.pack(">4I", 0x803, 1, 65535, 65535), 1024 * MIB))
    return [*FIT, "x.gz"]


@bomb
def one_image_of_csv(folder: Path) -> list[str]:
    """Begin a line of numbers that never ends."""
    sparse(folder / "x.csv", b"1,2,3", 4096 * MIB)
    return [*FIT, "x.csv", "--image-shape", "8x8x1"]


@bomb
def one_line_of_csv(folder: Path) -> list[str]:
    """Hold a good line, and one that never ends."""
    sparse(folder / "x.csv", b"1," * 63 + b"1\n1,2,3", 4096 * MIB)
    return [*FIT, "x.csv", "--image-shape", "8x8x1"]


@bomb
def images_in_fortran_order(folder: Path) -> list[str]:
    """Announce 8 GiB of images that can only be unpacked together."""
    archive(folder / "x.npz", "images", npy_head((1 << 23, 32, 32), "|u1", fortran=True), 1024 * MIB)
    return [*FIT, "x.npz"]


@bomb
def images_of_cifar_pickled(folder: Path) -> list[str]:
    """Announce 2^33 labels in a few hundred bytes."""
    (folder / "data_batch_1").write_bytes(b"\x80\2}(U\6labels" + _pickled_array((1 << 33,), b"") + b"u.")
    return [*FIT, "data_batch_1"]


@bomb
def bytes_of_a_pickle(folder: Path) -> list[str]:
    """Announce a terabyte of bytes."""
    (folder / "data_batch_1").write_bytes(b"\x80\4}\x94(C\4data\x8e" + struct.pack("<Q", 1 << 40) + b"abcu.")
    return [*FIT, "data_batch_1"]


@bomb
def memo_of_a_pickle(folder: Path) -> list[str]:
    """Remember an object under the number 2^27 - 1: Python's own memo is a table of that length."""
    (folder / "data_batch_1").write_bytes(b"\x80\2}r" + struct.pack("<I", (1 << 27) - 1) + b"(u.")
    return [*FIT, "data_batch_1"]


@bomb
def laughs_of_a_pickle(folder: Path) -> list[str]:
    """Double a tuple sixty times, and take it for a key."""
    doubled = b")" + b"".join(b"q%c" % i + b"h%c\x86" % i for i in range(60))
    (folder / "data_batch_1").write_bytes(b"\x80\2}(" + doubled + b"K\1u.")
    return [*FIT, "data_batch_1"]


def _pickled_array(shape: tuple[int, ...], data: bytes) -> bytes:
    dtype = b"cnumpy\ndtype\nU\2u1K\0K\1\x87R(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    sides = b"".join(b"\x8a\x08" + struct.pack("<q", side) for side in shape)
    begin = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R(K\1("
    return begin + sides + b"t" + dtype + b"\x89T" + struct.pack("<i", len(data)) + data + b"tb"


@bomb
def members_of_an_archive(folder: Path) -> list[str]:
    """Hold 100,000 arrays of nothing."""
    local, central, names = [], [], [f"array_{i:06}.npy".encode() for i in range(100_000)]
    at = 0
    for name in names:
        local.append(struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0) + name)
        sizes = (0, 0, 0, len(name), 0, 0, 0, 0, 0, at)
        central.append(struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 33, *sizes) + name)
        at += len(local[-1])
    length = sum(map(len, central))
    wide = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 100_000, 100_000, length, at)
    wide += struct.pack("<4sIQI", b"PK\6\7", 0, at + length, 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, length, at, 0)
    (folder / "x.npz").write_bytes(b"".join([*local, *central]) + wide + end)
    return [*FIT, "x.npz"]


def _picture(folder: Path, name: str, content: bytes) -> list[str]:
    (folder / "pictures").mkdir()
    (folder / "pictures" / name).write_bytes(content)
    return [*FIT, "pictures"]


@bomb
def picture_png(folder: Path) -> list[str]:
    """Hold 13,300 x 13,300 black pixels, just below what Pillow itself refuses."""
    side, rows = 13_300, 13_300 * (1 + 3 * 13_300)
    pixels = b"\x78\xda" + zeros_deflated(b"", rows + 16 * MIB) + struct.pack(">I", 1)
    head = chunk(b"IHDR", struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0))
    return _picture(folder, "1.png", PNG_SIGNATURE + head + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


@bomb
def picture_ppm(folder: Path) -> list[str]:
    """Hold 13,300 x 13,300 pixels."""
    arguments = _picture(folder, "1.ppm", b"")
    sparse(folder / "pictures" / "1.ppm", b"P6 13300 13300 255\n", 20 + 3 * 13_300**2)
    return arguments


def _resized(suffix: str, at: int, width: int) -> bytes:
    """Return a small picture whose header announces 13,300 x 13,300."""
    head = encoded(Image.new("RGB" if suffix == "bmp" else "P", (8, 6)), suffix)
    side = (13_300).to_bytes(width, "little")
    return head[:at] + 2 * side + head[at + 2 * width :]


@bomb
def picture_bmp(folder: Path) -> list[str]:
    """Announce 13,300 x 13,300 pixels."""
    arguments = _picture(folder, "1.bmp", b"")
    sparse(folder / "pictures" / "1.bmp", _resized("bmp", 18, 4), 60 + 3 * 13_300**2)
    return arguments


@bomb
def picture_gif(folder: Path) -> list[str]:
    """Announce 13,300 x 13,300 pixels."""
    return _picture(folder, "1.gif", _resized("gif", 6, 2))


@bomb
def text_in_a_picture(folder: Path) -> list[str]:
    """Hold compressed text beside the pixels that unpacks to a gigabyte."""
    text = b"a\0\0\x78\xda" + zeros_deflated(b"", 1024 * MIB) + struct.pack(">I", 1)
    plain = encoded(Image.new("RGB", (8, 6)), "png")
    return _picture(folder, "1.png", plain[:33] + chunk(b"zTXt", text) + plain[33:-12] + b"\0\0\0\0IEND")


@bomb
def header_of_a_model(folder: Path) -> list[str]:
    """Nest 45 million lists in the header."""
    header = b'{"a":' + b"[" * 45_000_000 + b"]" * 45_000_000 + b"}"
    (folder / "bomb.ckn").write_bytes(struct.pack("<Q", len(header)) + header)
    return ["info", "bomb.ckn"]


@bomb
def length_of_a_header(folder: Path) -> list[str]:
    """Announce a header of 2^63 bytes."""
    (folder / "bomb.ckn").write_bytes(struct.pack("<Q", 1 << 63) + b'{"a": 1}')
    return ["info", "bomb.ckn"]


@bomb
def specification_of_a_model(folder: Path) -> list[str]:
    """Nest a million lists in the specification."""
    inner = json.dumps('{"version": 3, "encoders": ' + "[" * 1_000_000 + "]" * 1_000_000 + "}")
    header = ('{"__metadata__": {"ckncuda": ' + inner + "}}").encode()
    (folder / "bomb.ckn").write_bytes(struct.pack("<Q", len(header)) + header)
    return ["info", "bomb.ckn"]


@bomb
def tensor_of_a_model(folder: Path) -> list[str]:
    """Hold 8 GiB of anchor points of which no layer speaks."""
    specification = json.dumps({"version": 3, "encoders": [], "classifier": None})
    tensor = {"dtype": "F32", "shape": [1 << 31], "data_offsets": [0, 1 << 33]}
    header = json.dumps({"__metadata__": {"ckncuda": specification}, "encoders.0.points": tensor}).encode()
    sparse(folder / "bomb.ckn", struct.pack("<Q", len(header)) + header, 8 + len(header) + (1 << 33))
    return ["info", "bomb.ckn"]


@bomb
def model_that_never_ends(folder: Path) -> list[str]:
    """Hold nothing but zeros."""
    sparse(folder / "bomb.ckn", b"", 8192 * MIB)
    return ["info", "bomb.ckn"]


@bomb
def gram_of_npy(folder: Path) -> list[str]:
    """Hold a matrix of 40,000 images beside five."""
    head = npy_head((40_000, 40_000), "<f4")
    sparse(folder / "K.npy", head, len(head) + 4 * 40_000**2)
    return [*EXACT, "x.npy", "--gram", "K.npy"]


def zarr_folder(folder: Path, chunk: tuple[int, int] = (5, 5)) -> Path:
    """Write what Zarr says of a matrix of five images, whose only chunk is compressed."""
    (folder / "K.zarr" / "c" / "0").mkdir(parents=True)
    layout = {"name": "regular", "configuration": {"chunk_shape": chunk}}
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
    codecs.append({"name": "gzip", "configuration": {"level": 5}})  # type: ignore[dict-item]
    description = {
        **{"zarr_format": 3, "node_type": "array", "shape": [5, 5], "data_type": "float32"},
        **{"chunk_grid": layout, "codecs": codecs, "fill_value": "NaN", "storage_transformers": []},
        **{"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}},
        **{"attributes": {"ckncuda_gram": {"format": 1}}},
    }
    (folder / "K.zarr" / "zarr.json").write_text(json.dumps(description))
    return folder / "K.zarr" / "c" / "0" / "0"


@bomb
def chunk_of_zarr(folder: Path) -> list[str]:
    """Hold a chunk that unpacks to 1.7 GiB, of a matrix of five images."""
    zarr_folder(folder, (20_000, 22_000)).write_bytes(gzipped_zeros(b"", 1760 * MIB))
    return [*EXACT, "x.npy", "--gram", "K.zarr"]


@bomb
def description_of_zarr(folder: Path) -> list[str]:
    """Hold a description that never ends."""
    zarr_folder(folder).write_bytes(b"")
    sparse(folder / "K.zarr" / "zarr.json", b"{", 4096 * MIB)
    return [*EXACT, "x.npy", "--gram", "K.zarr"]


@bomb
def toml_that_never_ends(folder: Path) -> list[str]:
    """Hold a comment that never ends."""
    sparse(folder / "net.toml", b"# ", 4096 * MIB)
    return ["fit", "x.npy", "-o", "new.ckn", "--config", "net.toml"]


@bomb
def toml_of_brackets(folder: Path) -> list[str]:
    """Nest 100,000 lists."""
    (folder / "net.toml").write_text("a = " + "[" * 100_000 + "]" * 100_000)
    return ["fit", "x.npy", "-o", "new.ckn", "--config", "net.toml"]


@bomb
def toml_of_digits(folder: Path) -> list[str]:
    """Hold a number of three million digits, in a base in which Python does not bound them."""
    (folder / "net.toml").write_text("[[layers]]\nfilters = 0x" + "f" * 3_000_000)
    return ["fit", "x.npy", "-o", "new.ckn", "--config", "net.toml"]


@bomb
def journal_of_a_search(folder: Path) -> list[str]:
    """Hold a line that never ends."""
    (folder / "new.ckn.search").mkdir()
    sparse(folder / "new.ckn.search" / "journal.log", b'{"op_code": 0,', 4096 * MIB)
    return [*SEARCH]


@bomb
def description_of_a_search(folder: Path) -> list[str]:
    """Hold a description that never ends."""
    (folder / "new.ckn.search").mkdir()
    sparse(folder / "new.ckn.search" / "search.json", b"{", 4096 * MIB)
    return [*SEARCH]
