"""Only regular files are opened, within a bound."""

import os
import socket
import time

import numpy as np
import pytest

from ckncuda.errors import InvalidData
from ckncuda.files.regular_file import open_regular, read_into, read_within


def test_the_content_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert open_regular(tmp_path / "b").read() == read_within(tmp_path / "a", 3) == b"abc"


def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.mkdir("folder")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        begin = time.monotonic()
        for path, what in [("pipe", "a pipe"), ("folder", "a folder"), ("/dev/zero", "a device")]:
            with pytest.raises(InvalidData, match=f"{path} is {what}, not a file"):
                open_regular(path)
        with pytest.raises((InvalidData, OSError)):
            open_regular("socket")
    assert time.monotonic() - begin < 1


def test_a_link_where_none_is_followed(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(InvalidData, match="b is a link"):
        read_within(tmp_path / "b", 3, follow=False)


def test_a_larger_file_than_may_be(tmp_path):
    (tmp_path / "a").write_bytes(b"abcd")
    with pytest.raises(InvalidData, match=r"larger than the 3 bytes"):
        read_within(tmp_path / "a", 3)


def test_as_much_memory_as_the_file_is_large(tmp_path, peak_memory):
    (tmp_path / "a").write_bytes(b"abcd")
    with peak_memory() as peak:
        read_within(tmp_path / "a", 1 << 30)
    assert peak() < 1 << 20
    os.truncate(tmp_path / "a", 1 << 40)  # a hole
    with peak_memory() as peak, pytest.raises(InvalidData, match="larger than the 1,073,741,824 bytes"):
        read_within(tmp_path / "a", 1 << 30)
    assert peak() < 1 << 20


@pytest.mark.parametrize("length", [0, 5, 7])
def test_a_file_that_shrinks_while_it_is_read(tmp_path, length):
    (tmp_path / "a").write_bytes(bytes(range(8)))
    numbers = np.empty(2, "<u4")
    with open_regular(tmp_path / "a") as file:
        read_into(file, numbers, 0)
        np.testing.assert_array_equal(numbers, [0x03020100, 0x07060504])
        os.truncate(tmp_path / "a", length)
        with pytest.raises(InvalidData, match="a has become shorter while it was read"):
            read_into(file, numbers, 0)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "a")
