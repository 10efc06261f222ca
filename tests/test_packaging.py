"""Installations from a wheel and editable ones: what lands in them."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import ckncuda

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
