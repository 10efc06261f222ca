"""End-to-end training beside learning without labels, from `ckn` processes: accuracy, seconds, memory.

    python bench/splits.py DATA SPLITS --index FILE.npz
    python bench/supervised.py DATA SPLITS                  all that is not measured yet
    python bench/supervised.py DATA SPLITS --only a c       sections, or rows by their names
    python bench/supervised.py --rehearse OUT               the same on a few random images, into OUT

DATA and SPLITS are as `bench/splits.py` says. One row is measured after the other, each in processes of its
own, and kept at once in bench/results/supervised.json: the same command goes on where it ended. A row is
measured anew once it is taken out of that file. The tables go to bench/results/supervised.md and, by way of
`bench/results.py`, to docs/results.md.
"""

import argparse
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from results import KEPT, PAGE, Row, Section, challenge_row, cifar_row, key_of, measured, page, section_lines

HERE = Path(__file__).parent
RESULTS = HERE / "results"

KERNEL_RIDGE = "--kernel arccos1"
SMALL = " ".join(
    ["--preprocess local_whitening --flip --patches 100000"]
    + [f"--layer filters={filters},patch=3,subsampling=2,sigma=0.6" for filters in (64, 64, 128)]
)
TRAINED = "--end-to-end --epochs 30 --augment flip,crop=4"
WIDE = (
    "--memory 8GiB --flip --patches 100000 --layer filters=256,patch=3,subsampling=2,sigma=0.6 "
    "--layer filters=1024,patch=3,subsampling=6,sigma=0.6,decorrelation=0.25"
)  # as in results.py
BOTH = "--config BENCH/default_and_supervised.toml --patches 100000"
DIGITS = " ".join(
    ["--preprocess none --patches 100000"]
    + [f"--layer filters={filters},patch=3,subsampling=2,sigma=0.6" for filters in (32, 64)]
)
LANDMARKS = "nystrom-ridge --kernel arccos1"
SYSTEMS = {
    "default": "--preset default",
    "best": "--preset best",
    "supervised": "--preset supervised",
    "default and supervised in one model": BOTH,
}

SECTIONS = [
    Section(
        "a",
        "One network, with and without labels: 5,000 raw images of the challenge",
        """The 5,000 CIFAR-10 images whose whitened forms are the challenge's, as they are, and 4,000 others,
of CIFAR-10's second batch, which no fit sees: a standard error of 0.7 points. The network has 64, 64 and
128 filters in every row. What is fitted on its features is said in the name.""",
        (),
        [
            Row(name, f"SPLITS/challenge-raw-5000.npz {options}", evaluate="SPLITS/challenge-raw-others.npz")
            for name, options in (
                ("without labels, ridge", f"{SMALL} --classifier ridge"),
                ("without labels, kernel ridge", f"{SMALL} --classifier kernel-ridge {KERNEL_RIDGE}"),
                ("trained 30 epochs, its own linear classifier", f"{SMALL} {TRAINED} --after none"),
                ("trained 30 epochs, kernel ridge", f"{SMALL} {TRAINED} --after kernel-ridge {KERNEL_RIDGE}"),
            )
        ],
    ),
    Section(
        "b",
        "The preset `supervised` beside others: 5,000 random CIFAR-10 images",
        """The same 5,000 images and 5,000 others as above; a standard error of 0.6 points. The last row has
the encoders of two presets.""",
        (),
        [cifar_row(name, options) for name, options in SYSTEMS.items()],
    ),
    Section(
        "b-challenge",
        "The preset `supervised` beside others: the data challenge",
        """Whitened images. Validation is of a fit on all 5,000; the held-out images are 1,000 of them that a
second fit, on the other 4,000, has not seen, with a standard error of 1.3 points.""",
        (),
        [challenge_row(name, options) for name, options in SYSTEMS.items()],
    ),
    Section(
        "c",
        "CIFAR-10: 18,000 images for training, 2,000 held out",
        """The published number is of all 50,000 training images and of the epoch that was best on the test
images. Here the 2,000 images choose nothing; their standard error is 0.8 points.""",
        (("Chen, CKN-5, trained on 50,000 images", "0.861", "the best epoch on the test images"),),
        [
            cifar_row(name, options, "cifar-18000", "cifar-2000")
            for name, options in (
                (
                    "256 and 1024 filters without labels, kernel ridge",
                    f"{WIDE} --classifier kernel-ridge {KERNEL_RIDGE}",
                ),
                ("supervised", "--memory 8GiB --preset supervised"),
                ("chen5", "--memory 8GiB --preset chen5"),
            )
        ],
    ),
    Section(
        "d",
        "MNIST, 60,000 images",
        """Error on the 10,000 test images, which chose nothing. On each network stands kernel ridge
regression whose solution 8,000 images span.""",
        (("Mairal et al. 2014, CKN, 60,000 images", "0.39 % error", "without labels"),),
        [
            Row(name, f"DATA/mnist {options}", evaluate="DATA/mnist --split test")
            for name, options in (
                ("preset mnist, 64 and 1,024 filters", "--preset mnist"),
                ("32 and 64 filters without labels", f"{DIGITS} --classifier {LANDMARKS}"),
                (
                    "32 and 64 filters trained 5 epochs",
                    f"{DIGITS} --end-to-end --epochs 5 --after {LANDMARKS}",
                ),
            )
        ],
        unit="error",
    ),
]


def tables(kept):
    """Return all that was measured as Markdown; sections of which nothing was are left out."""
    machines = list(dict.fromkeys(figures["machine"] for figures in kept["rows"].values()))
    lines = [
        "# Training end to end",
        "",
        "Made by `bench/supervised.py`, which runs the commands below one after another, each in its own",
        f"process, on {', '.join(machines)}. Seconds are those of whole processes, reading files",
        "included, and of the training in them; memory is the most of any of them. BENCH is the folder",
        "bench/; DATA holds the data sets as users have them, SPLITS what",
        "`python bench/splits.py DATA SPLITS --index FILE.npz` makes of them.",
    ]
    for section in SECTIONS:
        if any(key_of(section, row) in kept["rows"] for row in section.rows):
            lines += section_lines(section, kept)
    return "\n".join(lines) + "\n"


def shorter(row):
    """Return a row of one epoch."""
    trained = any(words in row.fit for words in ("--end-to-end", "supervised", "chen5"))
    more = " --epochs 1" if trained else ""
    return replace(row, fit=row.fit + more, held_out=row.held_out and row.held_out + more)


def write_random_images(out):
    """Write a few random images under the names of all files of the rows; return DATA and SPLITS."""
    rows = [row for section in SECTIONS for row in section.rows]
    texts = " ".join(f"{row.fit} {row.held_out} {row.evaluate}" for row in rows)
    data, splits = out / "data", out / "splits"
    for folder in (splits, data / "challenge", data / "mnist"):
        folder.mkdir(parents=True, exist_ok=True)
    random, labels = np.random.default_rng(0), np.arange(24) % 4
    colour, grey = (
        (random.integers(0, 120, (24, *shape)) + 30 * labels.reshape(-1, *(1,) * len(shape))).astype(np.uint8)
        for shape in ((32, 32, 3), (28, 28))
    )
    for name in set(re.findall(r"SPLITS/(\S+)", texts)):
        np.savez(splits / name, images=colour, labels=labels)
    planes = colour.transpose(0, 3, 1, 2).reshape(24, -1) / 255 - 0.5
    for name in ("Xtr.csv", "Xte.csv"):
        np.savetxt(data / "challenge" / name, planes, "%.4g", ",")
    np.savetxt(
        data / "challenge" / "Ytr.csv",
        np.stack([np.arange(1, 25), labels], axis=1),
        "%d",
        ",",
        header="Id,Prediction",
        comments="",
    )
    for part in ("train", "t10k"):
        for kind, array in (("images", grey), ("labels", labels.astype(np.uint8))):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (data / "mnist" / f"{part}-{kind}-idx{array.ndim}-ubyte").write_bytes(head + array.tobytes())
    return data, splits


def wanted(only):
    """Return the sections and rows that are asked for, all of them by default."""
    rows = [(section, row) for section in SECTIONS for row in section.rows]

    def names_of(section, row):
        return {section.key, section.key[0], row.name, key_of(section, row)}

    names = set().union(*(names_of(section, row) for section, row in rows))
    if unknown := set(only or ()) - names:
        raise SystemExit(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(sorted(names))}")
    return [(section, row) for section, row in rows if only is None or names_of(section, row) & set(only)]


def main():
    """Measure what is asked for and not yet known, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("splits", type=Path, nargs="?")
    parser.add_argument("--only", nargs="+", help="keys of sections, or names of rows")
    parser.add_argument("--rehearse", type=Path, metavar="OUT", help="one epoch on random images")
    arguments = parser.parse_args()
    asked = wanted(arguments.only)
    if arguments.rehearse is not None:
        out, the_page = arguments.rehearse, arguments.rehearse / "results-page.md"
        places = write_random_images(out)
        asked = [(section, shorter(row)) for section, row in asked]
    elif arguments.splits is None:
        parser.error("give DATA and SPLITS, or --rehearse OUT")
    else:
        out, the_page, places = RESULTS, PAGE, (arguments.data, arguments.splits)
    data, splits = (place.resolve() for place in places)
    figures, table = out / "supervised.json", out / "supervised.md"
    kept = json.loads(figures.read_text()) if figures.exists() else {"rows": {}}
    for section, row in asked:
        key = key_of(section, row)
        if key in kept["rows"]:
            continue
        kept["rows"][key] = measured(row, {"DATA": data, "SPLITS": splits, "BENCH": HERE})
        print(key, json.dumps(kept["rows"][key]), flush=True)
        written = figures.with_suffix(".new")
        written.write_text(json.dumps(kept, indent=1) + "\n")
        os.replace(written, figures)
    table.write_text(tables(kept))
    the_page.write_text(page(json.loads(KEPT.read_text()), table))


if __name__ == "__main__":
    main()
