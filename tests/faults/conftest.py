"""What the commands of `faults.commands` read, made once; and folders to run them in."""

import shutil

import pytest
from faults.commands import COMMANDS, NEEDS, TO_MAKE, write_arrays
from nursery import Nursery


@pytest.fixture(scope="session")
def bare_nursery():
    """A nursery without Numba: its children start quickly, and no cache decides how long they take."""
    for package in ("zarr", "optuna", "matplotlib"):
        pytest.importorskip(package)
    made = Nursery(without=["numba"])
    yield made
    made.close()


@pytest.fixture(scope="session")
def inputs(bare_nursery, tmp_path_factory):
    """A folder with all inputs, and what stood at an output before."""
    folder = tmp_path_factory.mktemp("inputs")
    write_arrays(folder)
    for arguments in TO_MAKE:
        done = bare_nursery.run("nursery:call_ckn", *arguments, cwd=folder)
        assert done.status == 0, done.stderr
    return folder


@pytest.fixture
def prepared(inputs, tmp_path):
    """Make a folder in which a command can run."""

    def prepare(name, place):
        for package in NEEDS.get(name, ()):
            pytest.importorskip(package)
        command, folder = COMMANDS[name], tmp_path / place
        folder.mkdir()
        for path in inputs.iterdir():
            if path.is_file():
                (folder / path.name).hardlink_to(path)
        for output, old in command.before.items():
            source = inputs / old
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / output)
        return command, folder

    return prepare
