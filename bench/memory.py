"""Peak memory of each command above that of the smallest job, beside the --memory it was given.

    python bench/memory.py [--images 1500]

Each run is a process of its own, between two of which nothing is kept; what it takes at most is what the
system counts (getrusage), so that this runs where Python has the module resource.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

MEMORIES = (64, 128, 256, 512)  # MiB
LAYER = ("--layer", "filters=64,patch=3,subsampling=4,kernel=exp,sigma=0.6")
TINY = ("--layer", "filters=8,patch=3,subsampling=8,kernel=exp,sigma=0.6", "--patches", "200")
ONE = ("--layer", "patch=3,subsampling=8,kernel=exp,sigma=0.6")
FIT = ("--patches", "20000")
OUTPUT = Path(__file__).parent / "results" / "memory.md"

# A child's peak begins with that of its parent, hence a small parent between this process and it.
PARENT = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(folder, *arguments):
    """Return the exit code of a command, the last line but one that it said, and its peak in MiB."""
    import subprocess

    ckn = [sys.executable, "-m", "ckncuda.cli", *arguments]
    small = [sys.executable, "-I", "-S", "-c", PARENT, *ckn]
    done = subprocess.run(small, cwd=folder, capture_output=True, text=True, check=False, env=os.environ)
    *said, peak = done.stderr.splitlines()
    return done.returncode, said[-1] if said else "", int(peak) / 2**20


def write_images(folder, n):
    """Write labelled images of 32x32x3, few and many."""
    rng, labels = np.random.default_rng(0), np.arange(n) % 10
    images = (rng.normal(size=(n, 32, 32, 3)) * 40 + 128 + 4 * labels[:, None, None, None]).clip(0, 255)
    images = images.astype(np.uint8)
    np.savez(folder / "many.npz", images=images, labels=labels)
    np.savez(folder / "few.npz", images=images[:40], labels=labels[:40])
    np.savez(folder / "some.npz", images=images[:300], labels=labels[:300])


def jobs():
    """Pairs of a name and what to run: the smallest such job, and the one that is measured."""
    search = ("--trials", "2", "--hold-out", "0", "--time", "300s")
    return {
        "fit, 64 filters, ridge": (
            ("fit", "few.npz", "-o", "few.ckn", *TINY),
            ("fit", "many.npz", "-o", "ridge.ckn", *LAYER, *FIT),
        ),
        "fit, 64 filters, kernel ridge": (
            ("fit", "few.npz", "-o", "few.ckn", *TINY),
            ("fit", "many.npz", "-o", "kernel.ckn", *LAYER, *FIT, "--classifier", "kernel-ridge"),
        ),
        "fit, preset fast": (
            ("fit", "few.npz", "-o", "few.ckn", *TINY),
            ("fit", "some.npz", "-o", "fast.ckn", "--preset", "fast"),
        ),
        "predict": (
            ("predict", "few.ckn", "few.npz", "-o", "few.csv"),
            ("predict", "whole.ckn", "many.npz", "-o", "many.csv"),
        ),
        "extract": (
            ("extract", "few.ckn", "few.npz", "-o", "few.npy"),
            ("extract", "whole.ckn", "many.npz", "-o", "many.npy"),
        ),
        "gram": (
            ("gram", "few.npz", "-o", "few-gram.npy", "--preprocess", "none", *ONE),
            ("gram", "some.npz", "-o", "gram.npy", *ONE),
        ),
        "search": (
            ("search", "few.npz", "-o", "few-best.ckn", *search),
            ("search", "some.npz", "-o", "best.ckn", *search),
        ),
    }


def main():
    """Measure all, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--only", help="jobs whose name holds this; prints, and writes no table")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, options.images)
        for job in ("few", "whole"):
            layer = TINY if job == "few" else (*LAYER, *FIT)
            source = "few.npz" if job == "few" else "some.npz"
            run(folder, "fit", source, "-o", f"{job}.ckn", *layer)
        for title, (smallest, job) in jobs().items():
            if options.only and options.only not in title:
                continue
            code, said, base = run(folder, *smallest)
            if code:
                raise SystemExit(f"{title}: {said}")
            for memory in MEMORIES:
                for left in folder.glob("*.search/*"):
                    left.unlink()
                for left in folder.glob("gram.npy*"):
                    left.unlink() if left.is_file() else None
                code, said, peak = run(folder, *job, "--memory", f"{memory}MiB")
                above = f"{peak - base:.0f}" if code == 0 else "refused"
                rows.append(f"| {title} | {memory} | {base:.0f} | {above} |")
                print(rows[-1], "" if code == 0 else said, flush=True)
    if not options.only:
        OUTPUT.write_text(
            "# Peak memory beside --memory\n\n"
            f"Made by `python bench/memory.py`, {options.images:,} images of 32x32x3 (300 for the preset,\n"
            "the Gram matrix and the search).  The base is the peak of the smallest such job.  Refused: the\n"
            "command said before its work how much it needs.\n\n"
            "| command | --memory, MiB | base, MiB | peak above the base, MiB |\n|---|---|---|---|\n"
            + "\n".join(rows)
            + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
