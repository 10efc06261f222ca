import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from ckncuda.data import open_images, read_labels
from ckncuda.errors import CknError, InvalidData, InvalidModelFile
from ckncuda.exact.on_disk.reading import open_gram
from ckncuda.model.model import load
from ckncuda.model.system import System


def archive(open_archive, add, *names):
    file = io.BytesIO()
    with open_archive(file) as opened:
        for name in names:
            add(opened, name)
    return file.getvalue()


def zipped(*names):
    return archive(lambda f: zipfile.ZipFile(f, "w"), lambda z, name: z.writestr(name, b"x"), *names)


def tarred(mode):
    def add(tar, name):
        tar.addfile(tarfile.TarInfo(name))

    return archive(lambda f: tarfile.open(fileobj=f, mode=mode), add, "cat/1.png")


def safetensors_file(entry, length):
    """A safetensors file whose header has this length: the first bytes of some look like a pickle's."""
    array = {"x": np.zeros(4, np.float32)}
    missing = length - int.from_bytes(safetensors.numpy.save(array, {entry: ""})[:8], "little")
    return safetensors.numpy.save(array, {entry: "0" * missing})


FOREIGN = {
    "lfs.csv": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
    "lfs.npy": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
    "page.csv": (b"\n <!DOCTYPE html><html>", "web page"),
    "page.npz": (b"<html><head>", "web page"),
    "answer.csv": (b'<?xml version="1.0"?><Error/>', "XML"),
    "x.pdf": (b"%PDF-1.7\n", "PDF"),
    "x.xlsx": (zipped("[Content_Types].xml", "xl/workbook.xml"), "save the sheet as CSV"),
    "x.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "save the sheet as CSV"),
    "x.csv": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "save the sheet as CSV"),
    "x.mat": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(99), "loadmat"),
    "x.h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "numpy.save"),
    "x.parquet": (b"PAR1" + bytes(99), "to_csv"),
    "x.feather": (b"ARROW1\0\0", "to_csv"),
    "photos.zip": (zipped("cat/1.png", "dog/1.png"), "unpack it with unzip"),
    "x.pt": (zipped("x/data.pkl", "x/version"), "PyTorch"),
    "photos.tar": (tarred("w"), "unpack it with tar xf"),
    "photos.tar.gz": (tarred("w:gz"), "unpack it with tar xf"),
    "x.7z": (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(99), "unpack"),
    "photo.heic": (b"\0\0\0\x18ftypheic" + bytes(99), "HEIC picture"),
    "photo.jpg": (b"\0\0\0\x18ftypmif1" + bytes(99), "HEIC picture"),
    "photo.avif": (b"\0\0\0\x18ftypavif" + bytes(99), "AVIF picture"),
    "wide.csv": ("1,2\n".encode("utf-16"), "UTF-16"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_others_are_named_as_what_they_are(tmp_path, name):
    content, words = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidData, match=rf"{name}.* is .*{words}"):
        open_images(tmp_path / name)
    if not name.startswith("photo."):
        with pytest.raises(InvalidData, match=rf"{name}.* is .*{words}"):
            read_labels(tmp_path / name, 2)


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_others_in_place_of_a_model_are_named_as_what_they_are(tmp_path, name):
    (tmp_path / name).write_bytes(FOREIGN[name][0])
    with pytest.raises(
        InvalidModelFile, match=rf"{name} is .*(no model: give|unpack|git lfs|again)"
    ) as refused:
        load(tmp_path / name)
    assert "numpy" not in str(refused.value)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_model_is_to_be_decompressed(tmp_path, pack):
    (tmp_path / "m.ckn.packed").write_bytes(pack(safetensors_file("ckncuda", 0x0280)))
    with pytest.raises(
        InvalidModelFile, match=r"is compressed: decompress it first, with (gunzip|bunzip2|unxz)"
    ):
        load(tmp_path / "m.ckn.packed")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_images_are_to_be_decompressed(tmp_path, pack):
    (tmp_path / "X.csv.packed").write_bytes(pack(b"1,2,3,4\n"))
    with pytest.raises(InvalidData, match=r"is compressed: decompress it first, with (gunzip|bunzip2|unxz)"):
        open_images(tmp_path / "X.csv.packed")


@pytest.mark.parametrize("length", [0x0280, 0x0480, 0x0368])
@pytest.mark.parametrize(
    ("entry", "words"), [("ckncuda", "is a model of ckncuda"), ("other", "is a safetensors file")]
)
def test_a_model_where_images_belong(tmp_path, length, entry, words):
    (tmp_path / "m.ckn").write_bytes(safetensors_file(entry, length))
    assert int.from_bytes((tmp_path / "m.ckn").read_bytes()[:8], "little") == length
    with pytest.raises(InvalidData, match=words):
        open_images(tmp_path / "m.ckn")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@pytest.mark.parametrize(
    ("read", "name"),
    [
        *(
            (open_images, name)
            for name in ("Xtr.csv", "x.npy", "x.npz", "x.tsv", "data_batch_1", "1.png", "x.bin")
        ),
        *(
            (lambda path: read_labels(path, 3), name)
            for name in ("Ytr.csv", "y.npy", "y.npz", "y-idx1-ubyte")
        ),
        (open_gram, "K.npy"),
        (System.from_toml, "net.toml"),
        (load, "m.ckn"),
    ],
)
def test_a_pointer_of_git_lfs_is_said_to_be_one(tmp_path, read, name):
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(CknError, match=r"is a pointer of Git LFS.*git lfs pull"):
        read(tmp_path / name)
