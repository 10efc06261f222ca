"""Functions that Numba compiles, and how their machine code is kept for other processes."""

import ast
import functools
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("numba")

from ckncuda.compiled import functions, store
from ckncuda.compiled.functions import compiled

SMALL = """
from ckncuda.compiled.functions import compiled

@compiled
def double(x):
    return 2 * x

assert double(21) == 42
print(sum(double.stats.cache_hits.values()), sum(double.stats.cache_misses.values()))
"""


def double(x):
    return 2 * x


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def comes_from():
    """Tell where the machine code of a function comes from that is defined anew."""
    function = compiled(double)
    assert function(21) == 42
    assert not isinstance(function(21), float)
    return "kept" if function.stats.cache_hits else "compiled"


def test_another_process_need_not_compile(tmp_path):
    (tmp_path / "small.py").write_text(SMALL)
    run = [sys.executable, tmp_path / "small.py"]
    assert [subprocess.check_output(run, text=True) for _ in range(2)] == ["0 1\n", "1 0\n"]


def test_what_was_compiled_of_other_sources_is_not_used(monkeypatch):
    """Else an upgrade of other files than the function's own would go on with the old machine code."""
    assert [comes_from(), comes_from()] == ["compiled", "kept"]
    monkeypatch.setattr(functions, "digest_of_sources", lambda: "others")
    functions.version.cache_clear()
    assert [comes_from(), comes_from()] == ["compiled", "kept"]
    monkeypatch.undo()
    functions.version.cache_clear()


def test_signatures_are_kept_apart(folder):
    function = compiled(double)
    assert (function(21), function(1.5)) == (42, 3.0)
    assert len(list(folder.iterdir())) == 2
    again = compiled(double)
    assert (again(1.5), again(21)) == (3.0, 42)
    assert not again.stats.cache_misses


def test_constants_that_a_function_encloses_are_kept_apart():
    def times(factor):
        @compiled
        def product(x):
            return factor * x

        return product

    assert [times(factor)(7) for factor in (2, 3, 2)] == [14, 21, 14]


def test_the_digest_is_of_every_file_that_may_be_inlined(tmp_path, monkeypatch):
    for folder in functions.PACKAGE.rglob("compiled"):
        assert folder.relative_to(functions.PACKAGE).as_posix() in functions.SOURCES
    files = [tmp_path / (name if name.endswith(".py") else f"{name}/a.py") for name in functions.SOURCES]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a = 1\n")
    monkeypatch.setattr(functions, "PACKAGE", tmp_path)
    digest = functions.digest_of_sources.__wrapped__
    seen = {digest()}
    for file in files:
        file.write_text("a = 2\n")
        seen.add(digest())
    assert len(seen) == 1 + len(files)


DAMAGES = {
    "empty": lambda content: b"",
    "cut in the digest": lambda content: content[:40],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "cut at the end": lambda content: content[:-1],
    "more behind it": lambda content: content + b"more",
    "garbage": lambda content: b"\x80\x05garbage" * 100,
    "one bit of the code": lambda content: content[:-2000] + bytes([content[-2000] ^ 1]) + content[-1999:],
    "of Numba itself": lambda content: content[content.index(b"\x80") :],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_compiled_anew_and_replaced(folder, damage):
    comes_from()
    (file,) = folder.iterdir()
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert [comes_from(), comes_from()] == ["compiled", "kept"]


def test_code_that_no_longer_fits_numba_is_compiled_anew(monkeypatch):
    comes_from()
    monkeypatch.setattr(functions.pickle, "loads", lambda content: ("no", "such", "parts"))
    assert comes_from() == "compiled"


def test_compiling_is_announced_only_where_nothing_is_kept(monkeypatch, caplog):
    caplog.set_level("INFO", "ckncuda")
    monkeypatch.setattr(functions, "_announce_compilation", functions._announce_compilation.__wrapped__)
    functions.announce.__wrapped__(compiled(double))
    assert "Compiling the inner loops with Numba" in caplog.text
    caplog.clear()
    comes_from()
    functions.announce.__wrapped__(compiled(double))
    assert not caplog.records


def test_compiling_is_announced_once_by_threads_that_meet_it_at_once(monkeypatch):
    said, both = [], threading.Barrier(2)

    def say(message):
        said.append(message)
        time.sleep(0.2)  # the other thread is in the midst of it

    monkeypatch.setattr(functions.logging.getLogger("ckncuda"), "info", say)
    anew = functools.cache(functions._announce_compilation.__wrapped__)
    monkeypatch.setattr(functions, "_announce_compilation", anew)

    def compile_another(function):
        both.wait()
        functions.announce.__wrapped__(compiled(function))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_another, [lambda x: x + 1, lambda x: x + 2]))
    assert len(said) == 1


@pytest.mark.parametrize("place", ["/dev/null/kept", "a file"])
def test_without_a_place_to_keep_it_functions_are_compiled_and_that_is_said_once(
    monkeypatch, caplog, tmp_path, place
):
    (tmp_path / "a file").write_text("in the way")
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / place))
    monkeypatch.setattr(store, "_say_not_kept", store._say_not_kept)
    store._say_not_kept.cache_clear()
    assert [comes_from(), comes_from()] == ["compiled", "compiled"]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert store.VARIABLE in record.getMessage()
    assert place in record.getMessage()


def test_the_digest_is_of_all_that_becomes_a_part_of_machine_code():
    """A number of another file is a constant there: as that file changes, all is to be compiled anew."""
    part = [path for name in functions.SOURCES for path in sorted_sources(functions.PACKAGE / name)]
    for path in part:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ckncuda."):
                numbers = [alias.name for alias in node.names if alias.name.isupper()]
                source = functions.PACKAGE.joinpath(*node.module.split(".")[1:])
                known = {source.with_suffix(".py"), source / "__init__.py"} & set(part)
                assert known or not numbers, f"{path.name} takes {numbers} from {node.module}"


def sorted_sources(path):
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]
