from pathlib import Path

import numpy as np
import pytest

import ckncuda

CONFIG = """
layers = [
    { filters = 4, patch = 3, subsampling = 2, kernel = "exp", sigma = 0.6 },
    { filters = 6, patch = 2, subsampling = 1, kernel = "poly", degree = 2 },
]
preprocessing = [{ name = "standardize" }]
classifier = { name = "squared-hinge", regularization = 0.01 }
"""


def test_fit_reports_on_one_json_object(works, data, tiny, tmp_path, adds_up):
    done = works("fit", data.csv, "--labels", data.labels_csv, "-o", "m.ckn", *tiny, "--json")
    result = done.told
    expected = {"model": "m.ckn", "n_images": 40, "n_features": 6 * 6 * 4, "backend": "numpy"}
    assert result | expected == result
    assert 0.5 < result["validation_accuracy"] <= 1
    assert "leave-one-out over 40 images" in result["validation"]
    assert 30e6 < result["peak_memory"] < 2e9  # bytes
    stages = ["reading", "preprocessing", "anchors", "features", "classifier", "writing", "total"]
    assert list(result["seconds"]) == stages
    adds_up(result["seconds"])
    assert "Fitting on challenge CSV Xtr.csv, 40 images of 12x12x3" in done.stderr
    assert ckncuda.load(tmp_path / "m.ckn").n_features == result["n_features"]


def test_fit_says_the_same_to_people(works, data, tiny):
    lines = works("fit", data.npz, "-o", "m.ckn", *tiny).stdout.splitlines()
    assert lines[0].startswith("validation accuracy ")
    assert "144 features an image" in lines[1]
    assert "peak memory" in lines[2]
    assert lines[-1] == "wrote m.ckn"


def test_fit_tells_people_on_a_terminal_without_a_lambda(works, data, tiny):
    done = works("fit", data.npz, "-o", "m.ckn", *tiny, env={"PYTHONIOENCODING": "latin-1"})
    assert "wrote m.ckn" in done.stdout


@pytest.mark.parametrize(
    "options",
    [
        ("--classifier", "ridge", "--regularization", "0.01"),
        ("--classifier", "softmax"),
        ("--classifier", "softmax", "--optimizer", "sgd", "--regularization", "0.01"),
        ("--classifier", "squared-hinge", "--validation", "0.25"),
    ],
    ids=lambda options: "-".join(options[1::2]),
)
def test_fit_with_each_classifier(works, data, tiny, tmp_path, options):
    result = works("fit", data.npz, "-o", "m.ckn", *tiny, *options, "--json").told
    assert result["validation_accuracy"] > 0.25  # which is chance
    if "--validation" in options:
        assert "10 images held out of 40" in result["validation"]
    if "--regularization" in options:
        assert result["regularization"] == 0.01
        assert "was given" in result["validation"]
    fitted = ckncuda.load(tmp_path / "m.ckn")
    assert np.mean(fitted.predict(data.images) == data.labels) > 0.5


@pytest.mark.parametrize("options", [("--classifier", "none"), ()], ids=["asked for", "said"])
def test_fit_without_classifier_needs_no_labels(works, data, tiny, tmp_path, options):
    done = works("fit", data.npy, "-o", "m.ckn", *tiny, *options, "--json")
    assert "validation_accuracy" not in done.told
    assert ("No labels" in done.stderr) == (options == ())
    assert ckncuda.load(tmp_path / "m.ckn").classifier is None


def test_fit_reads_a_configuration(works, data, tmp_path):
    (tmp_path / "net.toml").write_text(CONFIG)
    works("fit", data.npz, "-o", "m.ckn", "--config", "net.toml", "--patches", "500")
    fitted = ckncuda.load(tmp_path / "m.ckn")
    assert [spec.filters for spec in fitted.network.specs] == [4, 6]
    assert fitted.network.specs[1].kernel == ckncuda.Polynomial(degree=2)
    assert [p.name for p in fitted.encoders[0].preprocessing] == ["standardize"]
    assert fitted.report["regularization"] == 0.01
    assert fitted.classifier is not None


def test_fit_options_override_the_configuration(works, data, tmp_path):
    (tmp_path / "net.toml").write_text(CONFIG)
    options = ("--config", "net.toml", "--patches", "500", "--preprocess", "none", "--classifier", "none")
    works("fit", data.npz, "-o", "m.ckn", *options)
    fitted = ckncuda.load(tmp_path / "m.ckn")
    assert fitted.encoders[0].preprocessing == ()
    assert fitted.classifier is None


def test_fit_stacks_layers_and_preprocessing(works, data, layer, tmp_path):
    layers = ("--layer", layer, "--layer", "filters=5,patch=2,subsampling=3,kernel=linear")
    preprocessing = ("--preprocess", "standardize", "--preprocess", "zca,epsilon=0.3")
    works("fit", data.npz, "-o", "m.ckn", *layers, *preprocessing, "--patches", "500")
    fitted = ckncuda.load(tmp_path / "m.ckn")
    assert fitted.network.output_shape((12, 12, 3)) == (2, 2, 5)
    steps = [{"name": "standardize"}, {"name": "zca", "epsilon": 0.3}]
    assert [p.to_dict() for p in fitted.encoders[0].preprocessing] == steps


def test_fit_twice_with_a_seed_gives_the_same_bytes(works, data, tiny, tmp_path):
    files = []
    for seed in (5, 5, 6):
        works("fit", data.npz, "-o", "m.ckn", *tiny, "--seed", seed, "--classifier", "softmax")
        files.append((tmp_path / "m.ckn").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_fit_replaces_the_model_that_stood_there(works, data, tiny, tmp_path):
    (tmp_path / "m.ckn").write_bytes(b"old")
    works("fit", data.npy, "-o", "m.ckn", *tiny)
    assert ckncuda.load(tmp_path / "m.ckn").n_features == 144
    assert [path.name for path in tmp_path.iterdir()] == ["m.ckn"]


def test_fit_measures_its_own_memory_not_that_of_its_parent(works, data, tiny):
    ballast = np.ones(500 << 17)  # 500 MiB, touched: a child's getrusage starts from what its parent held
    result = works("fit", data.npy, "-o", "m.ckn", *tiny, "--json", process=True).told
    assert result["peak_memory"] < ballast.nbytes


LAYERS = [ckncuda.LayerSpec(filters=4, patch=3, subsampling=4, kernel=ckncuda.Exponential(sigma=0.6))]
EXACT = ckncuda.ExactKernel([ckncuda.KernelLayer(3, 4, ckncuda.Exponential(sigma=0.6))], flip=True)
TEXT = "patch=3,subsampling=4,sigma=0.6"
TWO_ENCODERS = (
    "[[encoders]]\nlayers = [{ filters = 4, patch = 3, subsampling = 4, sigma = 0.6 }]\n"
    "[[encoders]]\nlayers = [{ filters = 4, patch = 2, subsampling = 3, sigma = 0.6 }]\n"
    "preprocessing = [{ name = 'standardize' }]\n[classifier]\nname = 'kernel-ridge'\n"
)
EXACT_FILE = "flip = true\n[[layers]]\npatch = 3\nsubsampling = 2\nsigma = 0.6\n"


def of_file(text):
    """A system of a file in the folder of the test."""
    Path("net.toml").write_text(text)
    return ckncuda.System.from_toml("net.toml")


# What is typed -> what a program writes for it
WAYS = {
    "nothing": ((), lambda x, y: ckncuda.fit(x, y)),
    "a preset": (("--preset", "fast"), lambda x, y: ckncuda.fit(x, y, "fast")),
    "a preset and a seed": (
        ("--preset", "mnist", "--seed", "5"),
        lambda x, y: ckncuda.fit(x, y, preset="mnist", seed=5),
    ),
    "layers": (
        ("--layer", f"filters=4,{TEXT}"),
        lambda x, y: ckncuda.fit(x, y, system=ckncuda.System([ckncuda.EncoderSpec(LAYERS)])),
    ),
    "layers, by Model.fit": (
        ("--layer", f"filters=4,{TEXT}"),
        lambda x, y: ckncuda.Model.fit(x, y, [ckncuda.EncoderSpec(LAYERS)], classifier=ckncuda.Ridge()),
    ),
    "a file": (
        ("--config", "net.toml"),
        lambda x, y: ckncuda.fit(x, y, system=of_file(TWO_ENCODERS)),
    ),
    "an exact kernel": (
        ("--method", "exact", "--flip", "--layer", TEXT),
        lambda x, y: ckncuda.fit(x, y, system=ckncuda.System([ckncuda.ExactEncoderSpec(EXACT)])),
    ),
    "a file of an exact kernel": (
        ("--method", "exact", "--config", "net.toml"),
        lambda x, y: ckncuda.fit(x, y, system=of_file(EXACT_FILE)),
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_python_fits_the_same_model_file_as_the_command_line(works, data, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    options, fit = WAYS[name]
    fit(data.images, data.labels).save("python.ckn")
    works("fit", data.npz, "-o", "m.ckn", *options)
    assert Path("python.ckn").read_bytes() == Path("m.ckn").read_bytes()
