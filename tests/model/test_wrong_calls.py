"""Calls from Python that cannot be meant: each is refused with what was given and what is expected."""

import re

import numpy as np
import pytest

from ckncuda import (
    CKN,
    PRESETS,
    ArcCosine,
    CknError,
    EncoderSpec,
    ExactEncoderSpec,
    ExactKernel,
    Exponential,
    GramRidge,
    KernelLayer,
    KernelRidge,
    LayerSpec,
    Model,
    NystromRidge,
    Polynomial,
    Ridge,
    Series,
    Softmax,
    Symmetries,
    System,
    fit,
    fit_exact,
    gram,
    load,
)
from ckncuda.backend import get_backend
from ckncuda.data import feature_writer, open_images, read_labels, write_submission
from ckncuda.images.preprocess import ZCA, LocalWhitening
from ckncuda.studies.search.trials import SearchOptions

LABELS = np.arange(20) % 2
IMAGES = np.random.default_rng(0).normal(LABELS[:, None, None, None], size=(20, 8, 8, 1)).astype(np.float32)
KERNEL = Exponential(sigma=0.6)
LAYER = LayerSpec(filters=4, patch=3, subsampling=4, kernel=KERNEL)
ENCODER = EncoderSpec([LAYER], ())
EXACT = ExactEncoderSpec(ExactKernel([LAYER]), ())
SYSTEM = System([ENCODER])


def layer(**options):
    return LayerSpec(**{"filters": 4, "patch": 3, "subsampling": 2, "kernel": KERNEL} | options)


def model(**options):
    return Model.fit(IMAGES, LABELS, [ENCODER], **options)


def exact(**options):
    return Model.fit(IMAGES, LABELS, [EXACT], classifier=GramRidge(), **options)


MODEL = model(classifier=Ridge())


# What is called -> the beginning of the message, and a piece of its advice.
NUMBERS = [
    (lambda: Exponential(sigma=True), "sigma is True", "such as 0.6"),
    (lambda: Exponential(sigma="0.6"), "sigma is '0.6'", "such as 0.6"),
    (lambda: Exponential(sigma=np.array([0.6])), "sigma is an array of shape [1]", "such as 0.6"),
    (lambda: Exponential(sigma=10**400), "sigma is a number of more than 300 digits", "such as 0.6"),
    (lambda: Exponential(quantile=np.bool_(True)), "quantile is ", "such as 0.1"),
    (lambda: Polynomial(degree=True), "degree is True", "a whole number"),
    (lambda: Polynomial(2, offset="1"), "offset is '1'", "not negative"),
    (lambda: ArcCosine(True), "degree is True", "0 and 1"),
    (lambda: Series("abc"), "coefficients are 'abc'", "such as [0.25"),
    (lambda: Series([True]), "coefficients[0] is True", "such as [0.25"),
    (lambda: layer(filters=True), "filters is True", "a whole number"),
    (lambda: layer(filters=64.0), "filters is 64.0", "a whole number"),
    (lambda: layer(patch=2.0), "patch is 2.0", "a whole number"),
    (lambda: layer(patch=(True, 3)), "patch is True", "height and width"),
    (lambda: layer(subsampling=None), "subsampling is None", "a whole number"),
    (lambda: layer(epsilon=True), "epsilon is True", "not negative"),
    (lambda: layer(norm_floor="0"), "norm_floor is '0'", "not negative"),
    (lambda: layer(decorrelation=True), "decorrelation is True", "between 0 and 0.5"),
    (lambda: ZCA(True), "zca: epsilon is True", "such as 0.1"),
    (lambda: LocalWhitening(True), "local_whitening: patch is True", "a whole number"),
    (lambda: Symmetries(flip=1), "flip is 1", "true or false"),
    (lambda: Symmetries(shift=True), "shift is True", "a whole number of pixels"),
    (lambda: ExactEncoderSpec(ExactKernel([LAYER]), (), True), "landmarks is True", "a whole number"),
    (lambda: System([ENCODER], patches=True), "patches is True", "a whole number"),
    (lambda: model(patches=None), "patches is None", "a whole number"),
    (lambda: model(seed=None), "seed is None", "a whole number"),
    (lambda: fit(IMAGES, LABELS, seed=True), "seed is True", "a whole number"),
    (lambda: CKN([LAYER]).fit(IMAGES, max_iterations=0.5), "max_iterations is 0.5", "a whole number"),
    (lambda: model(classifier=Ridge(True)), "regularization is True", 'expected "auto" or a number'),
    (lambda: model(classifier=Ridge("1e-3")), "regularization is '1e-3'", 'expected "auto" or a number'),
    (lambda: model(classifier=Ridge(validation=True)), "validation is True", "a fraction"),
    (lambda: model(classifier=Ridge(seed=None)), "seed is None", "a whole number"),
    (lambda: model(classifier=KernelRidge(weights=["a"])), "weights[0] is 'a'", "not negative"),
    (lambda: model(classifier=KernelRidge(weights=1)), "weights are 1", "such as [0.5"),
    (lambda: model(classifier=NystromRidge(landmarks=True)), "landmarks is True", "a whole number"),
    (lambda: model(classifier=Softmax(max_iterations=True)), "max_iterations is True", "at least 1"),
    (lambda: get_backend("numpy", threads=True), "threads is True", "such as 4"),
    (lambda: get_backend("numpy", memory="2GiB"), "memory is '2GiB'", "such as 2 * 2**30"),
    (lambda: get_backend("numpy", threads=0), "threads is 0", "at least 1, such as 4"),
    (lambda: get_backend("numpy", memory=1 << 20), "memory is 1048576", "at least 64 MiB"),
    (lambda: gram(IMAGES, [LAYER], dtype="x"), "dtype is 'x'", "float32 or float64"),
    (lambda: gram(IMAGES, [LAYER], tile=True), "tile is True", "a whole number of images"),
    (lambda: gram(IMAGES, [LAYER], tile=2.5), "tile is 2.5", "a whole number of images"),
    (lambda: LAYER.output_shape(3), "shape is 3", "such as (32, 32, 3)"),
    (lambda: CKN([LAYER]).output_shape((8, 8)), "shape is (8, 8)", "such as (32, 32, 3)"),
    (lambda: ENCODER.output_shape((8, 8.5, 1)), "shape is 8.5", "such as (32, 32, 3)"),
    (lambda: SYSTEM.check(None), "shape is None", "such as (32, 32, 3)"),
    (lambda: open_images("x.npy", image_shape=3), "image_shape is 3", "such as (32, 32, 3)"),
    (lambda: open_images("x.npy", image_shape=("a", 1, 1)), "image_shape is 'a'", "such as (32, 32, 3)"),
    (lambda: open_images("x.npy", image_shape=(True, 8, 1)), "image_shape is True", "such as (32, 32, 3)"),
    (lambda: read_labels("y.csv", None), "n_images is None", "a whole number"),
    (lambda: SearchOptions(hold_out=True).checked(), "hold_out is True", "a fraction"),
    (lambda: SearchOptions(seconds="10min").checked(), "seconds is '10min'", "expected seconds"),
]
OBJECTS = [
    (lambda: layer(kernel=Exponential), "kernel is the class Exponential", "such as Exponential(sigma=0.6)"),
    (lambda: layer(kernel="exp"), "kernel is 'exp'", "such as Exponential(sigma=0.6)"),
    (lambda: layer(pooling=["average"]), "pooling is ['average']", "one of gaussian, average"),
    (lambda: CKN("layers"), "layers is 'layers'", "such as LayerSpec("),
    (lambda: CKN([KERNEL]), "layers[0] is Exponential(", "such as LayerSpec("),
    (lambda: CKN(None), "layers is None", "such as LayerSpec("),
    (lambda: CKN.from_anchors([LAYER], None), "anchors is None", "such as [Z]"),
    (lambda: CKN.from_layers([LAYER]), "layers[0] is LayerSpec(", "such as network.layers"),
    (lambda: CKN.load(3), "path is 3", 'such as "network.ckn"'),
    (lambda: CKN([LAYER]).fit(IMAGES, patches=50).save(None), "path is None", 'such as "network.ckn"'),
    (lambda: LayerSpec.from_dict("exp"), "options is 'exp'", 'such as {"filters"'),
    (lambda: ENCODER.fit(None, "numpy"), "images", "expected an array"),
    (lambda: ENCODER.fit(IMAGES, None), "backend is None", 'such as get_backend("numpy")'),
    (lambda: EncoderSpec([LAYER], [ZCA]), "preprocessing[0] is the class ZCA", "such as ZCA(epsilon=0.1)"),
    (lambda: EncoderSpec([LAYER], "zca"), "preprocessing is 'zca'", "such as ZCA(epsilon=0.1)"),
    (lambda: EncoderSpec([LAYER], (), True), "symmetries is True", "Symmetries(flip=True)"),
    (lambda: ExactKernel(KERNEL), "layers is Exponential(", "such as KernelLayer("),
    (lambda: ExactEncoderSpec([LAYER]), "kernel is [LayerSpec(", "such as ExactKernel(layers)"),
    (lambda: System([LAYER]), "encoders[0] is LayerSpec(", "such as EncoderSpec(layers)"),
    (lambda: System([ENCODER], Ridge), "there is no classifier the class Ridge", "there is ridge, "),
    (lambda: System([ENCODER], "ridge", ["a"]), "classifier_options is ['a']", 'such as {"regularization"'),
    (lambda: System([ENCODER], "kernel-ridge", {"kernel": "foo"}), "there is no kernel 'foo'", "are exp, "),
    (lambda: System([ENCODER], "ridge", {1: 2}), "the classifier ridge has no option 1", "it has regular"),
    (lambda: System([ENCODER], None), "there is no classifier None", "there is ridge, "),
    (lambda: System([EXACT], "ridge"), "classifier is 'ridge'", "exact kernels have gram-ridge"),
    (lambda: System.from_dict(3), "data is 3", "what System.to_dict gives"),
    (lambda: System.from_dict({"layers": []}), "data is {'layers': []}", "what System.to_dict gives"),
    (lambda: System.preset("fast", 10, 3), "shape is 3", "such as (32, 32, 3)"),
    (lambda: System.preset("fast", IMAGES, (8, 8, 1)), "n is an array of shape", "a whole number"),
    (lambda: System.from_toml(3), "path is 3", 'such as "net.toml"'),
    (lambda: fit(SYSTEM, IMAGES, LABELS), "images is a System", "fit(images, labels, system=system)"),
    (lambda: fit(IMAGES, LABELS, SYSTEM), "preset is a System", "fit(images, labels, system=system)"),
    (lambda: fit(IMAGES, LABELS, "fast", system=SYSTEM), "the preset 'fast' and a system", "give one"),
    (lambda: fit(IMAGES, LABELS, "huge"), "there is no preset 'huge'", "the presets are fast, default"),
    (lambda: fit(IMAGES, LABELS, system="net.toml"), "system is 'net.toml'", "System.from_toml("),
    (lambda: fit(IMAGES, LABELS, backend=3), "backend is 3", 'such as get_backend("numpy")'),
    (lambda: model(backend=type(get_backend("numpy"))), "backend is the class Numpy", "a name, auto, numpy"),
    (lambda: model(progress="bar"), "progress is 'bar'", "such as print"),
    (lambda: MODEL.predict(IMAGES, backend=3), "backend is 3", 'such as get_backend("numpy")'),
    (lambda: MODEL.features(IMAGES, backend=None), "backend is None", 'such as get_backend("numpy")'),
    (lambda: MODEL.scores(IMAGES, progress=3), "progress is 3", "such as print"),
    (lambda: MODEL.predict("x.npy"), "images", "ckncuda.data.open_images"),
    (lambda: MODEL.predict(IMAGES[0]), "images", "images[None]"),
    (lambda: Model.of_network(LAYER), "network is LayerSpec(", "CKN(specs).fit(images)"),
    (lambda: MODEL.save(3), "path is 3", 'such as "model.ckn"'),
    (lambda: MODEL.save(" "), "path is ' '", 'such as "model.ckn"'),
    (lambda: Model.fit(IMAGES, LABELS, [LAYER]), "specs[0] is LayerSpec(", "such as EncoderSpec(layers)"),
    (lambda: Model.fit(IMAGES, LABELS, EncoderSpec), "specs is the class EncoderSpec", "EncoderSpec(layers)"),
    (lambda: model(classifier=Ridge), "classifier is the class Ridge", "such as Ridge()"),
    (lambda: model(classifier="ridge"), "classifier is 'ridge'", "such as Ridge()"),
    (lambda: model(classifier=KernelRidge("exp")), "kernel is 'exp'", "such as ArcCosine(1)"),
    (lambda: model(classifier=KernelRidge(Exponential)), "kernel is the class Exponential", "ArcCosine(1)"),
    (lambda: model(classifier=Softmax(optimizer=None)), "optimizer is None", '"lbfgs" or "sgd"'),
    (
        lambda: Model.fit(IMAGES, LABELS, [EXACT], classifier=GramRidge(), grams=np.eye(20)),
        "grams is an array of shape [20, 20]",
        "such as [K]",
    ),
    (lambda: exact(grams=["K.npy"]), "grams[0] is 'K.npy'", "open_gram("),
    (lambda: exact(grams=[3]), "grams[0] is 3", "numpy.load"),
    (lambda: fit_exact(IMAGES, LABELS, EXACT.kernel), "kernels is ExactKernel(", "such as (ExactKernel("),
    (lambda: fit_exact(IMAGES, LABELS, [EXACT.kernel]), "kernels[0] is ExactKernel(", "(ExactKernel("),
    (lambda: fit_exact(IMAGES, LABELS, [(EXACT.kernel, ())], C=1), "there is no option C", "regularization"),
    (lambda: load(None), "path is None", 'such as "model.ckn"'),
    (lambda: open_images(3), "path is 3", 'such as "Xtr.csv"'),
    (lambda: open_images(b"x.npy"), "path is b'x.npy'", 'such as "Xtr.csv"'),
    (lambda: read_labels(None, 3), "path is None", 'such as "Ytr.csv"'),
    (lambda: write_submission(None, [1]), "path is None", 'such as "submission.csv"'),
    (lambda: write_submission("s.csv", [0], class_names=3), "class_names is 3", 'such as ["cat"]'),
    (lambda: write_submission("s.csv", [0], class_names=[3]), "class_names[0] is 3", 'such as ["cat"]'),
    (lambda: write_submission("s.csv", [0], ids=3), "ids is 3", 'such as ["1.png"]'),
    (lambda: feature_writer(3, 1, 1).__enter__(), "path is 3", 'such as "features.npy"'),
    (lambda: fit(None, LABELS), "images", "expected an array"),
    (lambda: fit(list(IMAGES), LABELS), "images", "numpy.stack(images)"),
    (lambda: fit(IMAGES[:0], LABELS[:0]), "images is empty", "one image at least"),
    (lambda: fit(IMAGES, ["cat", "dog"] * 10), "labels", "numpy.unique("),
    (lambda: fit(IMAGES, LABELS + 0.5), "labels", "whole numbers"),
    (lambda: fit(IMAGES, np.eye(2)[LABELS]), "labels", "argmax"),
    (lambda: fit(IMAGES, 3), "labels", "one axis"),
    (lambda: fit(IMAGES, [None] * 20), "labels", "whole numbers"),
    (lambda: Ridge().fit(None, LABELS), "features", "expected [images, features]"),
]


@pytest.mark.parametrize(("call", "given", "advice"), NUMBERS + OBJECTS)
def test_a_wrong_call_is_refused_with_what_was_given_and_what_to_give(call, given, advice):
    with pytest.raises(CknError, match=f"^{re.escape(given)}") as refused:
        call()
    message = str(refused.value)
    assert advice in message
    assert len(message) < 400


RIGHT = [
    (lambda: Exponential(sigma=np.float32(0.5)), Exponential(sigma=0.5)),
    (lambda: Exponential(sigma=np.array(0.5)), Exponential(sigma=0.5)),
    (lambda: Exponential(sigma=np.int64(1)), Exponential(sigma=1)),
    (lambda: Exponential(quantile=np.float64(0.1)), Exponential(quantile=0.1)),
    (lambda: Polynomial(np.int32(2), np.float32(1)), Polynomial(2, 1.0)),
    (lambda: ArcCosine(np.uint8(1)), ArcCosine(1)),
    (lambda: Series(np.array([0.25, 0.75])), Series([0.25, 0.75])),
    (lambda: layer(filters=np.int64(8)), layer(filters=8)),
    (lambda: layer(patch=np.int16(3), subsampling=np.uint8(2)), layer()),
    (lambda: layer(patch=(np.int64(3), 5)), layer(patch=(3, 5))),
    (
        lambda: layer(epsilon=np.float32(0.25), norm_floor=np.float64(0.5)),
        layer(epsilon=0.25, norm_floor=0.5),
    ),
    (lambda: layer(decorrelation=np.array(0.25)), layer(decorrelation=0.25)),
    (lambda: KernelLayer(np.int64(3), np.int64(2), KERNEL), KernelLayer(3, 2, KERNEL)),
    (lambda: ZCA(np.float32(0.5)), ZCA(0.5)),
    (lambda: LocalWhitening(np.int64(5), np.float16(0.5)), LocalWhitening(5, 0.5)),
    (lambda: Symmetries(np.bool_(True), np.int64(1)), Symmetries(True, 1)),
    (lambda: ExactKernel(LAYER, tangent=np.False_), ExactKernel([LAYER])),
    (lambda: ExactEncoderSpec(EXACT.kernel, (), np.int64(5)), ExactEncoderSpec(EXACT.kernel, (), 5)),
    (lambda: EncoderSpec(LAYER, ZCA(2)), EncoderSpec([LAYER], [ZCA(2)])),
    (lambda: System(ENCODER, patches=np.int64(500)), System([ENCODER], patches=500)),
    (
        lambda: System.preset("fast", np.int64(100), (np.int64(8), 8, 1)),
        System.preset("fast", 100, (8, 8, 1)),
    ),
]


@pytest.mark.parametrize(("call", "same"), RIGHT)
def test_scalars_of_numpy_are_numbers(call, same):
    made = call()
    assert made == same
    assert repr(made) == repr(same)


@pytest.mark.parametrize(
    ("options", "classifier"),
    [
        ({"seed": np.int64(3), "patches": np.int64(300)}, {}),
        ({"seed": 3, "patches": 300}, {"regularization": np.float64(1e-2), "seed": np.uint8(0)}),
        ({"seed": 3, "patches": 300}, {"validation": np.array(0.25)}),
    ],
)
def test_models_of_numpys_scalars_are_the_same_files(tmp_path, options, classifier):
    model(**options, classifier=Ridge(**classifier)).save(tmp_path / "m.ckn")
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in classifier.items()}
    model(seed=3, patches=300, classifier=Ridge(**plain)).save(tmp_path / "plain.ckn")
    assert (tmp_path / "m.ckn").read_bytes() == (tmp_path / "plain.ckn").read_bytes()


def test_presets_are_public():
    assert {"fast", "default", "best"} <= set(PRESETS)
    assert all(preset.summary for preset in PRESETS.values())
