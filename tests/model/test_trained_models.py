"""Systems, models and files of networks that are trained end to end."""

import dataclasses
import json
import os

import numpy as np
import pytest
from factories import make_spec, stripes

import ckncuda
from ckncuda import ArcCosine, EncoderSpec, Exponential, GramRidge, Model, Ridge, System
from ckncuda.backend.numpy import NumpyBackend
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.files import checkpoint as file
from ckncuda.images.augment import Augmentation
from ckncuda.images.symmetries import Symmetries
from ckncuda.model.presets import PRESETS
from ckncuda.progress import Report
from ckncuda.supervised import Training
from ckncuda.supervised.checkpoint import Checkpoints
from ckncuda.supervised.encoder import TOP_FILTERS, TrainedEncoder, TrainedEncoderSpec

ENGINE = NumpyBackend(threads=1, compiled=False)
LAYERS = [make_spec(filters=4), make_spec(filters=6)]


def of(layers=None, preprocessing=(), **options):
    training = Training(**{"epochs": 2, "batch": 20} | options)
    return TrainedEncoderSpec(layers or LAYERS, preprocessing, training=training)


def fitted(system, **options):
    images, labels = stripes(60)
    return ckncuda.fit(images, labels, system=system, backend=ENGINE, **options)


@pytest.fixture(scope="module")
def model():
    return fitted(System([of()], patches=500))


def test_a_trained_model_is_the_same_once_stored(model, tmp_path):
    model.save(tmp_path / "m.ckn")
    again = ckncuda.load(tmp_path / "m.ckn")
    images, labels = stripes(60)
    assert np.array_equal(again.scores(images, backend=ENGINE), model.scores(images, backend=ENGINE))
    assert again.report == json.loads(json.dumps(model.report))
    assert again.report["training"][0]["history"][0]["epoch"] == 0
    again.save(tmp_path / "again.ckn")
    assert (tmp_path / "again.ckn").read_bytes() == (tmp_path / "m.ckn").read_bytes()
    assert np.mean(again.predict(images) == labels) > 0.7
    network = ckncuda.CKN.load(tmp_path / "m.ckn")
    assert np.array_equal(network.layers[1].anchors, model.network.layers[1].anchors)


def test_programs_of_before_find_nothing_new_in_a_trained_model(model, tmp_path):
    """They know encoders of the kinds network and exact, and the keys of an untrained one."""
    plain = fitted(System([EncoderSpec(LAYERS, ())], patches=500))
    for part, other in ((model.encoders[0], plain.encoders[0]), (model.classifier, plain.classifier)):
        assert part.to_dict().keys() == other.to_dict().keys()
        assert part.arrays().keys() == other.arrays().keys()
    assert model.encoders[0].to_dict()["kind"] == "network"
    described = model.encoders[0].describe((9, 9, 1))
    assert described.keys() == plain.encoders[0].describe((9, 9, 1)).keys()


def test_what_chose_is_said(model):
    said = model.report["validation"]
    assert "6 images held out of 60" in said
    assert "was chosen on 6 images held out of 60" in said
    assert said.endswith("preprocessing and the network at its start saw all images, without labels")
    mixed = fitted(System([EncoderSpec(LAYERS, ()), of()], patches=500)).report["validation"]
    assert mixed.endswith(
        "networks, those that were trained as they were at their start, saw all images, without labels"
    )
    without = fitted(System([of(validation=0)], "ridge", patches=500))
    assert "leave-one-out over 60 images" in without.report["validation"]
    assert "no image was held out, so that accuracies on them are optimistic" in without.report["validation"]


@pytest.mark.parametrize("classifier", ["ridge", "kernel-ridge", "nystrom-ridge", "softmax", "squared-hinge"])
def test_every_classifier_judges_on_the_images_that_trained_nothing(classifier):
    model = fitted(System([of(validation=0.2)], classifier, patches=500))
    assert "12 images held out of 60" in model.report["validation"]
    assert model.classifier.validation == 0.2


def test_a_classifier_that_would_fool_itself_is_refused():
    images, labels = stripes(60)
    for learner in (Ridge(), Ridge(validation=0.1), Ridge(validation=0.2, choose="held-out")):
        with pytest.raises(InvalidSpec, match='validation=0.1, seed=0 and choose="held-out"'):
            Model.fit(images, labels, [of()], classifier=learner, backend=ENGINE)
    Model.fit(
        *(images, labels, [of()]),
        classifier=Ridge(validation=0.1, choose="held-out"),
        backend=ENGINE,
        patches=500,
    )
    with pytest.raises(InvalidSpec, match="GramRidge"):
        Model.fit(images, labels, [of(validation=0)], classifier=GramRidge(), backend=ENGINE)


def test_labels_are_needed_even_for_features():
    images, labels = stripes(60)
    for given in (None, labels[:-1], np.zeros(60, int)):
        with pytest.raises(InvalidData, match="label"):
            Model.fit(images, given, [of()], backend=ENGINE)
    with pytest.raises(InvalidData, match="training end to end needs one label an image"):
        ckncuda.fit(images, system=System([of()]), backend=ENGINE)
    features = Model.fit(images, labels, [of()], patches=500, backend=ENGINE)
    assert features.classifier is None
    assert "training" in features.report


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_a_sigma_that_is_chosen_from_images_is_chosen_before_the_training(compiled):
    if compiled:
        pytest.importorskip("numba")
    images, labels = stripes(60)
    layers = [make_spec(filters=4, kernel=Exponential(quantile=0.1)), LAYERS[1]]
    engine = NumpyBackend(threads=1, compiled=compiled)
    model = ckncuda.fit(images, labels, system=System([of(layers)], patches=500), backend=engine)
    assert model.network.layers[0].spec.kernel.sigma is not None


def test_a_memory_that_was_given_is_counted_with_the_way_back():
    sizes = []
    for batch, filters in ((1, 4), (1, 64), (60, 64)):
        spec = of([make_spec(filters=filters), make_spec(filters=6)], batch=batch)
        sizes.append(spec.bytes_to_fit(60, (96, 96, 3), 500, ENGINE, 1 << 30)["training"])
    block = 1 << 26  # half of an eighth
    assert sizes[0] > block
    assert sizes[2] - sizes[1] == 59 * 4 * 4 * 96 * 96 * 3


def test_the_head_of_a_training_is_a_models_classifier(tmp_path):
    model = fitted(System([of()], "head", patches=500))
    trained = model.encoders[0].trained
    images, _ = stripes(60)
    features = model.features(images, backend=ENGINE)
    np.testing.assert_allclose(
        model.scores(images, backend=ENGINE), trained.head.unchecked_scores(features), atol=1e-5
    )
    assert model.report["validation_accuracy"] == trained.held_out_accuracy
    assert "averaging" not in model.report["validation"]
    mirrored = dataclasses.replace(of(), symmetries=Symmetries(flip=True))
    said = fitted(System([mirrored], "head", patches=500)).report["validation"]
    assert "held out of 60; measured without averaging over variants; " in said
    model.save(tmp_path / "m.ckn")
    assert np.array_equal(ckncuda.load(tmp_path / "m.ckn").predict(images), model.predict(images))


@pytest.mark.parametrize(
    "encoders",
    [
        [EncoderSpec(LAYERS)],
        [of(), of()],
        [of(train_layers=1)],
        [of([*LAYERS[:1], make_spec(filters=6, decorrelation=0.25)])],
    ],
    ids=["untrained", "two", "some layers", "decorrelated"],
)
def test_a_head_is_that_of_all_layers_of_one_network(encoders):
    with pytest.raises(InvalidSpec, match=r"the classifier head .* such as kernel-ridge"):
        System(encoders, "head")
    with pytest.raises(InvalidSpec, match="of a training's head there is no regularization: leave it out"):
        System([of()], "head", {"regularization": 1.0})


TOML = """
layers = [
    { filters = 4, patch = 3, subsampling = 2, sigma = 0.6 },
    { filters = 6, patch = 3, subsampling = 2, sigma = 0.6 },
]
training = { epochs = 2, batch = 20, augment = "flip,crop=1", train_layers = 1 }
classifier = { name = "ridge" }
"""


def test_a_file_describes_a_training(tmp_path):
    (tmp_path / "net.toml").write_text(TOML)
    system = System.from_toml(tmp_path / "net.toml")
    (encoder,) = system.encoders
    assert encoder.training == Training(
        epochs=2, batch=20, augment=Augmentation(flip=True, crop=1), train_layers=1
    )
    assert System.from_dict(json.loads(json.dumps(system.to_dict()))) == system
    assert str(system).endswith("layers 1-1 trained 2 epochs (adam 0.003, softmax); ridge")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("epochs = 2", "epochs = 0"), "epochs is 0"),
        (("epochs = 2", "passes = 2"), "a training has no option passes; it has epochs"),
        (
            ("train_layers = 1", "train_layers = 3"),
            "3 layers are to be trained, of a network of 2: give at m",
        ),
        (('"flip,crop=1"', '"spin"'), "'spin' is not understood"),
        (('"flip,crop=1"', "3"), "expected a table such as"),
        (('name = "ridge"', 'name = "head"'), "all layers are trained"),
        (
            ("subsampling = 2, sigma = 0.6 },\n]", 'subsampling = 2, kernel = "arccos0" },\n]'),
            "layer 2: .*arcc",
        ),
    ],
)
def test_files_that_describe_no_training(tmp_path, change, said):
    assert change[0] in TOML
    (tmp_path / "net.toml").write_text(TOML.replace(*change))
    with pytest.raises(InvalidSpec, match=said):
        System.from_toml(tmp_path / "net.toml")
    (tmp_path / "net.toml").write_text(TOML.replace(TOML.split("\n")[5], "training = 3"))
    with pytest.raises(InvalidSpec, match=r"net\.toml: training must be a table of options"):
        System.from_toml(tmp_path / "net.toml")


@pytest.mark.parametrize("name", ["supervised", "chen5"])
def test_presets_are_trained_as_they_say(name):
    system = System.preset(name, 5000, (32, 32, 3))
    (encoder,) = system.encoders
    assert isinstance(encoder, TrainedEncoderSpec)
    assert system.classifier == PRESETS[name].classifier
    assert System.from_dict(json.loads(json.dumps(system.to_dict()))) == system
    if name == "chen5":
        assert [layer.filters for layer in encoder.layers] == [128] * 5
        assert [encoder.training.rate(epoch + 0.5) for epoch in (0, 59, 60, 99, 104)] == pytest.approx(
            [0.1, 0.1, 0.01, 1e-3, 1e-4]
        )
    else:
        assert encoder.training.train_layers == 2
        assert [layer.filters for layer in encoder.trained_layers] == [64, 64, TOP_FILTERS]
        assert [layer.decorrelation for layer in encoder.layers] == [0, 0, 0.25]


@pytest.mark.parametrize("shape", [(12, 9, 3), (3, 3, 1)])
def test_the_preset_suits_itself_to_few_small_images(shape, rng):
    images = rng.normal(size=(30, *shape)).astype(np.float32)
    system = System.preset("supervised", 30, shape)
    short = [TrainedEncoderSpec(e.layers, (), e.symmetries, short_of(e)) for e in system.encoders]
    model = ckncuda.fit(images, np.arange(30) % 3, system=System(short, "ridge", patches=500), backend=ENGINE)
    assert model.predict(images, backend=ENGINE).shape == (30,)


def short_of(encoder):
    """Return the training of an encoder, of one epoch."""
    return Training.from_dict(encoder.training.to_dict() | {"epochs": 1})


class TestSomeLayers:
    """Those below are trained, those above learn without labels from what they give."""

    DEEP = (LAYERS[0], make_spec(filters=5, decorrelation=0.25), make_spec(filters=300, subsampling=1))

    def test_the_one_above_is_narrow_while_they_are_trained(self):
        encoder = of(self.DEEP, train_layers=1)
        assert [layer.filters for layer in encoder.trained_layers] == [4, 5]
        assert [layer.decorrelation for layer in encoder.trained_layers] == [0, 0]
        assert [layer.filters for layer in of(self.DEEP, train_layers=2).trained_layers] == [
            4,
            5,
            TOP_FILTERS,
        ]
        assert [layer.filters for layer in of([*LAYERS, self.DEEP[2]]).trained_layers] == [4, 6, 300]
        with pytest.raises(InvalidSpec, match="give layer 2 decorrelation=0"):
            of(self.DEEP)  # all of which is trained
        above = of([*LAYERS, make_spec(kernel=ArcCosine(0))], train_layers=1)  # is not gone through
        assert len(above.trained_layers) == 2
        with pytest.raises(InvalidSpec, match="layer 2: .*arccos0"):
            of([LAYERS[0], make_spec(kernel=ArcCosine(0))], train_layers=1)

    def test_a_sigma_that_images_choose_is_trained_with(self):
        layers = [make_spec(filters=4, kernel=Exponential(quantile=0.3)), LAYERS[1]]
        model = fitted(System([of(layers, train_layers=1)], patches=500))
        assert model.network.layers[0].spec.kernel.sigma is not None

    def test_what_is_trained_is_below_what_is_not(self):
        model = fitted(System([of([LAYERS[0], make_spec(filters=7)], train_layers=1)], patches=500))
        encoder = model.encoders[0]
        assert [layer.spec.filters for layer in encoder.network.layers] == [4, 7]
        trained = encoder.trained.network.layers
        assert np.array_equal(encoder.network.layers[0].anchors, trained[0].anchors)
        assert not np.array_equal(encoder.network.layers[1].anchors, trained[1].anchors)


class TestEnsembles:
    """Several encoders, of which some are trained."""

    def test_equal_encoders_differ(self):
        for start in ("unsupervised", "random"):
            model = fitted(System([of(start=start), of(start=start)], patches=500))
            one, two = (encoder.network.layers[0].anchors for encoder in model.encoders)
            assert not np.allclose(one, two)
            alone = fitted(System([of(start=start)], patches=500))
            assert np.array_equal(alone.encoders[0].network.layers[0].anchors, one)

    @pytest.mark.parametrize("trained_first", [True, False])
    def test_one_that_is_trained_beside_one_that_is_not(self, trained_first, tmp_path):
        encoders = [of(), EncoderSpec(LAYERS, ())][:: 1 if trained_first else -1]
        model = fitted(System(encoders, "kernel-ridge", patches=500))
        kinds = [isinstance(encoder, TrainedEncoder) for encoder in model.encoders]
        assert kinds == [trained_first, not trained_first]
        assert len(model.report["training"]) == 1
        model.save(tmp_path / "m.ckn")
        images, _ = stripes(60)
        again = ckncuda.load(tmp_path / "m.ckn")
        assert np.array_equal(again.scores(images, backend=ENGINE), model.scores(images, backend=ENGINE))

    def test_they_hold_out_the_same_images(self):
        with pytest.raises(InvalidSpec, match="give each the same validation"):
            fitted(System([of(), of(validation=0.2)], patches=500))

    @pytest.mark.parametrize(
        ("kinds", "second"),
        [("tt", False), ("tt", True), ("ut", False), ("ttu", False), ("ttu", True)],
    )
    def test_unfinished_ones_go_on_to_the_same_model(self, kinds, second, tmp_path):
        encoders = [of() if kind == "t" else EncoderSpec(LAYERS, ()) for kind in kinds]
        system, path = System(encoders, "ridge", patches=500), tmp_path / "c"
        whole = fitted(system, checkpoints=Checkpoints(tmp_path / "whole"))
        saved, save = [], file.save

        class Enough(Exception):
            pass

        def until(where, plain, arrays):
            save(where, plain, arrays)
            saved.append(where)
            if len(saved) == (3 if second else 1):
                raise Enough

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(file, "save", until)
            with pytest.raises(Enough):
                fitted(system, checkpoints=Checkpoints(path))
        assert sorted(os.listdir(tmp_path))[: 2 if second else 1] == ["c", "c.2"][: 2 if second else 1]
        with pytest.raises(
            InvalidData, match="c is of a training that was not finished: go on with --resume"
        ):
            fitted(system, checkpoints=Checkpoints(path))
        lines = []
        again = fitted(system, checkpoints=Checkpoints(path, path), progress=Report(tell=lines.append))
        assert sum(line.startswith("Going on") for line in lines) == (2 if second else 1)
        whole.save(tmp_path / "one")
        again.save(tmp_path / "two")
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_memory_that_does_not_suffice_is_refused_before_the_work():
    images, labels = stripes(60)
    engine = NumpyBackend(threads=1, memory=100_000, compiled=False)
    with pytest.raises(MemoryError, match="give --memory"):
        ckncuda.fit(images, labels, system=System([of()], patches=500), backend=engine)


def test_nothing_goes_on_where_nothing_is_trained(tmp_path):
    with pytest.raises(InvalidSpec, match="resume is .*, but nothing is trained end to end: leave it out"):
        fitted(System([EncoderSpec(LAYERS, ())]), checkpoints=Checkpoints(resume=tmp_path / "c"))
    fitted(System([EncoderSpec(LAYERS, ())], patches=500), checkpoints=Checkpoints(tmp_path / "c"))
    assert not (tmp_path / "c").exists()
