"""The training loop: it learns, repeats itself, and never looks at the images held out."""

import importlib
import math
import re

import numpy as np
import pytest
from factories import make_spec

from ckncuda import CKN, ArcCosine
from ckncuda.backend import get_backend
from ckncuda.backend.numpy import NumpyBackend
from ckncuda.classifier.validation import held_out_split
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.images.augment import Augmentation
from ckncuda.images.preprocessed import PreprocessedImages
from ckncuda.images.sources import Images, as_images
from ckncuda.progress import Report
from ckncuda.supervised import Training, train
from ckncuda.supervised.optimizers import SGD, Adam, tangent

loop = importlib.import_module("ckncuda.supervised.train")  # the package has a function of this name

LEARNING = {"epochs": 12, "learning_rate": 0.03}


@pytest.fixture(scope="module")
def trained(trained_on):
    return trained_on(**LEARNING)


def test_training_lowers_the_loss_and_beats_its_start(trained, case):
    losses = [epoch["loss"] for epoch in trained.history[1:]]
    assert losses[-1] < 0.8 * losses[0]
    start, best = trained.history[0], trained.history[trained.epoch]
    assert start["loss"] is start["accuracy"] is None
    assert best["held_out_accuracy"] > start["held_out_accuracy"]
    assert trained.held_out_accuracy == max(each["held_out_accuracy"] for each in trained.history)
    assert trained.sentence == f"epoch {trained.epoch} of 12 was chosen on 12 images held out of 120"
    features = trained.network.transform(case.images).reshape(120, -1)
    _, held_out = held_out_split(case.labels, 0.1, 0)
    right = trained.head.predict(features[held_out]) == case.labels[held_out]
    assert np.mean(right) == trained.held_out_accuracy


def test_the_start_is_left_as_it_is(trained, case):
    for before, after in zip(case.start.layers, trained.network.layers, strict=True):
        assert not np.allclose(before.anchors, after.anchors)
        norms = np.linalg.norm(after.anchors.reshape(len(after.anchors), -1), axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-6)
        assert after.spec == before.spec


def test_a_head_that_does_not_move_leaves_all_to_the_anchor_points(trained_on):
    start = trained_on(epochs=1, learning_rate=1e-9, head_rate=0, validation=0).head
    still = trained_on(epochs=3, learning_rate=0.03, head_rate=0, validation=0)
    np.testing.assert_allclose(still.head.weights_, start.weights_, rtol=1e-6)
    moved = trained_on(epochs=3, learning_rate=0.03, head_rate=1, validation=0).head
    assert np.abs(moved.weights_ - start.weights_).max() > 1e-3 * np.abs(start.weights_).max()
    assert still.history[-1]["loss"] < still.history[1]["loss"]


def test_an_epoch_that_is_worse_is_not_taken(trained_on):
    """At a rate that is too high the epochs go up and down."""
    wild = [trained_on(epochs=6, learning_rate=0.5, schedule="constant", seed=seed) for seed in range(3)]
    for each in wild:
        accuracies = [epoch["held_out_accuracy"] for epoch in each.history]
        assert accuracies[each.epoch] == max(accuracies)
    assert any(each.epoch < 6 for each in wild)


def test_of_epochs_that_are_equally_good_the_last_is_taken(trained):
    best = trained.held_out_accuracy
    equal = [each["epoch"] for each in trained.history if each["held_out_accuracy"] == best]
    assert trained.epoch == equal[-1]


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "learning_rate": 0.3},
        {"loss": "squared-hinge"},
        {"loss": "squared", "regularization": 0.1},
        {"label_smoothing": 0.1, "schedule": "constant"},
        {"head_fit": "alternating", "loss": "squared-hinge"},
        {"head_fit": "alternating", "loss": "squared"},
        {"head_fit": "alternating"},
        {"schedule": "steps", "milestones": [4, 8], "optimizer": "sgd"},
        {"augment": Augmentation(flip=True, crop=1, cutout=2)},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_option_learns(trained_on, options):
    trained = trained_on(**LEARNING | options)
    losses = [epoch["loss"] for epoch in trained.history[1:]]
    assert min(losses[-3:]) < losses[0]
    assert [each["epoch"] for each in trained.history] == list(range(13))


def test_one_seed_gives_the_same_bits(trained_on, bits, trained):
    assert bits(trained_on(**LEARNING)) == bits(trained)
    assert bits(trained_on(**LEARNING, seed=1)) != bits(trained)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.filterwarnings("ignore"))])
def test_threads_and_blocks_change_no_bit(trained_on, bits, case, compiled):
    if compiled:
        pytest.importorskip("numba")
    found = []
    for threads in (1, 2, 3):
        engine = NumpyBackend(threads=threads, compiled=compiled)
        training = Training(epochs=2, batch=50, augment=Augmentation(crop=1))
        found.append(bits(train(case.start, case.images, case.labels, training, backend=engine)))
    assert found[0] == found[1] == found[2]


def test_every_backend_trains_alike(trained_on, case, trained):
    options = Training(epochs=2, batch=25)
    reference = train(case.start, case.images, case.labels, options, backend=get_backend("reference"))
    other = trained_on(epochs=2)
    for one, two in zip(reference.network.layers, other.network.layers, strict=True):
        np.testing.assert_allclose(one.anchors, two.anchors, atol=2e-3)


def test_rates_are_those_in_the_middle_of_steps(trained_on, monkeypatch):
    asked = []
    monkeypatch.setattr(Training, "rate", lambda self, epoch: asked.append(epoch) or 1e-3)
    trained_on(epochs=2, batch=54)
    assert asked == [0, 0.25, 0.75, 1, 1.25, 1.75, 2]  # and those at the ends of epochs, for the history


class Watched(Images):
    """Images that remember which of them were read."""

    def __init__(self, images):
        self.images, self.shape, self.dtype, self.seen = images, images.shape, images.dtype, set()

    def read(self, start, stop):
        self.seen |= set(range(start, stop))
        return self.images[start:stop]


def epochs_of(trained_on, case, change, **options):
    """Return anchor points after each epoch, and what was trained, of a run that is given changed data."""
    history = []

    class Run(loop._Run):
        def __init__(self, network, data, *rest):
            super().__init__(network, change(data), *rest)

        def _judge(self, *how):
            history.append([anchors.copy() for anchors in self._anchors])
            return super()._judge(*how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_Run", Run)
        trained = trained_on(**options)
    return history, trained


@pytest.mark.parametrize("options", [{}, {"loss": "squared-hinge"}, {"head_fit": "alternating"}], ids=str)
def test_labels_held_out_enter_no_gradient(trained_on, case, options):
    def wrong(data):
        targets = data.targets.copy()
        targets[data.held_out] = 1 - targets[data.held_out]
        return loop._Data(data.images, targets, data.kept, data.held_out)

    plain, one = epochs_of(trained_on, case, lambda data: data, **options)
    other, two = epochs_of(trained_on, case, wrong, **options)
    assert len(plain) == len(other) == 5
    for here, there in zip(plain, other, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))
    for here, there in zip(one.history, two.history, strict=True):
        assert (here["loss"], here["accuracy"]) == (there["loss"], there["accuracy"])
        assert here["held_out_accuracy"] == pytest.approx(1 - there["held_out_accuracy"])


def test_images_held_out_enter_no_gradient(trained_on, case):
    def dark(data):
        images = case.images.copy()
        images[data.held_out] = 7.0
        return loop._Data(PreprocessedImages(as_images(images)), data.targets, data.kept, data.held_out)

    plain, _ = epochs_of(trained_on, case, lambda data: data)
    other, _ = epochs_of(trained_on, case, dark)
    for here, there in zip(plain, other, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))


def test_without_images_held_out_the_last_epoch_is_taken_and_it_is_said(trained_on):
    trained = trained_on(validation=0)
    assert trained.epoch == 4
    assert trained.held_out_accuracy is None
    assert "no image was held out, so that accuracies on them are optimistic" in trained.sentence
    assert {each["held_out_loss"] for each in trained.history} == {None}


def test_a_batch_of_more_images_than_there_are_takes_all_and_says_so(trained_on, bits):
    lines = []
    trained = trained_on(batch=1000, progress=Report(tell=lines.append))
    assert "Training: a step takes all 108 images, fewer than a batch" in lines
    assert bits(trained) == bits(trained_on(batch=1000))
    losses = [epoch["loss"] for epoch in trained.history[1:]]
    assert losses[0] != losses[1] != losses[2] != losses[3]


def test_people_are_told_of_each_epoch(trained_on):
    lines, stages = [], []
    trained_on(progress=Report(lambda *stage: stages.append(stage), lines.append))
    told = [line for line in lines if line.startswith("epoch ")]
    assert len(told) == 5
    assert re.fullmatch(r"epoch 0 of 4: held out 0\.\d{4} \(loss \d\.\d{4}\)", told[0])
    numbers = r"loss \d\.\d{4}, accuracy [01]\.\d{4}; held out [01]\.\d{4} \(loss \d\.\d{4}\)"
    assert all(re.fullmatch(rf"epoch \d of 4: {numbers}", line) for line in told[1:])
    assert [stage for stage in stages if stage[0] == "training"] == [("training", n, 4) for n in range(5)]


@pytest.mark.parametrize("rate", [1e30, 1e300])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_loss_that_is_not_finite_ends_the_training(trained_on, case, optimizer, rate):
    lines = []
    options = {"optimizer": optimizer, "learning_rate": rate, "warmup": 0, "schedule": "constant"}
    try:
        trained = trained_on(**options, progress=Report(tell=lines.append))
    except InvalidSpec as error:
        said = str(error)
        assert "the loss is not finite in epoch 1" in said
    else:
        said = lines[-1]
        assert re.match(r"Training ends: the loss is not finite in epoch [2-4],", said)
        assert "the best epoch before it is kept" in said
        assert all(math.isfinite(each["held_out_loss"]) for each in trained.history)
        assert np.isfinite(trained.head.weights_).all()
        assert np.isfinite(trained.network.transform(case.images)).all()
    advised = float(re.search(r"try --learning-rate ([0-9.e+-]+)$", said)[1])
    again = trained_on(**options | {"learning_rate": advised})
    assert len(again.history) == 5


def test_the_last_step_of_all_may_be_the_one_that_fails(trained_on, monkeypatch):
    """Without images held out nobody but the step itself would see it."""
    step = Adam.step

    def spoiled(self, gradients, rates):
        step(self, gradients, rates)
        if self.steps == 20:  # of four epochs of five steps
            self.parameters[-1][0] = np.inf

    monkeypatch.setattr(Adam, "step", spoiled)
    lines = []
    trained = trained_on(validation=0, progress=Report(tell=lines.append), epochs=4)
    assert np.isfinite(trained.head.intercept_).all()
    assert trained.epoch == len(trained.history) - 1 < 4
    assert lines[-1].startswith("Training ends: the loss is not finite in epoch")


def test_what_cannot_be_trained_is_refused(trained_on, case, engine):
    arccos0 = CKN([make_spec(filters=3, kernel=ArcCosine(0))]).fit(case.images, patches=100, backend=engine)
    tight = CKN([make_spec(filters=3, decorrelation=0.25)]).fit(case.images, patches=100, backend=engine)
    for network, options, said in (
        (arccos0, {}, "layer 1: .*arccos0 is infinite at 1.*such as exp or arccos1"),
        (tight, {}, "fit it with decorrelation=0"),
        (CKN([make_spec()]), {}, "learned nothing yet"),
        (case.start, {"augment": Augmentation(crop=9)}, "crop is 9 pixels, of images of 9x9"),
        (case.start, {"train_layers": 1}, "train_layers is 1, but all layers of this network are trained"),
        (case.start, {"start": "random"}, "start is 'random', .* give that option to a TrainedEncoderSpec"),
    ):
        with pytest.raises(InvalidSpec, match=said):
            trained_on(network=network, **options)
    with pytest.raises(InvalidSpec, match="expected a CKN that has learned"):
        train(None, case.images, case.labels)
    with pytest.raises(InvalidSpec, match="expected Training"):
        train(case.start, case.images, case.labels, {"epochs": 3})
    with pytest.raises(InvalidSpec, match="seed is -1"):
        train(case.start, case.images, case.labels, seed=-1)


def test_labels_and_images_that_do_not_do(trained_on, case):
    spoiled = case.images.copy()
    spoiled[3, 2, 2, 0] = np.nan
    for images, labels, said in (
        (None, np.zeros(120, int), "class"),
        (None, case.labels[:-1], "given 120 images, 119 labels"),
        (None, case.labels + 0.5, "labels"),
        (np.zeros((120, 9, 9, 3), np.float32), None, "3 channels"),
        (spoiled, None, "NaN"),
    ):
        with pytest.raises(InvalidData, match=said):
            trained_on(images, labels, epochs=1)
    with pytest.raises(InvalidData, match="given 120 images, no labels"):
        train(case.start, case.images, None)


@pytest.mark.parametrize("pixel", [np.nan, np.inf, 1e25])
@pytest.mark.parametrize("held_out", [False, True])
def test_a_pixel_that_is_none_is_named_wherever_its_image_goes(trained_on, case, held_out, pixel):
    number = held_out_split(case.labels, 0.1, 0)[int(held_out)][5]
    images = case.images.copy()
    images[number, 2, 3, 0] = pixel
    with pytest.raises(InvalidData, match=f"image {number} .* holds .* in row 2, column 3, channel 0"):
        trained_on(images, epochs=1)


def test_images_of_bytes_are_taken_as_their_network_takes_them(case, engine, rng):
    pixels = rng.integers(0, 256, (40, 9, 9, 1), np.uint8)
    labels, training = np.arange(40) % 2, Training(epochs=1, batch=10, augment=Augmentation(crop=1))
    found = [
        train(case.start, images, labels, training, backend=engine)
        for images in (pixels, (pixels / np.float32(255)).astype(np.float32))
    ]
    for one, two in zip(*(each.network.layers for each in found), strict=True):
        np.testing.assert_allclose(one.anchors, two.anchors, atol=1e-5)


def test_images_of_a_file_are_read_as_they_are_needed(case, bits, engine):
    watched = Watched(case.images)
    training = Training(epochs=1, batch=25)
    found = train(case.start, watched, case.labels, training, backend=engine)
    assert bits(found) == bits(train(case.start, case.images, case.labels, training, backend=engine))
    assert watched.seen == set(range(120))


class Drawn(Images):
    """So many images that are made as they are read."""

    dtype = np.dtype(np.float32)

    def __init__(self, n):
        self.shape = (n, 9, 9, 1)

    def read(self, start, stop):
        numbers = np.arange(start, stop, dtype=np.float32).reshape(-1, 1, 1, 1)
        places = np.arange(81, dtype=np.float32).reshape(1, 9, 9, 1)
        return np.sin(numbers * 0.7 + places * (1 + numbers % 2)).astype(np.float32)


def test_memory_is_independent_of_the_number_of_images(case, peak_memory, monkeypatch):
    """600 images more take 200 KB, and as much with their features in each of the layers."""
    for name, value in (("FEATURE_SHARE", 1 << 20), ("FEWEST", 100), ("AT_ONCE", 50)):
        monkeypatch.setattr(loop, name, value)
    engine, peaks = NumpyBackend(threads=1, memory=1 << 20, compiled=False), []
    for n in (200, 800):
        training = Training(epochs=1, batch=100, regularization=0.1)
        with peak_memory() as held:
            train(case.start, Drawn(n), np.arange(n) % 2, training, backend=engine)
        peaks.append(held())
    assert peaks[1] < peaks[0] + 600 * 120  # of labels and numbers


@pytest.mark.parametrize("loss", ["softmax", "squared-hinge", "squared"])
def test_a_step_is_given_the_slope_of_the_mean_loss_and_its_penalty(trained_on, case, monkeypatch, rng, loss):
    steps, runs = [], []

    class Run(loop._Run):
        def _step(self, images, targets, rate):
            runs.append((self, images, targets))
            return super()._step(images, targets, rate)

    def seen(self, gradients, rates):
        steps.append([gradient.copy() for gradient in gradients])

    monkeypatch.setattr(loop, "_Run", Run)
    monkeypatch.setattr(SGD, "step", seen)
    trained_on(loss=loss, optimizer="sgd", regularization=0.5, epochs=1, batch=60)
    (run, images, targets), gradients = runs[0], steps[0]
    assert len(images) == 60
    head, reference = run._head, get_backend("reference")
    parameters = [parameter.astype(np.float64) for parameter in run._optimizer.parameters]

    def objective(parameters):
        *anchors, weights, intercept = parameters
        network = CKN.from_anchors(run._start.specs, anchors)
        features = reference.encode(images, network.layers).reshape(60, -1)
        scores = (features - head.scaling.mean) / head.scaling.norm @ weights + intercept
        return head.loss(scores, targets)[0] / 60 + head.regularization / 2 * (weights**2).sum()

    for number, gradient in enumerate(gradients):
        direction = rng.normal(size=gradient.shape)
        if number < 2:
            direction = tangent(direction, run._anchors[number])
            np.testing.assert_allclose(tangent(gradient, run._anchors[number]), gradient, atol=1e-6)
        values = []
        for step in (1e-4, -1e-4):
            moved = [parameter.copy() for parameter in parameters]
            moved[number] += step * direction
            if number < 2:
                moved[number] /= np.linalg.norm(moved[number].reshape(len(direction), -1), axis=1)[
                    :, None, None, None
                ]
            values.append(objective(moved))
        slope, scale = (values[0] - values[1]) / 2e-4, np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert abs(slope - (gradient * direction).sum()) < 2e-3 * scale


def test_each_epoch_has_an_order_and_changes_of_its_own(trained_on, monkeypatch):
    taken, some = [], PreprocessedImages.some
    monkeypatch.setattr(
        PreprocessedImages, "some", lambda self, numbers: taken.append(list(numbers)) or some(self, numbers)
    )
    trained_on(epochs=3, batch=108, augment=Augmentation(flip=True))
    orders = [numbers for numbers in taken if len(numbers) == 108 and numbers != sorted(numbers)]
    assert len(orders) == 3
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(orders[0]))}


def test_a_gpu_trains_alike(case, device):
    """Images on it are brought to the host, where they are changed."""
    import cupy

    training = Training(epochs=1, batch=40, augment=Augmentation(crop=1), validation=0.2)
    few = {"images": case.images[:60], "labels": case.labels[:60]}
    expected = train(case.start, **few, training=training, backend="numpy")
    for images in (few["images"], cupy.asarray(few["images"])):
        found = train(case.start, images, few["labels"], training, backend=device)
        for one, two in zip(found.network.layers, expected.network.layers, strict=True):
            np.testing.assert_allclose(one.anchors, two.anchors, atol=2e-3)
        assert found.history[-1]["loss"] == pytest.approx(expected.history[-1]["loss"], rel=1e-2)
