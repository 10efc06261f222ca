"""Nothing that leaves the command line is obeyed by a terminal; and streams that are lost."""

import ast
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ckncuda.cli
from ckncuda import load
from ckncuda.cli import output
from ckncuda.cli.progress import ProgressBars, ProgressLines

OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
RED, TITLE, C1, BIDI = "\x1b[31m", "\x1b]0;owned\x07", "\x9b31m", "\u202egnp.\u202c"
NAMES = [
    f"cat{RED}",
    f"cat{TITLE}",
    f"cat{C1}",
    f"cat{BIDI}",
    "cat\nError: all is lost",
    "cat\r\x7f\x08\u2028",
]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="files of such names cannot be made")


@pytest.fixture
def said(ckn, tmp_path):
    """Run `ckn`; return its lines, in which nothing may be obeyed."""

    def run(*arguments, **options):
        done = ckn(*arguments, cwd=tmp_path, **options)
        assert not OBEYED.search(done.stdout + done.stderr), ascii(done.stdout + done.stderr)
        return (done.stdout + done.stderr).splitlines()

    return run


def folder_of_images(folder, classes, rng):
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.mark.parametrize("name", NAMES)
def test_names_of_classes(said, tmp_path, rng, tiny, name):
    folder_of_images(tmp_path / "photos", [name, "dog"], rng)
    options = tiny[: tiny.index("--image-shape")]
    said("fit", "photos", "-o", "m.ckn", *options)
    shown = [line for line in said("info", "m.ckn") if "dog" in line]
    assert len(shown) == 1
    assert ascii(name)[1:-1] in shown[0] or name.isprintable()
    assert json.loads("".join(said("info", "m.ckn", "--json")))["class_names"] == [name, "dog"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files(said, tmp_path, rng, data, model, name):
    folder_of_images(tmp_path / "photos", ["cat"], rng)
    (tmp_path / "photos" / "cat" / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"damaged")
    (tmp_path / f"{name}.ckn").write_bytes(model.read_bytes())
    (tmp_path / f"{name}.csv").write_text("Id,Prediction\n1,2,3\n")
    (tmp_path / f"{name}.toml").write_text("layers =")
    for arguments in (
        ("fit", "photos", "-o", "m.ckn"),
        ("info", f"{name}.npy"),
        ("fit", data.npz, "-o", f"{name}/m.ckn"),
        ("extract", f"{name}.ckn", data.npy, "-o", f"{name}.npy"),
        ("extract", f"{name}.ckn", f"nowhere-{name}", "-o", f"{name}.npy"),
        ("fit", data.npy, "--labels", f"{name}.csv", "-o", "m.ckn"),
        ("fit", data.npz, "--config", f"{name}.toml", "-o", "m.ckn"),
    ):
        lines = said(*arguments)
        assert not [line for line in lines if line.startswith("Error: all")]


@pytest.mark.parametrize("name", NAMES)
def test_what_files_hold(said, tmp_path, data, model, name):
    quoted = json.dumps(name)
    (tmp_path / "net.toml").write_text(f"{quoted} = 1\n[[layers]]\n{quoted} = {quoted}\n")
    (tmp_path / "y.csv").write_bytes(f"Id,Prediction\n1,{name}\n".encode())
    (tmp_path / "x.csv").write_bytes(f"1,{name},3\n".encode())
    reported = load(model)
    reported.report = dict(reported.report) | {name: name}
    reported.save(tmp_path / "reported.ckn")
    said("fit", data.npz, "--config", "net.toml", "-o", "m.ckn")
    said("fit", data.npy, "--labels", "y.csv", "-o", "m.ckn")
    said("fit", "x.csv", "--image-shape", "1x3x1", "-o", "m.ckn")
    assert len([line for line in said("info", "reported.ckn") if line.startswith("cat")]) == 1


@pytest.mark.parametrize("name", NAMES)
def test_arguments(said, name, data):
    for arguments in (
        (name,),
        ("fit", f"--{name}"),
        ("fit", data.npz, "-o", "m.ckn", "--preset", name),
        ("fit", data.npz, "-o", "m.ckn", "--memory", name),
        ("fit", data.npz, "-o", "m.ckn", "--layer", name),
        ("fit", data.npz, "-o", "m.ckn", "--layer", f"{name}={name}"),
        ("gram", data.npz, "-o", name),
        ("extract", "m.ckn", data.npz, "-o", "f.npy", "--backend", "auto", name),
        ("predict", "m.ckn", data.npz, "-o", "p.csv", "--scores", name),
    ):
        assert said(*arguments)
    assert said("info", "m.ckn", env={"CKNCUDA_BACKEND": name})


TELL = """
import logging, sys, threading, warnings
from ckncuda.cli import output
output.take_over()
name = {name!r}
logging.getLogger("ckncuda").info("a record of %s", name)
logging.getLogger("of.others").warning("another of %s", name)
warnings.warn("a warning of " + name)
output.say("a line of " + name)
output.show(["a result of " + name])
print("a print of", name)
print("printed of", name, file=sys.stderr)
thread = threading.Thread(target=lambda: 1 / 0, name=name)
thread.start(); thread.join()
raise ValueError("a bug with " + name)
"""


def test_records_warnings_lines_and_tracebacks():
    """Those that others print, too."""
    for name in NAMES:
        command = [sys.executable, "-c", TELL.format(name=name)]
        done = subprocess.run(command, capture_output=True, check=False)
        text = (done.stdout + done.stderr).decode()
        assert not OBEYED.search(text), ascii(text)
        assert text.count("cat") >= 8
        if "\n" in name:  # records, warnings, lines, results: prints of others may have several lines
            assert text.count("cat\\nError: all is lost") == 5


def test_progress(monkeypatch, capfd):
    class Terminal:
        written = ""

        def isatty(self):
            return True

        def write(self, text):
            self.written += text

        def flush(self):
            pass

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", output.ShownStream(terminal, needed=False))
    monkeypatch.setattr("ckncuda.cli.progress.DELAY", 0)
    with ProgressBars() as bars:
        bars(f"features of cat{RED}", 1, 3)
        bars(f"features of cat{RED}", 2, 3)
        bars.say(f"chosen: {TITLE}")
    assert "features of cat\\x1b[31m:  33%" in terminal.written
    assert RED not in terminal.written
    assert TITLE not in terminal.written
    assert "\r" in terminal.written  # of the bar itself
    ProgressLines(0).say(f"stage {RED}")
    assert RED not in terminal.written


def test_every_command_leaves_through_the_exit():
    """Nothing is printed past it."""
    for path in Path(ckncuda.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "click.echo", "click.secho", "echo"), (
                    f"{path.name}:{node.lineno}"
                )


@pytest.fixture
def closed(tmp_path, data, tiny):
    """Run a `ckn` of a shell, whose redirections are its own; return its exit status and what it said."""

    def run(*arguments, redirected):
        words = [sys.executable, "-m", "ckncuda.cli", *map(str, arguments)]
        command = " ".join(f"'{word}'" for word in words) + f" {redirected}"
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        return done

    return run


@pytest.mark.parametrize(
    ("redirected", "status"),
    [
        ("2>&-", 0),
        (">&-", 0),
        ("<&-", 0),
        ("<&- >&- 2>&-", 0),
        ("2>/dev/full", 0),
        (">/dev/full", 2),
        (">/dev/full 2>/dev/full", 2),
        ("| true; exit ${PIPESTATUS[0]}", 1),
    ],
)
def test_a_stream_that_is_lost_loses_no_model(closed, data, tiny, tmp_path, redirected, status):
    if "/dev/full" in redirected and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    if "true" in redirected:
        redirected = f"--json {redirected}"
    done = closed("fit", data.npz, "-o", "m.ckn", *tiny[:4], "--preprocess", "none", redirected=redirected)
    assert load(tmp_path / "m.ckn").classifier is not None
    assert done.returncode in (status, 0 if "true" in redirected else status), done.stderr
    if redirected == ">/dev/full":
        assert "Error: cannot write to standard output: No space left" in done.stderr


@pytest.mark.parametrize("redirected", ["2>&-", ">&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_refusal_is_one_whatever_stream_is_lost(closed, redirected):
    assert closed("info", "nowhere.ckn", redirected=redirected).returncode == 2


def test_handlers_of_others_stay(monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [logging.NullHandler()])
    output.take_over()
    assert isinstance(root.handlers[0], logging.NullHandler)
