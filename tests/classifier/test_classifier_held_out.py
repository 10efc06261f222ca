"""Held-out images that choose: left out together, without a refit, as by fits on the others from scratch."""

import itertools
import re
import tracemalloc

import numpy as np
import pytest
from factories import kernel_matrix, least_squares, overlapping_classes, scaled_by_the_book
from hypothesis import given, settings
from hypothesis import strategies as st

from ckncuda import Exponential, KernelRidge, NystromRidge, Ridge
from ckncuda.classifier import landmarks
from ckncuda.classifier.choice import Choice, Options, best_regularization
from ckncuda.classifier.held_out_system import HeldOutPrimalSystem
from ckncuda.classifier.systems import FeatureSystem, KernelSystem
from ckncuda.classifier.training_data import FeatureScaling, TrainingData, signed_targets
from ckncuda.classifier.validation import held_out_split
from ckncuda.errors import InvalidSpec

KINDS = [Ridge, KernelRidge, NystromRidge]
CHOOSING = {"choose": "held-out", "validation": 0.25}
SIZES = {
    "images": st.integers(6, 30),
    "width": st.integers(2, 40),
    "classes": st.integers(2, 4),
    "seed": st.integers(0, 1000),
    "fraction": st.floats(0.05, 0.7),
    "power": st.floats(-5, 0.5),
}


def system_of(kind, features, labels, held_out, widths=None):
    data = TrainingData(features, widths or (features.shape[1],), np.unique(labels), labels, held_out)
    return kind(data, FeatureScaling.of(data.features, data.widths), None)


def drawn(images, width, classes, seed, fraction):
    """Draw features, labels, and which images are kept and held out."""
    features, labels = overlapping_classes(images, width, classes, seed)
    return features, labels, *held_out_split(labels, fraction, seed)


def refitted(features, labels, kept, held_out, regularization, widths=None):
    """Return the residuals of the images held out, of least squares on the others."""
    rows, signs = scaled_by_the_book(features, widths), signed_targets(labels, labels.max() + 1)
    weights, intercept = least_squares(rows[kept], signs[kept], len(rows) * regularization)
    return signs[held_out] - (rows[held_out] @ weights + intercept)


def refitted_kernel(gram, targets, left_out, regularization):
    """Return the residuals of the last images, of (K + 11ᵀ + nλI) α = Y on the others."""
    n, kept = len(gram), len(gram) - left_out
    shifted = gram[:kept, :kept] + 1 + n * regularization * np.eye(kept)
    return targets[kept:] - (gram[kept:, :kept] + 1) @ np.linalg.solve(shifted, targets[:kept])


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * max(1.0, np.abs(expected).max()))


# ---- what is left out -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(**SIZES)
def test_features_in_the_dual_are_left_out_as_by_a_refit(images, width, classes, seed, fraction, power):
    features, labels, kept, held_out = drawn(images, width, classes, seed, fraction)
    system = system_of(FeatureSystem, features, labels, held_out)
    assert sorted(system.order[-len(held_out) :]) == held_out.tolist()
    expected = refitted(features, labels, kept, system.order[-len(held_out) :], 10**power)
    solution = system.solution(Choice(10**power))
    close(solution.held_out_residuals(len(held_out)), expected)
    right = np.mean((labels_signs(system) - expected).argmax(axis=1) == labels_signs(system).argmax(axis=1))
    assert system.accuracy_at(10**power) == right


def labels_signs(system):
    """Return the targets ±1 of the images held out, in the system's order."""
    return system.intercept + system.targets[-system.held_out :]


@settings(deadline=None, max_examples=50)
@given(**SIZES, block=st.sampled_from([3, 10_000]))
def test_features_in_the_primal_are_judged_as_by_a_refit(
    images, width, classes, seed, fraction, power, block
):
    features, labels, kept, held_out = drawn(images, width, classes, seed, fraction)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 8 * width * block)
        system = system_of(HeldOutPrimalSystem, features, labels, held_out)
        expected = refitted(features, labels, kept, held_out, 10**power)
        close(system.held_out_residuals(10**power), expected)
        signs = signed_targets(labels, classes)
        right = (signs[held_out] - expected).argmax(axis=1) == labels[held_out]
        assert system.accuracy_at(10**power) == right.mean()
        rows = scaled_by_the_book(features)
        close(system.weights(10**power), least_squares(rows, signs, images * 10**power)[0])


@settings(deadline=None, max_examples=25)
@given(**SIZES, encoders=st.integers(1, 3), weight=st.floats(0, 1), sigma=st.floats(0.5, 3))
def test_kernels_are_left_out_as_by_a_refit(
    images, width, classes, seed, fraction, power, encoders, weight, sigma
):
    features, labels, _, held_out = drawn(images, width + 1, classes, seed, fraction)
    widths = {1: (width + 1,), 2: (1, width), 3: (1, 1, width - 1)}[encoders]
    weights = {1: (1.0,), 2: (weight, 1 - weight), 3: (weight, 0.0, 1 - weight)}[encoders]
    system = system_of(KernelSystem, features, labels, held_out, widths)
    assert sorted(system.order[-len(held_out) :]) == held_out.tolist()
    choice = Choice(10**power, weights, (Exponential(sigma=sigma),) * encoders)
    gram = kernel_matrix(system.points, system.points, widths, choice.kernels, weights)
    for count in (images, images - 1, images // 2):
        left_out = system.held_out_among(count)
        assert left_out == (len(held_out) if count == images else min(len(held_out), count // 2))
        targets = system.targets[-count:]
        expected = refitted_kernel(gram[-count:, -count:], targets, left_out, 10**power)
        close(system.solution(choice, count).held_out_residuals(left_out), expected)
        right = (targets[-left_out:] - expected).argmax(axis=1) == targets[-left_out:].argmax(axis=1)
        assert system.accuracy_among(choice, count, left_out) == right.mean()


def test_part_of_the_images_is_left_out_as_by_a_kernel_with_a_constant():
    features, labels, _, held_out = drawn(40, 60, 3, 3, 0.25)
    system = system_of(FeatureSystem, features, labels, held_out)
    rows = scaled_by_the_book(features)[system.order[-26:]]
    expected = refitted_kernel(rows @ rows.T, system.targets[-26:], 10, 1e-2)
    assert system.held_out_among(26) == 10
    close(system.solution(Choice(1e-2), 26).held_out_residuals(10), expected)
    assert system.held_out_among(18) == 9


@pytest.mark.parametrize("regularization", [1e-1, 1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("kind", [FeatureSystem, KernelSystem])
def test_single_precision_of_many_images_is_as_good_as_double(monkeypatch, kind, regularization):
    features, labels, _, held_out = drawn(300, 500, 3, 0, 0.2)
    choice = Choice(regularization, (1.0,), (Exponential(sigma=1.0),))
    double = system_of(kind, features, labels, held_out).solution(choice)
    monkeypatch.setattr("ckncuda.classifier.systems.MANY", 300)
    single = system_of(kind, features, labels, held_out).solution(choice)
    assert single.factor.dtype == (np.float64 if regularization < 1e-6 else np.float32)
    found, expected = (solution.held_out_residuals(60) for solution in (single, double))
    assert found.dtype == np.float64
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("images", [2, 17, 5000])
def test_where_none_is_held_out_the_order_is_the_one_it_was(images):
    """Models of before are learned again bit for bit."""
    features, labels = overlapping_classes(images, 2, 2)
    order = system_of(FeatureSystem, features, labels, np.arange(0)).order
    assert order.tolist() == np.random.default_rng(0).permutation(images).tolist()


# ---- what is chosen ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
@pytest.mark.parametrize("width", [30, 150], ids=["primal", "dual"])
def test_ridge_is_chosen_by_the_images_of_the_split(monkeypatch, width, many):
    if many:  # a search begins on 25 of them; in double precision, as refits are
        monkeypatch.setattr("ckncuda.classifier.ridge.FeatureSystem", LargeSystem)
        monkeypatch.setattr("ckncuda.classifier.choice.FEW", 20)
    features, labels = overlapping_classes(100, width)
    fitted = Ridge(**CHOOSING, seed=3).fit(features, labels)
    kept, held_out = held_out_split(labels, 0.25, 3)
    signs = signed_targets(labels, 3)[held_out]
    for tried, accuracy in fitted.search_:
        predicted = (signs - refitted(features, labels, kept, held_out, tried)).argmax(axis=1)
        assert accuracy == np.mean(predicted == labels[held_out])
    assert len(fitted.search_) > 2
    assert fitted.regularization_ == best_regularization(fitted.search_)
    assert fitted.validation_accuracy_ == dict(fitted.search_)[fitted.regularization_]
    assert fitted.validation_ == (
        f"25 images held out of 100; λ = {fitted.regularization_:g} was chosen on them, "
        "then all 100 were fitted"
    )
    everything = Ridge(fitted.regularization_).fit(features, labels)
    np.testing.assert_allclose(fitted.weights_, everything.weights_, atol=1e-5)
    np.testing.assert_allclose(fitted.intercept_, everything.intercept_, atol=1e-5)


class LargeSystem(FeatureSystem):
    """A system that is searched as one of many images is."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.large = True


@pytest.mark.parametrize("few", [20, 1000], ids=["many", "few"])
@pytest.mark.parametrize("widths", [(12,), (5, 7)])
def test_kernel_ridge_is_chosen_by_the_images_of_the_split(monkeypatch, widths, few):
    monkeypatch.setattr("ckncuda.classifier.choice.FEW", few)
    features, labels = overlapping_classes(90, 12)
    fitted = KernelRidge(**CHOOSING, seed=3).fit(features, labels, widths=widths)
    held_out = held_out_split(labels, 0.25, 3)[1]
    count = len(held_out)
    system = system_of(KernelSystem, features, labels, held_out, widths)
    assert sorted(system.order[-count:]) == held_out.tolist()
    options = Options("auto", len(widths), "auto", "auto")
    chosen = Choice(fitted.regularization_, fitted.kernel_weights_, fitted.kernels_)
    place = next(p for p in itertools.product(*map(range, options.sizes)) if options.at(p) == chosen)
    assert system.accuracy_among(chosen, 90, count) == fitted.validation_accuracy_
    for axis, size in enumerate(options.sizes):
        for step in (-1, 1):
            if 0 <= place[axis] + step < size:
                neighbour = options.at((*place[:axis], place[axis] + step, *place[axis + 1 :]))
                assert system.accuracy_among(neighbour, 90, count) <= fitted.validation_accuracy_
    said = (
        rf"{count} images held out of 90; .*λ = {fitted.regularization_:g} were chosen on them, then all 90"
    )
    assert re.match(said, fitted.validation_)
    assert "leave-one-out" not in fitted.validation_
    if len(widths) == 1:  # several encoders have a kernel each, which cannot be given
        given = {"kernel": fitted.kernels_[0], "regularization": fitted.regularization_}
        everything = KernelRidge(**given).fit(features, labels)
        np.testing.assert_allclose(fitted.dual_, everything.dual_, rtol=1e-4, atol=1e-5)
        assert fitted.points_.tobytes() == everything.points_.tobytes()


@pytest.mark.parametrize("width", [30, 150], ids=["primal", "dual"])
def test_what_is_given_is_measured_on_the_images_held_out(width):
    features, labels = overlapping_classes(100, width)
    fitted = Ridge(0.01, **CHOOSING).fit(features, labels)
    assert fitted.validation_ == "25 images held out of 100; λ = 0.01 was given, then all 100 were fitted"
    kept, held_out = held_out_split(labels, 0.25, 0)
    predicted = signed_targets(labels, 3)[held_out] - refitted(features, labels, kept, held_out, 0.01)
    assert fitted.validation_accuracy_ == np.mean(predicted.argmax(axis=1) == labels[held_out])
    kernel = KernelRidge(Exponential(sigma=1.0), 0.01, **CHOOSING).fit(features, labels)
    measured = KernelRidge(Exponential(sigma=1.0), 0.01, validation=0.25).fit(features, labels)
    assert kernel.validation_ == measured.validation_
    # Refits of before have the 1/n, centring and scaling of the images kept.
    assert kernel.validation_accuracy_ == pytest.approx(measured.validation_accuracy_, abs=0.1)


def test_landmarks_pass_it_on(monkeypatch):
    """Ridge, kernels and weights are judged by the same images."""
    inside, judged = [], []

    def fit_ridge(classifier, ridge, factor, mapped, *others):
        inside.append((ridge, mapped.copy()))
        return original(classifier, ridge, factor, mapped, *others)

    def chosen(classifier, data, progress):
        judged.append(data.features[data.held_out])
        return original_chosen(classifier, data, progress)

    original, original_chosen = landmarks.fit_ridge, KernelRidge.chosen
    monkeypatch.setattr(landmarks, "fit_ridge", fit_ridge)
    monkeypatch.setattr(KernelRidge, "chosen", chosen)
    features, labels = overlapping_classes(120, 12)
    fitted = NystromRidge(landmarks=40, **CHOOSING, seed=3).fit(features, labels, widths=(5, 7))
    kept, held_out = held_out_split(labels, 0.25, 3)
    assert sorted(judged[0].tolist()) == sorted(features[held_out].tolist())
    ridge, mapped = inside[0]
    system = system_of(HeldOutPrimalSystem, mapped, labels, held_out)
    for tried, accuracy in ridge.search_:
        expected = refitted(mapped, labels, kept, held_out, tried)
        if tried >= 1e-4:
            close(system.held_out_residuals(tried), expected)
        right = (signed_targets(labels, 3)[held_out] - expected).argmax(axis=1) == labels[held_out]
        assert accuracy == right.mean()
    assert fitted.regularization_ == ridge.regularization_
    assert fitted.validation_accuracy_ == ridge.validation_accuracy_
    assert re.search(
        r"^30 images held out of 120; λ = \S+ was chosen on them, .*; 40 landmarks; κ = .*, weights .* were "
        "chosen on 30 of the images held out, but for what was given$",
        fitted.validation_,
    )


@pytest.mark.parametrize(
    ("fraction", "judges", "others"), [(0.1, 20, 60), (0.5, 40, 40), (0.9, 60, 20)], ids=str
)
def test_up_to_half_of_the_images_that_choose_kernels_on_landmarks_are_held_out(
    monkeypatch, fraction, judges, others
):
    monkeypatch.setattr(landmarks, "CHOOSE_AMONG", 80)
    features, labels = overlapping_classes(200, 6, 2)
    data = TrainingData.of(features, labels)
    few = NystromRidge(choose="held-out", validation=fraction, seed=2)._few(data)
    held_out = {tuple(row) for row in features[held_out_split(labels, fraction, 2)[1]].tolist()}
    apart = [tuple(row) in held_out for row in few.features.tolist()]
    assert np.flatnonzero(apart).tolist() == few.held_out.tolist()
    assert (len(few.held_out), len(few.kept())) == (judges, others)
    assert len(np.unique(few.features, axis=0)) == 80


def telling(kind):
    """Return features that tell the classes, faintly also labels that are true of the images kept alone.

    So do features of anchor points that learned from those: a weak λ makes the most of them.  The labels that
    are told, with those of the images held out shuffled, and options come too.
    """
    features, labels = overlapping_classes(240, 20)
    held_out = held_out_split(labels, 0.25, 0)[1]
    told = labels.copy()
    told[held_out] = np.random.default_rng(0).permutation(labels[held_out])
    faint = 0.3 * np.eye(3, dtype=np.float32)[told]
    options = {"validation": 0.25} | ({} if kind is Ridge else {"kernel": Exponential(sigma=2.0)})
    return np.hstack([features, faint]), labels, told, options | FEWER.get(kind, {})


FEWER = {NystromRidge: {"landmarks": 60}}


@pytest.mark.parametrize("kind", KINDS)
def test_features_that_tell_the_labels_of_the_others_mislead_leave_one_out_alone(kind):
    features, labels, _, options = telling(kind)
    misled = kind(**options).fit(features, labels)
    fitted = kind(**options, choose="held-out").fit(features, labels)
    clean = kind(**options, choose="held-out").fit(features[:, :20], labels)
    assert fitted.regularization_ >= 100 * misled.regularization_
    assert fitted.validation_accuracy_ >= misled.validation_accuracy_ + 0.1
    assert fitted.validation_accuracy_ >= clean.validation_accuracy_ - 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_other_labels_of_the_images_held_out_choose_otherwise(monkeypatch, kind):
    features, labels, told, options = telling(kind)
    split = held_out_split(labels, 0.25, 0)
    for module in ("validation", "landmarks"):  # it would be another one with other labels
        monkeypatch.setattr(f"ckncuda.classifier.{module}.held_out_split", lambda *_: split)
    first, second = (kind(**options, choose="held-out").fit(features, each) for each in (labels, told))
    assert first.regularization_ >= 100 * second.regularization_


def test_a_given_regularization_that_is_too_small_for_the_images_kept_is_refused():
    """They are fewer than the features, all are not: no accuracy could be told."""
    features, labels = overlapping_classes(60, 50)
    with pytest.raises(InvalidSpec, match="regularization 1e-30 is too small for these features"):
        Ridge(1e-30, **CHOOSING).fit(features, labels)
    assert Ridge(1e-30).fit(features, labels).validation_accuracy_ > 0
    assert Ridge(**CHOOSING).fit(features, labels).validation_accuracy_ > 0


# ---- the option -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_bad_values_are_refused(kind):
    for value in ("best", None, 1, ["held-out"]):
        with pytest.raises(
            InvalidSpec, match=r"choose is .*(best|None|1|held-out).*; expected \"leave-one-out\" or"
        ):
            kind(choose=value, validation=0.1).check_options()
    words = (
        r'choose is "held-out", but validation is 0: .*; give validation=0\.1, .*or choose="leave-one-out"'
    )
    for options in ({}, {"regularization": 1e-2}):
        with pytest.raises(InvalidSpec, match=words):
            kind(choose="held-out", **options).check_options()
        with pytest.raises(InvalidSpec, match=words):
            kind(choose="held-out", **options).fit(*overlapping_classes(30, 5))
    kind(choose="held-out", validation=0.1).check_options()


@pytest.mark.parametrize("kind", KINDS)
def test_leave_one_out_is_the_default(kind):
    features, labels = overlapping_classes(60, 15)
    for validation in (0, 0.2):
        first, second = (
            kind(validation=validation, **choose).fit(features, labels)
            for choose in ({}, {"choose": "leave-one-out"})
        )
        assert first.validation_ == second.validation_
        for name, array in first.arrays().items():
            assert second.arrays()[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [15, 90])
def test_same_data_and_seed_give_the_same_bytes(kind, width):
    features, labels = overlapping_classes(60, width)
    first, second = (kind(**CHOOSING).fit(features, labels) for _ in range(2))
    assert (first.to_dict(), first.validation_) == (second.to_dict(), second.validation_)
    for name, array in first.arrays().items():
        assert second.arrays()[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", [0.0, 0.5, 1.0])
def test_an_interrupted_fit_leaves_the_previous_one(kind, when):
    features, labels = overlapping_classes(60, 15)
    calls = []
    fitted = kind(**CHOOSING).fit(features, labels, lambda *call: calls.append(call))
    before, last = dict(vars(fitted)), round(when * (len(calls) - 1))
    assert all(1 <= done <= total for _, done, total in calls)
    calls.clear()

    def interrupt(*call):
        calls.append(call)
        if len(calls) > last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted.fit(features + np.float32(1), labels, interrupt)
    assert vars(fitted) == before


@pytest.mark.parametrize(
    ("classifier", "widths"),
    [
        *((Ridge(**CHOOSING), widths) for widths in ((700,), (300,))),
        *((KernelRidge(Exponential(sigma=1.0), **CHOOSING), widths) for widths in ((300,), (200, 300))),
        (NystromRidge(landmarks=300, **CHOOSING), (200,)),
    ],
    ids=["dual", "primal", "one kernel", "two", "landmarks"],
)
def test_no_more_memory_is_taken_than_was_counted(monkeypatch, classifier, widths):
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 1 << 18)
    features, labels = overlapping_classes(600, sum(widths))
    classifier.fit(features[:50], labels[:50], widths=widths)  # what is imported and looked up is there then
    tracemalloc.start()
    classifier.fit(features, labels, widths=widths)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    counted = classifier.bytes_to_fit(*features.shape, len(widths))
    assert 0.2 * counted < peak <= counted
