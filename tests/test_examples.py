"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import ckncuda
import ckncuda.cli
from ckncuda.errors import NotInstalled


def modules():
    for package in (ckncuda, ckncuda.cli):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__"):  # importing it runs the command line
                yield module.name


@pytest.mark.parametrize("name", sorted(set(modules())))
def test_examples_of(name):
    try:
        module = importlib.import_module(name)
    except NotInstalled as error:  # of a room that is an extra's
        pytest.skip(str(error))
    failed, tried = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0
    assert tried or not name.startswith("ckncuda.data.") or hasattr(module, "__path__"), "no example"
