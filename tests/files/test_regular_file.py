"""Only regular files are opened, within a bound."""

import os
import socket
import time

import pytest

from ckncuda.errors import InvalidData
from ckncuda.files.regular_file import open_regular, read_within


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


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "a")
