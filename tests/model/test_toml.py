"""Configuration files as editors leave them, damaged ones, and those made to do harm."""

import contextlib
import os
import random
import re

import pytest

from ckncuda import System
from ckncuda.errors import CknError, InvalidSpec
from ckncuda.model.configuration import MOST_BYTES

LAYER = "[[layers]]\nfilters = 4\npatch = 3\nsubsampling = 2\nsigma = 0.6\n"
WITH_ALL = (
    f"symmetries = {{ flip = true, shift = 1 }}\n[[preprocessing]]\nname = 'zca'\nepsilon = 2\n{LAYER}"
    "[classifier]\nname = 'kernel-ridge'\nkernel = 'poly'\ndegree = 2\nregularization = 1e-4\n"
)


@pytest.fixture
def read(tmp_path):
    """Read a system from a file of this content."""

    def read(content, method=None):
        path = tmp_path / "net.toml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        system = System.from_toml(path, method)
        system.check((16, 16, 3))
        return system

    return read


AS_EDITORS_LEAVE_THEM = {
    "byte-order mark": b"\xef\xbb\xbf" + WITH_ALL.encode(),
    "lines of Windows": WITH_ALL.replace("\n", "\r\n").encode(),
    "lines of an old Mac": WITH_ALL.replace("\n", "\r").encode(),
    "UTF-16": WITH_ALL.encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + WITH_ALL.encode("utf-16-be"),
    "no line end": WITH_ALL.rstrip().encode(),
}


@pytest.mark.parametrize("name", AS_EDITORS_LEAVE_THEM)
def test_files_as_editors_leave_them(read, name):
    assert read(AS_EDITORS_LEAVE_THEM[name]) == read(WITH_ALL)


REFUSED = {
    "decimal comma": (LAYER.replace("0.6", "0,6"), "in 'sigma = 0,6' write a point, not a comma"),
    "Latin-1": (f"# \u00e9\n{LAYER}".encode("latin-1"), "it is no UTF-8 text, save it as such"),
    "NUL": (LAYER + "\0", "is not TOML: "),
    "brackets": ("a = " + "[" * 2000 + "]" * 2000, "its brackets are nested too deep"),
    "tables": ("a = " + "{a = " * 2000 + "1" + "}" * 2000, "its brackets are nested too deep"),
    "dots": ("a" + ".a" * 300_000 + " = 1\n" + LAYER, "it has keys of more than 20 dots"),
    "spaced dots": ("a" + " . a" * 100_000 + " = 1\n" + LAYER, "it has keys of more than 20 dots"),
    "a table of dots": (f"[symmetries{'.a' * 300_000}]\n", "it has keys of more than 20 dots"),
    "letters": ("a" * 1_000_000 + "\n" + LAYER, "is not TOML: "),
    "fewer dots": ("a" + ".a" * 19 + " = 1\n" + LAYER, "there is no table a; "),
    "twice": (LAYER + "sigma = 0.7", "is not TOML: "),
    "5,000 digits": (LAYER.replace("0.6", "6" * 5000), "is not TOML: "),
    "500 digits": (LAYER.replace("0.6", "6" * 500), "sigma is a number of more than 300 digits; "),
    "filters of 500 digits": (LAYER.replace("= 4", "= 4" + "0" * 500), "filters is a number of more than "),
    "filters": (LAYER.replace("= 4", "= 4" + "0" * 20), "filters is 4000"),
    "infinite": (LAYER.replace("0.6", "inf"), "sigma is inf; it must be a positive number, such as 0.6"),
    "no number": (LAYER.replace("0.6", "nan"), "sigma is nan; it must be a positive number"),
    "true": (LAYER.replace("0.6", "true"), "sigma is True; it must be a positive number"),
    "true filters": (LAYER.replace("= 4", "= true"), "filters is True; it must be a whole number"),
    "a date": (LAYER.replace("0.6", "1979-05-27"), r"sigma is datetime.date\(1979, 5, 27\); "),
    "a list": (LAYER.replace("0.6", "[0.6]"), r"sigma is \[0.6\]; it must be a positive number"),
    "a date for a name": (LAYER + "[classifier]\nname = 1979-05-27", "there is no classifier datetime.date"),
    "a terminal's words": (LAYER + '[classifier]\n"\\u001b[2J" = 1', r"no option \\x1b\[2J; it has"),
    "degree": (LAYER.replace("sigma = 0.6", "kernel='poly'\ndegree=1e300"), "degree is 1e\\+300; "),
    "preprocessing": ("preprocessing = 'zca'\n" + LAYER, r"preprocessing must be tables: \[\[prep"),
    "weights": (LAYER + "[classifier]\nname='kernel-ridge'\nweights=[true]", r"weights\[0\] is True; "),
    "kernel": (
        LAYER + "[classifier]\nname='kernel-ridge'\nkernel='foo'",
        "there is no kernel 'foo'; ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_refused(read, name):
    content, message = REFUSED[name]
    with pytest.raises(InvalidSpec, match=message) as refused:
        read(content)
    assert len(str(refused.value)) < 1000
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize("make", ["mkdir", "mkfifo", "endless", "null"])
def test_what_is_no_file_is_refused_at_once(tmp_path, make):
    path = tmp_path / "net.toml"
    if make == "endless":
        path = "/dev/zero"
    elif make == "null":
        path = "net\0.toml"
    else:
        getattr(os, make)(path)
    with pytest.raises(InvalidSpec, match="cannot read the configuration|expected the name of a file"):
        System.from_toml(path)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "net.toml"
    path.write_text(LAYER)
    os.truncate(path, 1 << 40)
    with pytest.raises(InvalidSpec, match=f"larger than the {MOST_BYTES:,} bytes"):
        System.from_toml(path)


def test_preprocessing_may_be_left_to_the_images(read):
    assert read("preprocessing = 'auto'\n" + LAYER).encoders[0].preprocessing is None
    assert read("preprocessing = []\n" + LAYER).encoders[0].preprocessing == ()
    assert read(LAYER, "exact").encoders[0].preprocessing == ()


@pytest.mark.parametrize("method", [None, "exact"])
def test_mutations_are_systems_or_refused(read, method):
    tokens = [
        "[",
        "]",
        "9" * 400,
        "inf",
        "nan",
        "true",
        '""',
        "1979-05-27",
        "{}",
        "[1]",
        "\0",
        "=",
        "\n",
        "0,6",
    ]
    pick = random.Random(0)
    for _ in range(400):
        parts = re.split(r"(\s+|[=\[\]{},])", WITH_ALL)
        for _ in range(pick.randint(1, 2)):
            parts[pick.randrange(len(parts))] = pick.choice(tokens if pick.random() < 0.7 else parts)
        with contextlib.suppress(CknError):
            read("".join(parts), method)
