"""Instructions of the kernels of the way back: loops in what a disassembler prints, and their budget."""

import importlib
from pathlib import Path

import nvrtc
import pytest

BENCH = Path(__file__).parents[2] / "bench" / "gpu"
# Instructions of each loop on Hopper, a fifth above what they are; loops as `gpu_counts.KERNELS` has them.
BUDGET = {
    ("extract_patches", 1): (80, 41, 16, 9),
    ("extract_patches", 4): (80, 43, 21, 9),
    ("encode_backward", 1): (101, 50, 27, 11, 11),
    ("encode_backward", 4): (126, 83, 26, 16, 11),
    ("fold_patches", 1): (16, 42, 29, 41),
    ("fold_patches", 4): (20, 51, 27, 47),
}
TEXT = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @P3 EXIT ;
.L_x_1:
        /*0020*/                   LDG.E R2, desc[UR4][R4.64] ;
        /*0030*/                   IADD3 R3, R3, 0x1, RZ ;
.L_x_2:
        /*0040*/                   LDG.E.128 R8, desc[UR4][R4.64] ;
        /*0050*/                   FFMA R9, R8, R8, R9 ;
        /*0060*/              @!P0 BRA `(.L_x_2) ;
        /*0070*/               @P2 BRA `(.L_x_4) ;
        /*0080*/                   FADD R9, R9, R2 ;
.L_x_4:
        /*0090*/               @P1 BRA `(.L_x_1) ;
        /*00a0*/                   EXIT ;
.L_x_5:
        /*00b0*/                   WARPSYNC.COLLECTIVE R4, `(.L_x_6) ;
        /*00c0*/                   BRA `(.L_x_1) ;
"""


@pytest.fixture
def counts(monkeypatch):
    if not BENCH.exists():
        pytest.skip("bench/gpu/ is not beside these tests")
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("gpu_counts")


def test_loops_are_found(counts):
    """With what is in them alone; a branch forward is none, and what follows the end does not count."""
    loops, rest = counts.found_in(TEXT)
    assert loops == [counts.Loop(1, 5, 1), counts.Loop(2, 3, 1)]
    assert rest == 3


@pytest.mark.parametrize(("operation", "vector"), BUDGET)
def test_kernels_of_the_way_back_are_within_the_budget(counts, operation, vector):
    if nvrtc.library() is None or counts.disassembler() is None:
        pytest.skip("nvidia-cuda-nvrtc or nvidia-cuda-nvdisasm is not installed")
    found = counts.counted(operation, vector)
    assert list(found) == ["run", *counts.KERNELS[operation]]
    for (name, loop), most in zip(list(found.items())[1:], BUDGET[operation, vector], strict=True):
        assert loop.instructions <= most, f"{name}: {loop}"


def test_every_step_has_an_estimate(counts, monkeypatch):
    """Its bytes and FLOP are those of the definition."""
    spec = counts.LayerSpec(filters=8, patch=3, subsampling=2, kernel=counts.Exponential(sigma=0.6))
    steps = counts.steps_of(spec, (10, 10, 4), first=False)
    assert steps["products"] == (4 * 100 * (36 + 8), 2 * 100 * 8 * 36, "")
    assert steps["κ"] == (4 * (2 * 100 * 8 + 25 * 8), 0, "encode_backward")
    assert "fold" not in counts.steps_of(spec, (10, 10, 4), first=True)
    passes = counts.trips("encode_backward", spec, (10, 10, 4))
    assert passes["filters"] == 100 * 2  # four at once
    assert passes["pooled column"] == pytest.approx(200 * 2.5**2)
    loop = counts.Loop(1, 1000, 0)
    monkeypatch.setattr(counts, "counted", lambda *_: dict.fromkeys(["position"], loop))
    assert counts.seconds(spec, (10, 10, 4), True)["κ"] == 1000 * passes["position"] / counts.INSTRUCTIONS
