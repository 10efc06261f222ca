"""The page of results: every published number that can be run, ours beside it, from `ckn` processes.

    python bench/splits.py DATA SPLITS
    python bench/results.py DATA SPLITS                    all of it, then docs/results.md
    python bench/results.py DATA SPLITS --only challenge   one section anew; the others keep their figures

DATA and SPLITS are as `bench/splits.py` says. Figures are kept in bench/results/results.json, one entry a
row, and the page is written from them. At its end stands what `bench/supervised.py` has measured.
"""

import argparse
import json
import re
import shlex
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from challenge import machine, run

HERE = Path(__file__).parent
KEPT = HERE / "results" / "results.json"
PAGE = HERE.parent / "docs" / "results.md"
FURTHER = HERE / "results" / "supervised.md"  # which bench/supervised.py writes


@dataclass
class Row:
    """One system: a fit, what is predicted or evaluated then, and a second fit without the held-out images.

    ``{}`` in ``fit`` and ``evaluate`` runs over ``draws``, of which means are shown.
    """

    name: str
    fit: str  # arguments of `ckn fit`, but for -o
    predict: str = ""  # images for `ckn predict`
    evaluate: str = ""  # arguments of `ckn evaluate`, but for the model
    held_out: str = ""  # arguments of a `ckn fit` without the images that `evaluate` then takes
    draws: tuple[str, ...] = ("",)


@dataclass
class Section:
    """Systems that are compared with one another and with published ones."""

    key: str
    title: str
    prose: str
    published: tuple[tuple[str, str, str], ...]
    rows: list[Row]
    unit: str = "accuracy"


NETWORK = (
    "--flip --patches 100000 --layer filters=64,patch=3,subsampling=2,sigma=0.6 "
    "--layer filters=1024,patch=3,subsampling=6,sigma=0.6"
)  # of `fast`, but for decorrelation
CHALLENGE = "DATA/challenge/Xtr.csv --labels DATA/challenge/Ytr.csv"


def challenge_row(name, options):
    """Describe one system on the challenge's files, and without a fifth of its training images."""
    return Row(
        name,
        f"{CHALLENGE} {options}",
        predict="DATA/challenge/Xte.csv",
        held_out=f"SPLITS/challenge-4000.npz {options}",
        evaluate="SPLITS/challenge-1000.npz",
    )


def cifar_row(name, options, train="cifar-5000", other="cifar-5000-others"):
    """Describe one system on part of CIFAR-10."""
    return Row(name, f"SPLITS/{train}.npz {options}", evaluate=f"SPLITS/{other}.npz")


PRESETS = ("seed", "fast", "default", "best", "supervised", "chen5")
"""Names of rows that are code."""

EXACT = "--method exact --preprocess local_whitening"
"""Of the layers below, whose pooling is symmetric, so that mirror images cost twice and not four times."""


def exact_layers(kernel, *subsamplings):
    """Write the options of layers of 3x3 patches."""
    return " ".join(f"--layer patch=3,subsampling={s},alignment=centered,{kernel}" for s in subsamplings)


TWO = exact_layers("sigma=0.6", 2, 5)
RELU = exact_layers("kernel=arccos1", 2, 5)
WITH_ANCHORS = (
    "--preprocess local_whitening --classifier ridge "
    "--layer filters=256,patch=3,subsampling=2,alignment=centered,sigma=0.6 "
    "--layer filters=1024,patch=3,subsampling=5,alignment=centered,sigma=0.6"
)

SECTIONS = [
    Section(
        "challenge",
        "The data challenge",
        """5,000 CIFAR-10 images, whitened, and 2,000 to predict, whose labels are not public. Validation is
leave-one-out on the 5,000, which also chose λ, but for `seed` (below). The held-out images are
1,000 of the 5,000 that a second fit, on the other 4,000, has not seen: so few images leave a standard error
of 1.3 points, and 4,000 in place of 5,000 cost about one. Which networks the presets are was chosen by
leave-one-out on these images as well, among some twenty, so that a few tenths of the validation accuracy are
luck. Why it promises two points more than other images keep is in
[bench/results/gap.md](../bench/results/gap.md).""",
        (
            (
                "CKN from Scratch, winner of 2023-24",
                "0.685 public, 0.689 private",
                "24 h on CPUs",
            ),
            ("Chen et al., winner of 2016-17", "0.716 public, 0.713 cross-validation", "82,000 features"),
        ),
        [challenge_row(name, f"--preset {name}") for name in ("seed", "fast", "default", "best")],
    ),
    Section(
        "parts",
        "What each part of `fast` is worth",
        """The preset `fast` on the challenge's 5,000 training images without one of its parts, or with
another in its place. Differences below a point are within the noise of 5,000 images.""",
        (),
        [
            Row("without mirror images", f"{CHALLENGE} --preset fast --no-flip"),
            Row("without decorrelation", f"{CHALLENGE} {NETWORK} --classifier kernel-ridge --kernel arccos1"),
            Row("ridge in place of kernel ridge", f"{CHALLENGE} --preset fast --classifier ridge"),
            Row("no preprocessing", f"{CHALLENGE} --preset fast --preprocess none"),
            Row("local whitening in place of ZCA", f"{CHALLENGE} --preset fast --preprocess local_whitening"),
        ],
    ),
    Section(
        "cifar5000",
        "5,000 random CIFAR-10 images",
        """5,000 random CIFAR-10 training images as they are, and 5,000 others that no fit sees. The networks
of the presets were chosen by leave-one-out on the challenge's images; some of the images here were looked at,
too, in some ten comparisons.""",
        (),
        [cifar_row(name, f"--preset {name}") for name in ("fast", "default", "best")],
    ),
    Section(
        "cifar20000",
        "CIFAR-10: 18,000 images for training, 2,000 held out",
        """The published numbers are of all 50,000 training images and the test images; 20,000 training images
are what we have here, so these are no comparison, only the nearest that can be run. The features of
18,000 images and of their mirror images take a CKN in PyTorch 234 s on the same cores, at 154 images a
second with 256 and 1,024 filters, and ours 73 s, at 490 (bench/results/extract.md).""",
        (
            ("Chen, unsupervised, 64 and 256 filters, 50,000 images", "0.775", ""),
            ("Chen, unsupervised, 256 and 1,024 filters, 50,000 images", "0.820", ""),
            ("Chen, unsupervised, 512 and 8,192 filters, 50,000 images", "0.840", ""),
        ),
        [
            cifar_row(
                f"{first} and {last} filters, {what}",
                f"{options} --memory 8GiB --patches 100000 "
                f"--layer filters={first},patch=3,subsampling=2,sigma=0.6 "
                f"--layer filters={last},patch=3,subsampling=6,sigma=0.6,decorrelation=0.25",
                "cifar-18000",
                "cifar-2000",
            )
            for first, last, what, options in (
                (64, 256, "ridge", "--flip --classifier ridge"),
                (256, 1024, "ridge", "--flip --classifier ridge"),
                (256, 1024, "kernel ridge", "--flip --classifier kernel-ridge --kernel arccos1"),
            )
        ],
    ),
    Section(
        "exact",
        "Exact kernels on 1,000 CIFAR-10 images",
        """1,000 random CIFAR-10 training images and 1,000 others, whose standard error is 1.6 points. The
exact kernel of two layers (`--method exact`) with ridge regression on it and nothing else, without and with
mirror images; the network that approximates it with 256 and 1,024 anchor points, also with ridge; and two
presets, which have more: decorrelation, mirror images and another kernel on top. Alignment and preprocessing
of the exact kernel were chosen by leave-one-out on 512 images, some of these 1,000 but none of the others.
Times of this section and the next were taken while other work shared the cores. Going by what a pair takes
undisturbed ([bench/results/exact_speed.md](../bench/results/exact_speed.md)), those of exact kernels are too
long by a factor of up to two and a half.""",
        (),
        [
            cifar_row(name, options, "cifar-1000", "cifar-1000-others")
            for name, options in (
                ("exact, exp 2-5", f"{EXACT} {TWO}"),
                ("exact, exp 2-5, mirror images", f"{EXACT} {TWO} --flip"),
                ("256 and 1,024 anchor points, exp 2-5, ridge", WITH_ANCHORS),
                ("the same, mirror images", f"{WITH_ANCHORS} --flip"),
                ("fast", "--preset fast"),
                ("default", "--preset default"),
            )
        ],
    ),
    Section(
        "exact512",
        "Kinds of exact kernels on 512 CIFAR-10 images",
        """Leave-one-out alone, whose standard error is 2.2 points on so few images. `valid` is the alignment
of published programs for exact kernels.""",
        (),
        [
            Row(name, f"SPLITS/cifar-512.npz {options}")
            for name, options in (
                ("exp 2-5", f"{EXACT} {TWO}"),
                ("exp 2-5, aligned `valid`", f"{EXACT} {TWO.replace('centered', 'valid')}"),
                ("exp 2-2-2", f"{EXACT} {exact_layers('sigma=0.6', 2, 2, 2)}"),
                ("ReLU (arccos1) 2-5", f"{EXACT} {RELU}"),
                ("neural tangent, 2-5", f"{EXACT} {RELU} --tangent"),
                ("exp 2-5, 256 and 1,024 anchor points, ridge", WITH_ANCHORS),
            )
        ],
    ),
    Section(
        "mnist",
        "MNIST",
        """Trained on the 60,000 training images, error on the 10,000 test images; then on 300 labelled images
alone, the mean of five draws. The network was chosen by
leave-one-out on training images; test errors of some six others were seen on the way.""",
        (("Mairal et al. 2014, CKN, 60,000 images", "0.39 % error", ""),),
        [
            Row("mnist, 60,000 images", "DATA/mnist --preset mnist", evaluate="DATA/mnist --split test"),
            Row(
                "mnist, 300 images",
                "SPLITS/mnist-300-{}.npz --preset mnist",
                evaluate="DATA/mnist --split test",
                draws=("0", "1", "2", "3", "4"),
            ),
        ],
        unit="error",
    ),
]


def measured(row, places):
    """Run a row's commands and return its figures."""

    def arguments(text, draw=""):
        text = text.replace("{}", draw)
        for name, place in places.items():
            text = text.replace(name, str(place))
        return shlex.split(text)

    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / "model.ckn"
        fits, accuracies = [], []
        for draw in row.draws:
            fits.append(run("fit", *arguments(row.fit, draw), "-o", model))
            figures["model_bytes"] = model.stat().st_size
            if row.predict:
                _, seconds, memory = run(
                    "predict", model, *arguments(row.predict), "-o", Path(temporary) / "y.csv"
                )
                figures |= {"predict": seconds, "predict_memory": memory}
            if row.held_out:
                run("fit", *arguments(row.held_out, draw), "-o", model)
            if row.evaluate:
                evaluated, seconds, _ = run("evaluate", model, *arguments(row.evaluate, draw))
                accuracies.append(evaluated["accuracy"])
                figures |= {"evaluate": seconds, "n_evaluated": evaluated["n"]}
    figures |= {
        "fit": statistics.mean(seconds for _, seconds, _ in fits),
        "memory": max(memory for _, _, memory in fits),
        "machine": machine(),
        "validation_accuracy": _mean([result["validation_accuracy"] for result, _, _ in fits]),
        "validation": fits[0][0]["validation"],
        "seconds": fits[0][0]["seconds"],
        "accuracy": _mean(accuracies) if accuracies else None,
        "accuracies": accuracies,
    }
    return figures


def _mean(values):
    return None if None in values else statistics.mean(values)


def page(kept, further=FURTHER):
    """Return the whole page as Markdown, with further tables at its end, a level lower."""
    machines = list(dict.fromkeys(figures["machine"] for figures in kept["rows"].values()))
    lines = [
        "# Results",
        "",
        "Made by `bench/results.py`, which runs the commands below one after another, each in its own",
        f"process, on {', '.join(machines)}. Seconds are those of whole processes, reading files included;",
        "memory is the most of any of them. DATA holds the data sets as users have them, SPLITS what",
        "`python bench/splits.py DATA SPLITS` makes of them.",
    ]
    for section in SECTIONS:
        lines += section_lines(section, kept)
    if further.exists():
        lines += ["", re.sub("^#", "##", further.read_text().rstrip(), flags=re.MULTILINE)]
    return "\n".join(lines) + "\n"


def section_lines(section, kept):
    """Return a section as lines of Markdown: what is published, what was measured, and the commands."""
    lines = ["", f"## {section.title}", "", section.prose, ""]
    if section.published:
        lines += ["| published | " + section.unit + " | remarks |", "|---|---|---|"]
        lines += [f"| {who} | {number} | {remark} |" for who, number, remark in section.published]
        lines.append("")
    keys = {row.name: key_of(section, row) for row in section.rows}
    known = [(row, kept["rows"][keys[row.name]]) for row in section.rows if keys[row.name] in kept["rows"]]
    is_trained = any("training" in f.get("seconds", {}) for _, f in known)
    columns = [
        "ours",
        f"validation {section.unit}",
        f"{section.unit} on held-out images",
        "fit, s",
        *(["training alone, s"] if is_trained else []),
        "predict or evaluate, s",
        "peak memory, MiB",
        "model file, MB",
    ]
    lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row, f in known:
        training = f.get("seconds", {}).get("training")
        cells = [
            f"`{row.name}`" if row.name in PRESETS else row.name,
            _shown(f["validation_accuracy"], section.unit),
            f"{_shown(f['accuracy'], section.unit)} ({f['n_evaluated']:,} images)" if row.evaluate else "",
            f"{f['fit']:.0f}",
            *(["" if training is None else f"{training:.0f}"] if is_trained else []),
            f"{f.get('predict', f['evaluate']):.0f}" if row.evaluate else "",
            f"{f['memory']:,.0f}",
            f"{f['model_bytes'] / 1e6:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "How each validation figure was obtained, and the commands:", ""]
    for row, f in known:
        lines += [f"- **{row.name}**: {f['validation']}.", "", "  ```", f"  ckn fit {row.fit} -o model.ckn"]
        if row.predict:
            lines.append(f"  ckn predict model.ckn {row.predict} -o submission.csv")
        if row.held_out:
            lines.append(f"  ckn fit {row.held_out} -o held-out.ckn")
        if row.evaluate:
            lines.append(f"  ckn evaluate {'held-out' if row.held_out else 'model'}.ckn {row.evaluate}")
        lines += ["  ```", ""]
    while not lines[-1]:
        lines.pop()
    return lines


def key_of(section, row):
    """Return the name under which a row's figures are kept."""
    return f"{section.key}: {row.name}"


def _shown(accuracy, unit):
    if accuracy is None:
        return "not measured"
    return f"{100 * (1 - accuracy):.2f} %" if unit == "error" else f"{accuracy:.4f}"


def main():
    """Measure what is asked for and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("splits", type=Path)
    parser.add_argument("--only", nargs="*", help="keys of sections, or names of rows, to measure anew")
    arguments = parser.parse_args()
    places = {"DATA": arguments.data.resolve(), "SPLITS": arguments.splits.resolve()}
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {"rows": {}}
    for section in SECTIONS:
        for row in section.rows:
            key = key_of(section, row)
            if arguments.only is None or {section.key, row.name, key} & set(arguments.only):
                kept["rows"][key] = measured(row, places)
                print(key, json.dumps(kept["rows"][key]), flush=True)
                KEPT.write_text(json.dumps(kept, indent=1) + "\n")
                PAGE.write_text(page(kept))
    PAGE.write_text(page(kept))


if __name__ == "__main__":
    main()
