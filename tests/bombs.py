"""Files that announce, or unpack to, far more than they are; and a process that opens them.

Started as a program with the paths of files, it prints a line for each: seconds of CPU, MiB above the start,
the name, the error.
"""

import functools
import io
import resource
import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np

GIB = 1 << 30


def header(shape, descr="|u1", order="False"):
    text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


@functools.cache
def piece():
    """Deflate 16 MiB of zeros, to stand between others."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)


def zeros_deflated(begin, count):
    """Deflate a few bytes and, behind them, so many zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(begin) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + piece() * (count >> 24) + packer.compress(bytes(count & 0xFFFFFF)) + packer.flush()


def archive(*members):
    """Make a zip of members (name, packed, unpacked size, checksum), deflated."""
    out, listing = io.BytesIO(), b""
    for name, packed, size, checksum in members:
        extra = struct.pack("<HHQQ", 1, 16, size, len(packed))
        about = struct.pack(
            "<HHHHHIIIHH", 45, 0, 8, 0, 0, checksum, 2**32 - 1, 2**32 - 1, len(name), len(extra)
        )
        listing += b"PK\1\2\x2d\0" + about + struct.pack("<HHHII", 0, 0, 0, 0, out.tell()) + name + extra
        out.write(b"PK\3\4" + about + name + extra + packed)
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(listing), out.tell(), 0)
    return out.getvalue() + listing + b"PK\5\6" + end


def member(name, shape, size=None, descr="|u1", order="False"):
    begin = header(shape, descr, order)
    size = int(np.prod(shape, dtype=object)) * np.dtype(descr).itemsize if size is None else size
    checksum = (
        zlib.crc32(begin + bytes(size)) if size < 1 << 20 else 0
    )  # of a larger one it is never compared
    return name, zeros_deflated(begin, size), len(begin) + size, checksum


def sparse(path, begin, size):
    with open(path, "wb") as file:
        file.write(begin)
        file.truncate(size)


def make(folder):
    """Write the bombs into a folder; return their names, and what each must be said to be."""
    one = member(b"images.npy", (10, 8, 8))
    (folder / "labels.npz").write_bytes(archive(one, member(b"labels.npy", (GIB * 3,))))
    (folder / "labels-alone-y.npz").write_bytes(archive(member(b"labels.npy", (GIB // 2,), descr="<i8")))
    (folder / "one-image.npz").write_bytes(archive(member(b"images.npy", (1, 65535, 65535, 1), 1 << 26)))
    (folder / "fortran.npz").write_bytes(
        archive(member(b"images.npy", (100_000, 32, 32, 40), None, order="True"))
    )
    (folder / "announced.npz").write_bytes(archive(member(b"images.npy", (10**6, 64, 64, 3), 100)))
    (folder / "many-images.npz").write_bytes(archive(member(b"images.npy", (10**9, 2, 2), 4 * 10**9)))
    weight = b"features.ckn_layers.0.weight"
    zeros = archive(member(weight + b".npy", (1 << 15, 1 << 10, 3, 3), descr="<f4"))
    (folder / "zeros-state.npz").write_bytes(zeros)
    begin = (
        f'{{"{weight.decode()}":{{"dtype":"F32","shape":[{GIB // 4}],"data_offsets":[0,{GIB}]}}}}'.encode()
    )
    begin = len(begin).to_bytes(8, "little") + begin
    (folder / "announced-state.safetensors").write_bytes(begin)
    sparse(folder / "sparse-state.safetensors", begin, len(begin) + GIB)
    many = b"".join(
        b"PK\1\2\x14\0\x14\0" + bytes(20) + struct.pack("<H", 10) + bytes(16) + f"{i:06}.npy".encode()
        for i in range(200_000)
    )
    longer = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 200_000, 200_000, len(many), 4)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, 4 + len(many), 1)
    ends = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    (folder / "many-members.npz").write_bytes(b"PK\3\4" + many + longer + locator + ends)
    (folder / "announced.npy").write_bytes(header((10**6, 64, 64, 3), "<f8"))
    sparse(folder / "sparse-y.npy", header((GIB * 4,)), GIB * 4 + len(header((GIB * 4,))))
    sparse(
        folder / "one-image.npy", header((1, 40000, 40000, 1)), 40000**2 + len(header((1, 40000, 40000, 1)))
    )
    sparse(folder / "images-idx3-ubyte", struct.pack(">4I", 2051, 10**8, 28, 28), 16 + 10**8 * 784)
    sparse(folder / "labels-y-idx1-ubyte", struct.pack(">2I", 2049, 2**32 - 1), 8 + 2**32 - 1)
    gz = b"\x1f\x8b\x08" + bytes(7)
    announced = zeros_deflated(struct.pack(">4I", 2051, 10**7, 28, 28), 1 << 20)
    (folder / "announced.gz").write_bytes(gz + announced + bytes(8))
    labels = zeros_deflated(struct.pack(">2I", 2049, 1 << 30), 1 << 30)
    (folder / "labels-y.gz").write_bytes(gz + labels + bytes(8))
    batch = b"\x80\2}(U\4dataT\xff\xff\xff\x7f"
    sparse(folder / "data_batch_1", batch, len(batch) + (1 << 31))
    sparse(folder / "data_batch_2", b"\x80\2S'", 1 << 30)
    sparse(folder / "test_batch.bin", b"", 3073 * (1 << 25))
    return sorted(path.name for path in folder.iterdir())


def main():
    from ckncuda import import_chen
    from ckncuda.data import open_images, read_labels
    from ckncuda.errors import CknError

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    for name in sys.argv[1:]:
        begin, start = peak(), time.process_time()
        said = "nothing"
        try:
            if "-y" in name:
                read_labels(name, 10)
            elif "-state" in name:
                import_chen(name)
            else:
                with open_images(name) as source:
                    source.read(0, 1)
        except CknError as error:
            said = str(error).replace("\n", " ")
        print(
            f"{time.process_time() - start:.3f}\t{peak() - begin:.0f}\t{Path(name).name}\t{said}", flush=True
        )


if __name__ == "__main__":
    main()
