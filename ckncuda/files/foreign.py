"""Files of other programs, given where images, labels or a model belong: told by how they begin."""

import contextlib
import re
import zlib

BEGIN = 4096  # bytes of a file that tell
_THEN = ", and give the folder or the file that comes out"
# What wraps a file, or stands in its place: the way out is the same, whatever the file should be.
_WRAPPED = re.compile("is (a pointer|compressed|a web page|an XML document|a tar|a zip|a 7z|a RAR)")

# How the file begins, and the rest of a sentence that begins with its name.
_KINDS: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs",
        "is a pointer of Git LFS, not the file itself: fetch that with git lfs pull",
    ),
    (b"%PDF", "is a PDF: save what it shows as PNG files, or its numbers as CSV"),
    (b"%!PS", "is a PostScript file: convert it to PNG"),
    (b"\xd0\xcf\x11\xe0", "is an Office document (.xls, .doc): save the sheet as CSV"),
    (
        b"\x89HDF\r\n\x1a\n",
        "is an HDF5 file (.h5, .mat): save its array with numpy.save, and give the .npy file",
    ),
    (b"MATLAB 7.3", "is a file of MATLAB: load it with h5py, and save the array with numpy.save"),
    (b"MATLAB", "is a file of MATLAB: load it with scipy.io.loadmat, and save the array with numpy.save"),
    (b"PAR1", "is a Parquet file: load it with pandas, and save the numbers with to_csv(index=False)"),
    (b"ARROW1", "is an Arrow file: load it with pandas, and save the numbers with to_csv(index=False)"),
    (b"SQLite format 3", "is an SQLite database: export the numbers as CSV"),
    (b"\xff\xfe", "is text in UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "is text in UTF-16: save it as UTF-8"),
    (b"BZh", "is compressed: decompress it first, with bunzip2"),
    (b"\xfd7zXZ\0", "is compressed: decompress it first, with unxz"),
    (b"\x28\xb5\x2f\xfd", "is compressed: decompress it first, with unzstd"),
    (b"7z\xbc\xaf\x27\x1c", f"is a 7z archive: unpack it{_THEN}"),
    (b"Rar!", f"is a RAR archive: unpack it{_THEN}"),
    (b"\xff\x0a", "is a JPEG XL picture: convert it to PNG or JPEG"),
    (b"\0\0\0\x0cJXL ", "is a JPEG XL picture: convert it to PNG or JPEG"),
)


def kind_of(begin: bytes) -> str | None:
    r"""Return what a file that begins so is, and what to do with it: the rest of a sentence, or None.

    Examples
    --------
    >>> kind_of(b"PAR1\x15\x04")
    'is a Parquet file: load it with pandas, and save the numbers with to_csv(index=False)'
    """
    for start, kind in _KINDS:
        if begin.startswith(start):
            return kind
    if begin.startswith(b"\x1f\x8b"):
        return _kind_of_gzipped(begin)
    if begin.startswith(b"PK\3\4"):
        return _kind_of_zip(begin)
    if begin[257:262] == b"ustar":
        return f"is a tar archive: unpack it with tar xf{_THEN}"
    if begin[4:8] == b"ftyp" and begin[8:10] in (b"he", b"mi", b"ms", b"av"):
        kind = "an AVIF" if begin[8:12] in (b"avif", b"avis") else "a HEIC"
        return f"is {kind} picture: convert it to PNG or JPEG"
    if begin[8:10] == b'{"' and int.from_bytes(begin[:8], "little") < 1 << 32:
        if b'"ckncuda"' in begin:
            return "is a model of ckncuda: it is given before the images, as in ckn predict MODEL IMAGES"
        return "is a safetensors file: save its array with numpy.save, and give the .npy file"
    text = begin.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if re.match(rb"<!doctype html|<html|<head", text):
        return "is a web page, perhaps of an error, saved in place of the data: download it again"
    if text.startswith((b"<?xml", b"<svg")):
        return "is an XML document (SVG, or a server's error): convert it, or download it again"
    return None


def kind_where_a_model_belongs(begin: bytes) -> str | None:
    """Return what `kind_of` does, for a file that should have been a model.

    Examples
    --------
    >>> kind_where_a_model_belongs(b"%PDF-1.7")
    'is a PDF, no model: give a file that ckn fit wrote'
    """
    kind = kind_of(begin)
    if kind is None or _WRAPPED.match(kind):
        return kind
    return f"{kind.partition(':')[0]}, no model: give a file that ckn fit wrote"


def gunzipped(begin: bytes) -> bytes:
    r"""Return the first bytes of what a gzipped file holds that begins so, as many as its own tell.

    Examples
    --------
    >>> import gzip
    >>> gunzipped(gzip.compress(b"Id,Prediction")), gunzipped(b"\x1f\x8bno more")
    (b'Id,Prediction', b'')
    """
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(31).decompress(begin, 512)
    return b""


def _kind_of_gzipped(begin: bytes) -> str:
    content = gunzipped(begin)
    if content[257:262] == b"ustar":
        return f"is a tar archive, compressed: unpack it with tar xf{_THEN}"
    return "is compressed: decompress it first, with gunzip (only IDX files and labels are read gzipped)"


def _kind_of_zip(begin: bytes) -> str | None:
    """Tell a zip archive by its first member; None for one of NumPy's."""
    name = begin[30 : 30 + int.from_bytes(begin[26:28], "little")]
    if name.endswith(b".npy"):
        return None
    if name == b"[Content_Types].xml" or name.startswith((b"_rels/", b"docProps/", b"xl/", b"word/")):
        return "is an Office document (.xlsx, .docx): save the sheet as CSV"
    if name.endswith((b"/data.pkl", b"/version", b".format_version")):
        return "is a file of PyTorch: save the array with numpy.save, and give the .npy file"
    return f"is a zip archive: unpack it with unzip{_THEN}"
