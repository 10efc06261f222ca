"""The room of PyTorch where there is no PyTorch, or one that does not import."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("sys.modules['torch'] = None", "ckncuda.torch needs PyTorch; install it with: pip install '"),
        (
            "sys.path.insert(0, 'broken')",
            "ckncuda.torch needs PyTorch; torch is installed but does not import",
        ),
    ],
)
def test_what_is_missing_is_said(state, said, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise OSError('libtorch.so')\n")
    program = f"""
import sys
import ckncuda
from ckncuda.errors import NotInstalled
ckncuda.CKN, ckncuda.import_chen
assert "torch" not in sys.modules
{state}
try:
    import ckncuda.torch
except NotInstalled as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.stdout.startswith(said), (done.stdout, done.stderr)
