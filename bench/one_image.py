"""CPU time of one image at a time, as documented and with a backend that the caller keeps.

    python bench/one_image.py [--rounds 20]

Calls take turns, so that a machine whose speed drifts treats them alike; the median counts.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

import ckncuda
from ckncuda.backend import get_backend

OUTPUT = Path(__file__).parent / "results" / "one_image.md"
SHAPE, IMAGES = (32, 32, 3), 300


def models():
    """Models by name, and what is asked of each."""
    rng, labels = np.random.default_rng(0), np.arange(IMAGES) % 10
    images = rng.normal(size=(IMAGES, *SHAPE)).astype(np.float32) + 0.1 * labels[:, None, None, None]
    kernel = ckncuda.Exponential(sigma=0.6)
    small = [ckncuda.LayerSpec(filters=64, patch=3, subsampling=4, kernel=kernel)]
    deep = [
        ckncuda.LayerSpec(filters=filters, patch=3, subsampling=s, kernel=kernel)
        for filters, s in ((64, 2), (256, 6))
    ]
    how = {"patches": 20_000}
    ridge = ckncuda.Ridge(1e-3)
    yield (
        "64 filters, ridge",
        ckncuda.Model.fit(images, labels, [ckncuda.EncoderSpec(small)], classifier=ridge, **how),
    )
    yield (
        "64 and 256 filters, features alone",
        ckncuda.Model.fit(images, None, [ckncuda.EncoderSpec(deep)], **how),
    )
    for preset in ("fast", "default"):
        yield f"preset {preset}", ckncuda.fit(images, labels, preset)


def measured(call, image, rounds):
    """Return milliseconds of CPU of a call: as documented, with one backend, with a new one each time."""
    kept = get_backend("auto")
    ways = [
        lambda: call(image),
        lambda: call(image, backend=kept),
        lambda: call(image, backend=get_backend()),
    ]
    seconds = [[], [], []]
    for turn in range(rounds + 2):
        for way, took in zip(ways, seconds, strict=True):
            time.sleep(0.1)  # until threads of BLAS, which wait by turning, have had enough of another way
            started = time.process_time()
            way()
            if turn > 1:  # what is made once, and compiled, has been
                took.append(time.process_time() - started)
    return [1e3 * statistics.median(took) for took in seconds]


def main():
    """Measure all, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    image = np.random.default_rng(1).normal(size=(1, *SHAPE)).astype(np.float32)
    rows = []
    for name, model in models():
        ours, best, anew = measured(
            model.features if model.classifier is None else model.predict, image, rounds
        )
        rows.append(f"| {name} | {ours:.1f} | {best:.1f} | {ours / best:.2f} | {anew:.1f} |")
        print(rows[-1], flush=True)
    OUTPUT.write_text(
        "# One image at a time\n\n"
        f"Made by `python bench/one_image.py`, medians of {rounds} turns: milliseconds of CPU for one\n"
        "image of 32x32x3 by `model.predict(image)` (`model.features` where there is no classifier), with a\n"
        "backend that the caller keeps, and with one that is made for each call, as all did before.\n\n"
        "| model | as documented | backend kept | ratio | backend made anew |\n|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
