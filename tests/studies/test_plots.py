"""Pictures of what studies find are drawn by nobody else's style."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("matplotlib", reason="matplotlib, the extra `search`, is not installed")

DRAW = """
import sys
from ckncuda.studies.plots import draw_search
from ckncuda.studies.search.leaderboard import Row
draw_search([Row(0, 0.9, 1.0, 8, "a system", None)], 60, sys.argv[1])
"""


@pytest.mark.skipif(os.name == "nt", reason="programs of POSIX")
@pytest.mark.parametrize(
    "style", ["text.usetex: True", "text.usetex: True\ntext.latex.preamble: \\input{x}", "figure.dpi: 9"]
)
def test_a_style_in_the_current_folder_is_not_taken(tmp_path, style):
    """It may be anybody's folder, and has a program run: LaTeX."""
    here, programs = tmp_path / "here", tmp_path / "programs"
    here.mkdir()
    programs.mkdir()
    for name in ("latex", "dvipng", "kpsewhich", "dvips"):
        (programs / name).write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\nexit 1\n")
        (programs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    pictures = []
    for content in ("", style):
        (here / "matplotlibrc").write_text(content)
        command = [sys.executable, "-c", DRAW, str(tmp_path / "x.png")]
        subprocess.run(command, cwd=here, env=environment, check=True, timeout=120, capture_output=True)
        pictures.append((tmp_path / "x.png").read_bytes())
    assert not (tmp_path / "ran").exists()
    assert pictures[0] == pictures[1]
