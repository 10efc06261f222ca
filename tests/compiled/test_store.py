"""Machine code is only taken from files, and folders, that nobody else can write to."""

import os
import pickle
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ckncuda.compiled import store
from ckncuda.compiled.store import Folder

NAME = f"ckncuda-room.function-version-digest{store.ENDING}"

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="users and modes of POSIX")


class Intruder:
    """What runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path / "kept")
    made.write(NAME, pickle.dumps(Intruder(tmp_path / "intruded")))
    assert made.read(NAME) is not None
    return made


def by_another_user(folder, monkeypatch):
    ours = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: ours + 1)


def file_for_all(folder, monkeypatch):
    (folder.path / NAME).chmod(0o666)


def file_for_the_group(folder, monkeypatch):
    (folder.path / NAME).chmod(0o664)


def folder_for_all(folder, monkeypatch):
    folder.path.chmod(0o1777)


def folder_for_the_group(folder, monkeypatch):
    folder.path.chmod(0o770)


def folder_is_a_link(folder, monkeypatch):
    folder.path.rename(folder.path.with_name("elsewhere"))
    folder.path.symlink_to("elsewhere")


def file_is_a_link(folder, monkeypatch):
    elsewhere = folder.path.with_name("elsewhere")
    (folder.path / NAME).rename(elsewhere)
    (folder.path / NAME).symlink_to(elsewhere)


def file_is_a_pipe(folder, monkeypatch):
    (folder.path / NAME).unlink()
    os.mkfifo(folder.path / NAME)


def file_is_a_folder(folder, monkeypatch):
    (folder.path / NAME).unlink()
    (folder.path / NAME).mkdir()


ATTACKS = [
    *(by_another_user, file_for_all, file_for_the_group, folder_for_all, folder_for_the_group),
    *(folder_is_a_link, file_is_a_link, file_is_a_pipe, file_is_a_folder),
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_others_may_have_written_is_not_read(folder, monkeypatch, attack):
    attack(folder, monkeypatch)
    began = time.monotonic()
    assert folder.read(NAME) is None
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("attack", [by_another_user, folder_for_all, folder_for_the_group, folder_is_a_link])
def test_nothing_is_written_where_others_may_write(folder, monkeypatch, attack, listing):
    attack(folder, monkeypatch)
    before = listing(folder.path)
    with pytest.raises(PermissionError, match=r"another user|others may write|no folder"):
        folder.write("other", b"content")
    assert listing(folder.path) == before


def test_a_folder_that_is_made_is_its_users_alone(folder):
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert not (folder.path / NAME).stat().st_mode & store.OTHERS_WRITE


def test_beside_the_sources_those_are_trusted_who_installed_them(tmp_path, monkeypatch):
    sources = tmp_path / "sources"
    sources.mkdir()
    sources.chmod(0o775)
    folder = Folder(sources / "__pycache__", sources)
    folder.write(NAME, b"content")
    folder.path.chmod(0o775)
    by_another_user(folder, monkeypatch)
    assert folder.read(NAME) == b"content"  # the group may change the sources, too
    sources.chmod(0o755)
    assert folder.read(NAME) is None
    folder.path.chmod(0o755)
    assert folder.read(NAME) == b"content"


def test_folders_are_tried_in_turn(tmp_path, monkeypatch):
    """As in an installation that only root can write to, whose user has no home, or a full one."""
    places = [tmp_path / "not-a-folder", tmp_path / "for-all", tmp_path / "good"]
    places[0].write_text("")
    places[1].mkdir()
    places[1].chmod(0o777)
    monkeypatch.setattr(store, "folders", lambda: [Folder(place) for place in places])
    store.save(NAME, b"content", "version")
    assert store.load(NAME) == b"content"
    assert (places[2] / NAME).exists()
    assert store.is_kept("ckncuda-room.function-version-")
    assert not store.is_kept("ckncuda-room.function-other-")
    assert store.problem() is None
    monkeypatch.setattr(store, "folders", lambda: [Folder(place) for place in places[:2]])
    assert "for-all: others may write to it" in store.problem()


@pytest.mark.parametrize(
    ("variables", "last"),
    [
        ({}, "ckncuda-"),
        ({"HOME": "/dev/null/home"}, "ckncuda-"),
        ({"XDG_CACHE_HOME": "/caches"}, "ckncuda-"),
        ({"NUMBA_CACHE_DIR": "/of-numba"}, "ckncuda-"),
        ({"CKNCUDA_CPU_CACHE": "/mine"}, "mine"),
    ],
)
def test_where_it_is_kept(monkeypatch, variables, last):
    for name in ("CKNCUDA_CPU_CACHE", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = [str(folder.path) for folder in store.folders()]
    assert os.path.basename(found[-1]).startswith(last)
    assert (len(found) == 1) == ("CKNCUDA_CPU_CACHE" in variables)
    assert ("/caches/ckncuda" in found) == ("XDG_CACHE_HOME" in variables)
    assert (found[0] == "/of-numba/ckncuda") == ("NUMBA_CACHE_DIR" in variables)


def test_what_was_left_long_ago_is_removed(folder):
    old, long_ago = f"ckncuda-room.function-older-digest{store.ENDING}", time.time() - 2 * store.FORGOTTEN
    for name in (old, f"{old}.123.part", "of others"):
        (folder.path / name).write_bytes(b"")
        os.utime(folder.path / name, (long_ago, long_ago))
    os.utime(folder.path / NAME, (long_ago, long_ago))
    (folder.path / f"{NAME}.456.part").write_bytes(b"")  # which another process is writing
    folder.forget("version")
    assert {path.name for path in folder.path.iterdir()} == {NAME, f"{NAME}.456.part", "of others"}


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path, monkeypatch):
    """In a container every process may have the same number."""
    monkeypatch.setenv(store.VARIABLE, str(tmp_path))
    probe = f"ckncuda-probe.{os.getpid()}.part"
    for name in (NAME, probe):
        (tmp_path / f"{name}.{os.getpid()}.part").touch()
    assert store.problem() is None
    (folder,) = store.folders()
    folder.write(NAME, b"content")
    assert folder.read(NAME) == b"content"


def test_many_threads_may_ask_at_once_where_something_can_be_kept(tmp_path, monkeypatch):
    monkeypatch.setenv(store.VARIABLE, str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: store.problem(), range(400))) == {None}
    assert not list(tmp_path.iterdir())


def test_writers_with_one_number_do_not_meet(folder):
    """Threads have the number of their process, and processes of two containers may share one."""
    with ThreadPoolExecutor(8) as threads:
        for _ in threads.map(lambda n: folder.write(NAME, b"content %d" % (n % 3)), range(200)):
            assert folder.read(NAME).startswith(b"content ")
    assert [path.name for path in folder.path.iterdir()] == [NAME]


def test_what_another_is_writing_stays(folder, monkeypatch):
    """As in a second container, where our process has the same number."""
    others = folder.path / f"{NAME}.{os.getpid()}.part"
    others.write_bytes(b"half")
    folder.write(NAME, b"content")
    assert (folder.read(NAME), others.read_bytes()) == (b"content", b"half")
