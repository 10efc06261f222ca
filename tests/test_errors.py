"""Guards around other people's code let Ctrl-C through."""

import pytest

from ckncuda import compiled
from ckncuda.backend.cupy import availability
from ckncuda.errors import import_failure, pass_on_interruption

PACKAGE = """
class Interrupted:
    def __set_name__(self, owner, name):
        raise KeyboardInterrupt


class Holder:
    attribute = Interrupted()
"""


@pytest.fixture
def interrupted_package(tmp_path, monkeypatch):
    """A package whose import meets Ctrl-C in the middle of a class."""
    (tmp_path / "interrupted_package.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "interrupted_package"


def test_an_import_that_is_interrupted_is_no_refusal(interrupted_package):
    with pytest.raises(KeyboardInterrupt):
        import_failure(interrupted_package, "Package", "fast")


def test_our_own_module_that_is_interrupted_is_no_refusal(interrupted_package, monkeypatch):
    monkeypatch.setattr(compiled, "why_not_compiled", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        compiled.why_not_importable.__wrapped__(interrupted_package)


def test_a_gpu_that_is_looked_for_when_ctrl_c_comes():
    def look():
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt):
        availability._refusal(look)


def test_other_errors_are_left_to_the_guard():
    error = ValueError("damaged")
    error.__cause__ = OSError("disk")
    pass_on_interruption(error)
