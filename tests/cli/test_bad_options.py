"""Options that cannot be, or cannot be with these images."""

import importlib.util

import pytest

from ckncuda.backend.cupy import why_unavailable

LAYER = "filters=4,patch=3,subsampling=2,kernel=exp"


@pytest.fixture
def fit_refused(refused, data):
    """Fit with these options; it must be refused with these words."""
    return lambda *options, words, **run: refused(
        "fit", data.npz, "-o", "m.ckn", *options, words=words, **run
    )


LAYERS = {
    "large-patch": ("filters=4,patch=13,subsampling=2,sigma=1", ["layer 1", "patch of 13x13", "of 12x12"]),
    "large-subsampling": ("filters=4,patch=3,subsampling=13,sigma=1", ["layer 1", "of 13", "12x12"]),
    "many-filters": ("filters=9999,patch=3,subsampling=2,sigma=1", ["9999 filters", "500 patches"]),
    "unknown-name": (f"{LAYER},sigma=1,stride=2", ["no option 'stride'", "subsampling"]),
    "no-value": (f"{LAYER},sigma", ["'sigma'", "name=value"]),
    "twice": (f"{LAYER},sigma=1,sigma=2", ["sigma is given twice"]),
    "missing": ("filters=4,patch=3,sigma=1", ["a layer needs subsampling"]),
    "unknown-kernel": ("filters=4,patch=3,subsampling=2,kernel=rbf", ["no kernel 'rbf'", "exp", "poly"]),
    "no-number": ("filters=many,patch=3,subsampling=2,sigma=1", ["'many'", "whole number"]),
    "zero": ("filters=0,patch=3,subsampling=2,sigma=1", ["filters is 0", "at least 1"]),
    "sigma": (f"{LAYER},sigma=-1", ["sigma is -1", "positive"]),
    "sigma-text": (f"{LAYER},sigma=wide", ["sigma"]),
    "padding": (f"{LAYER},sigma=1,padding=same", ["'same'", "zero, valid"]),
    "degree": ("filters=4,patch=3,subsampling=2,kernel=poly,degree=two", ["degree is 'two'", "whole number"]),
    "coefficients": (
        "filters=4,patch=3,subsampling=2,kernel=series,coefficients=a:b",
        ["coefficients[0] is 'a'", "numbers"],
    ),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers_that_cannot_be(fit_refused, case):
    layer, words = LAYERS[case]
    fit_refused("--layer", layer, "--patches", "500", words=words)


def test_second_layer_that_does_not_fit_the_first_is_named(fit_refused, layer):
    second = "filters=4,patch=7,subsampling=2,sigma=1"
    fit_refused("--layer", layer, "--layer", second, words=["layer 2", "patch of 7x7", "6x6"])


CONFIGS = {  # tests/model/test_system.py looks at every word of these and of others
    "no-toml": ("layers =", ["net.toml is not TOML"]),
    "option": ("[[layers]]\nfilters=4\npatch=3\nsubsampling=2\nsigma=1\nstride=1", ["'stride'"]),
    "weights": (
        "[[layers]]\nfilters=4\npatch=3\nsubsampling=2\nsigma=1\n"
        "[classifier]\nname='kernel-ridge'\nweights=[1,2]",
        ["2 weights were given for 1 encoders"],
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations_that_cannot_be(fit_refused, tmp_path, case):
    text, words = CONFIGS[case]
    (tmp_path / "net.toml").write_text(text)
    fit_refused("--config", "net.toml", "--patches", "500", words=words)


def test_configuration_that_is_missing(fit_refused):
    words = ["cannot read the configuration nowhere.toml", "No such file"]
    fit_refused("--config", "nowhere.toml", words=words)


def test_network_is_described_once(fit_refused, layer):
    described = {"--preset": "seed", "--config": "n.toml", "--layer": layer}
    for left_out in described:
        given = {option: value for option, value in described.items() if option != left_out}
        fit_refused(*sum(given.items(), ()), words=[*given, "give one of them"])


OPTIONS = {
    "preset": (("--preset", "huge"), ["--preset", "'huge'", "seed"]),
    "preprocess": (("--preprocess", "pca"), ["no preprocessing 'pca'", "zca"]),
    "preprocess-option": (("--preprocess", "zca,sigma=1"), ["zca", "'sigma'"]),
    "preprocess-value": (("--preprocess", "zca,epsilon=0"), ["epsilon is 0", "positive"]),
    "preprocess-none": (("--preprocess", "none", "--preprocess", "zca"), ["none", "no other"]),
    "memory": (("--memory", "lots"), ["--memory", "'lots'", "2GiB"]),
    "memory-huge": (("--memory", "9" * 400), ["--memory", "2GiB"]),
    "memory-small": (("--memory", "1MiB"), ["1048576", "at least 64 MiB"]),
    "regularization": (("--regularization", "strong"), ["'strong'", "auto", "number"]),
    "regularization-0": (("--regularization", "0"), ["regularization is 0", "greater than 0"]),
    "regularization-negative": (("--regularization", "-1"), ["regularization is -1", "greater than 0"]),
    "regularization-nan": (("--regularization", "nan"), ["regularization is nan", "greater than 0"]),
    "validation": (("--classifier", "softmax", "--validation", "2"), ["validation is 2", "between 0 and 1"]),
    "validation-ridge": (("--validation", "1"), ["validation is 1", "between 0 and 1"]),
    "optimizer-ridge": (("--optimizer", "sgd"), ["ridge has no option optimizer"]),
    "kernel": (("--classifier", "kernel-ridge", "--kernel", "rbf"), ["no kernel 'rbf'", "arccos1"]),
    "kernel-sigma": (("--classifier", "kernel-ridge", "--kernel", "exp,sigma=1e-200"), ["sigma is 1e-200"]),
    "kernel-option": (("--classifier", "kernel-ridge", "--kernel", "arccos1,seed=5"), ["arccos1", "no seed"]),
    "kernel-ridge": (("--classifier", "ridge", "--kernel", "arccos1"), ["ridge has no option kernel"]),
    "landmarks": (("--landmarks", "9"), ["ridge has no option landmarks"]),
    "landmarks-1": (("--classifier", "nystrom-ridge", "--landmarks", "1"), ["landmarks is 1", "at least 2"]),
    "shift": (("--shift", "-1"), ["shift is -1", "0 (none)"]),
    "shift-large": (("--shift", "12"), ["shift of 12", "12x12"]),
    "classifier": (("--classifier", "forest"), ["--classifier", "'forest'", "softmax"]),
    "threads": (("--threads", "0"), ["--threads", "0"]),
    "patches": (("--patches", "0"), ["--patches", "0"]),
    "seed": (("--seed", "-1"), ["--seed", "-1"]),
    "backend": (("--backend", "tpu"), ["--backend", "'tpu'", "numpy"]),
    "unknown": (("--passes", "9"), ["No such option", "--passes"]),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_cannot_be(fit_refused, layer, case):
    options, words = OPTIONS[case]
    base = () if case == "preset" else ("--layer", layer, "--patches", "500")
    fit_refused(*base, *options, words=words)


def test_backend_cupy_without_a_gpu(refused, fit_refused, data, tiny, model):
    env = {"CUDA_VISIBLE_DEVICES": ""} if why_unavailable() is None else {}
    installed = importlib.util.find_spec("cupy") is not None
    words = ["backend cupy cannot run here", "--backend numpy" if installed else "cupy-cuda13x"]
    fit_refused(*tiny, "--backend", "cupy", words=words, env=env)
    refused("extract", model, data.npz, "-o", "f.npy", "--backend", "cupy", words=words, env=env)


def test_backend_in_the_environment_that_does_not_exist(refused, data, model):
    env = {"CKNCUDA_BACKEND": "nonsense"}
    refused("extract", model, data.npz, "-o", "f.npy", words=["'nonsense'", "CKNCUDA_BACKEND"], env=env)
