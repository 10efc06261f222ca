"""Small files that would take gigabytes, or minutes: each is refused within two seconds and 256 MiB."""

import os
import subprocess
import sys
from pathlib import Path

import bombs
import pytest

from ckncuda.data import open_images, read_labels
from ckncuda.data.cifar import CifarSource
from ckncuda.data.idx import IdxSource
from ckncuda.data.numpy_files import NpySource, NpzSource
from ckncuda.errors import InvalidData

READERS = {
    "npy": NpySource,
    "npz": NpzSource,
    "idx": IdxSource,
    "cifar": CifarSource,
    "labels": lambda path: read_labels(path, 3),
}
pytest.importorskip("resource", reason="tells what a process has taken; not on Windows")


def test_bombs_are_refused_before_they_go_off(tmp_path):
    names = bombs.make(tmp_path)
    command = [sys.executable, bombs.__file__, *(str(tmp_path / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    told = [line.split("\t") for line in done.stdout.splitlines()]
    assert [name for _, _, name, _ in told] == names
    taken = [line for line in told if float(line[0]) > 2 or float(line[1]) > 256 or line[3] == "nothing"]
    assert not taken, "\n".join(map(str, taken))


def test_labels_as_many_as_images_may_still_be_a_trap(tmp_path):
    (tmp_path / "y.npz").write_bytes(bombs.archive(bombs.member(b"labels.npy", (1 << 26,), descr="<i8")))
    with pytest.raises(InvalidData, match=r"array 'labels' of 67108864 takes 512 MiB once unpacked.* a trap"):
        read_labels(tmp_path / "y.npz", 1 << 26)


def test_more_than_any_packing_holds_is_refused_as_it_is_opened(tmp_path):
    name, packed, _, checksum = bombs.member(b"images.npy", (10**6, 64, 64, 3), 100)
    announced = 10**6 * 64 * 64 * 3 + len(bombs.header((10**6, 64, 64, 3)))
    (tmp_path / "x.npz").write_bytes(bombs.archive((name, packed, announced, checksum)))
    with pytest.raises(InvalidData, match=rf"header announces {announced:,} bytes, [\d,]+ are there at most"):
        NpzSource(tmp_path / "x.npz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes among files here")
@pytest.mark.parametrize("format", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path, format, kind):
    path = tmp_path / "data_batch_1"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(InvalidData, match=f"is a {kind}, not a file"):
        READERS[format](path)


def test_a_pipe_in_a_folder_of_batches_is_no_batch(tmp_path):
    os.mkfifo(tmp_path / "data_batch_1")
    with pytest.raises(InvalidData, match="no CIFAR batches|no images"):
        open_images(tmp_path, format="cifar")
    assert Path(tmp_path / "data_batch_1").exists()
