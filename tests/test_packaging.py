"""Installations from a wheel and editable ones: what lands in them."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import ckncuda
from ckncuda.errors import installing

ROOT = Path(__file__).parents[1]
SOURCES = {"ckncuda": "ckncuda", "cli": "ckncuda/cli", "kernels": "ckncuda/kernels"}


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, text=True, timeout=300, **options
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that no build folder is left in the checkout."""
    copy = tmp_path_factory.mktemp("source") / "ckncuda"
    copy.mkdir()
    for name in (*SOURCES, "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, copy / name, ignore=ignored) if source.is_dir() else shutil.copy(source, copy)
    out = tmp_path_factory.mktemp("wheel")
    run("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", out, copy)
    return next(out.glob("*.whl"))


def test_a_wheel_holds_every_source_file_in_its_place(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for top, place in SOURCES.items():
        for path in (ROOT / top).rglob("*"):
            if path.suffix in (".py", ".cu", ".cuh", ".h", ".typed"):
                assert f"{place}/{path.relative_to(ROOT / top).as_posix()}" in names


def test_a_wheel_puts_nothing_but_ckncuda_into_site_packages(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ckncuda"}


def test_an_installed_wheel_runs(wheel, tmp_path):
    site = tmp_path / "site"
    run("-m", "pip", "install", "--no-deps", "-q", "--target", site, wheel)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        # An editable install of the same package would answer first.
        "sys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in repr(f)]\n"
        "import ckncuda, ckncuda.kernels\n"
        "from ckncuda.cli.main import main\n"
        f"assert ckncuda.__file__.startswith({str(site)!r}), ckncuda.__file__\n"
        "sys.argv = ['ckn', '--version']; main()\n"
    )
    assert run("-c", code, cwd=tmp_path).stdout.startswith("ckn, version ")


def test_this_installation_offers_no_module_called_cli_or_kernels(tmp_path):
    code = (
        "import importlib.util as u\n"
        "assert u.find_spec('ckncuda.cli') and u.find_spec('ckncuda.kernels')\n"
        "assert u.find_spec('cli') is None and u.find_spec('kernels') is None\n"
    )
    run("-c", code, cwd=tmp_path)


def test_the_version_is_stated_once_more_and_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == ckncuda.__version__


def bounds():
    """The least version of each package that pyproject.toml names, but for those of GPUs, style and types."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    texts = list(project["dependencies"])
    for name in set(extras) - {"cuda13", "cuda12", "lint"}:
        texts += extras[name]
    found = (re.match(r"([\w-]+)(?:\[[^]]*\])?>=([\d.]+)", text) for text in texts)
    return {match[1]: match[2] for match in found if match}


def test_the_lowest_versions_that_are_tested_are_those_that_are_admitted():
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    admitted = bounds()
    assert set(tested) == set(admitted)
    for name, version in admitted.items():  # 1.11 is 1.11.1 where the first of a series cannot be had
        lowest = version if "." in version else f"{version}.0"  # 8 is not 8.4
        assert f"{tested[name]}.".startswith(f"{lowest}."), f"{name}: {tested[name]} is not {version}"


def test_versions_that_are_known_to_work_are_admitted():
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, _, known = line.partition("==")
        lowest = {key.lower(): value for key, value in bounds().items()}.get(name.lower())
        if lowest is not None:
            assert [int(n) for n in known.split(".")[:2]] >= [int(n) for n in lowest.split(".")[:2]], name


def test_messages_advise_what_can_be_installed(monkeypatch):
    """Extras of the name ckncuda are nobody's yet on PyPI, and may be anybody's."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, packages in extras["optional-dependencies"].items():
        command = installing(extra)
        assert command.startswith("pip install '")
        for package in packages:
            name = re.match(r"[\w-]+", package)[0]
            assert name == "ckncuda" or name.lower() in command.lower()
    gone = importlib.metadata.PackageNotFoundError("ckncuda")
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: (_ for _ in ()).throw(gone))
    assert installing("fast") == "pip install '.[fast]' in ckncuda's folder"
