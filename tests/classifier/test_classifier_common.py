"""Properties of every classifier: invariances, errors, determinism, progress, reconstruction."""

import itertools
import json
import re

import numpy as np
import pytest
from factories import overlapping_classes, seen, spoiled
from hypothesis import given, settings
from hypothesis import strategies as st

from ckncuda import Exponential, GramRidge, KernelRidge, NystromRidge, Ridge, Softmax, SquaredHinge
from ckncuda.classifier import KernelClassifier, LinearClassifier, TrainableClassifier, classifier_from_arrays
from ckncuda.errors import InvalidData, InvalidSpec

OF_FEATURES = [Ridge, Softmax, SquaredHinge, KernelRidge, NystromRidge]
KINDS = [*OF_FEATURES, GramRidge]
ITERATIVE, WITH_KERNEL = [Softmax, SquaredHinge], [KernelRidge, NystromRidge]
WITH_WEIGHTS = [*WITH_KERNEL, GramRidge]
FEATURES, LABELS = overlapping_classes(60, 15)


def fit(kind, features, labels, classifier=None, progress=None, **options):
    """Fit a kind with these options, or this classifier, to features."""
    if classifier is None:
        classifier = kind(**({"landmarks": 30} if kind is NystromRidge else {}) | options)
    return classifier.fit(seen(kind, features, features), labels, progress=progress)


def learned(classifier):
    return {name: array.tobytes() for name, array in classifier.arrays().items()}


def given_kernel(kind):
    """A λ and, where there is one, a kernel: nothing is chosen then."""
    kernel = {"kernel": Exponential(sigma=1.0)} if kind in WITH_KERNEL else {}
    return {"regularization": 1e-2} | kernel


def tight_scores(kind, features, labels):
    """Solve nearly exactly, so that only float32 rounding distinguishes two fits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ckncuda.classifier.lbfgs.TOLERANCE", 1e-8)
        patch.setattr("ckncuda.classifier.lbfgs.VALUE_TOLERANCE", 1e-12)
        fitted = fit(kind, features, labels, **given_kernel(kind))
        return fitted, fitted.scores(seen(kind, features, features))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(shift=st.floats(-50, 50), factor=st.floats(1e-3, 1e3), negative=st.booleans())
def test_scores_do_not_depend_on_the_place_and_scale_of_features(kind, shift, factor, negative):
    """Points of kernels are stored in half precision, inner products far from zero lose digits in float32."""
    shift = shift / 25 if kind is GramRidge else shift
    factor = -factor if negative else factor
    moved = ((FEATURES.astype(np.float64) + shift) * factor).astype(np.float32)
    tolerance = 2e-3 if issubclass(kind, LinearClassifier) else 2e-2
    expected = tight_scores(kind, FEATURES, LABELS)[1]
    np.testing.assert_allclose(tight_scores(kind, moved, LABELS)[1], expected, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("permutation", [[0, 1, 2], [1, 2, 0], [2, 1, 0]], ids=str)
def test_permuting_labels_permutes_classes(kind, permutation):
    names = np.array([4, 17, 1000])
    _, first = tight_scores(kind, FEATURES, LABELS)
    fitted, second = tight_scores(kind, FEATURES, names[np.array(permutation)[LABELS]])
    assert (fitted.classes_.tolist(), fitted.classes_.dtype) == ([4, 17, 1000], np.int64)
    np.testing.assert_allclose(second[:, permutation], first, atol=2e-3)
    predicted = fitted.predict(seen(kind, FEATURES, FEATURES))
    assert predicted.tolist() == names[second.argmax(axis=1)].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_learns_separable_classes_with_its_defaults(kind):
    features, labels = overlapping_classes(90, 40)
    features[np.arange(90), labels] += 20
    fitted = fit(kind, features, labels + 5)
    assert fitted.predict(seen(kind, features, features)).tolist() == (labels + 5).tolist()
    assert fitted.validation_accuracy_ == 1
    assert isinstance(fitted, TrainableClassifier) == (kind in OF_FEATURES)
    if isinstance(fitted, LinearClassifier):
        assert (fitted.weights_.dtype, fitted.weights_.shape) == (np.float32, (fitted.n_features, 3))
    assert (fitted.intercept_.dtype, fitted.intercept_.shape) == (np.float32, (3,))


@pytest.mark.parametrize(
    ("kind", "width", "options"),
    [
        *((kind, 15, {}) for kind in KINDS),
        *((kind, 100, {}) for kind in ITERATIVE),  # in the dual
        (Softmax, 15, {"optimizer": "sgd", "regularization": 1e-2}),
    ],
)
def test_same_data_and_seed_give_the_same_bytes(kind, width, options):
    first, second = (fit(kind, *overlapping_classes(60, width), **options) for _ in range(2))
    assert (learned(first), first.to_dict()) == (learned(second), second.to_dict())
    assert getattr(first, "search_", None) == getattr(second, "search_", None)


OF_KERNELS = {"Gram matrix", "choosing kernel and λ"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("kind", "options", "stages"),
    [
        (Ridge, {}, {"Gram matrix", "choosing λ"}),
        (Softmax, {}, {"Gram matrix", "choosing λ", "L-BFGS"}),
        (SquaredHinge, {}, {"Gram matrix", "choosing λ", "L-BFGS"}),
        (Softmax, {"regularization": 1e-2, "optimizer": "sgd"}, {"SGD and L-BFGS"}),
        (KernelRidge, {}, OF_KERNELS),
        (KernelRidge, {"validation": 0.2}, OF_KERNELS),
        (NystromRidge, {}, {"landmarks", "second moments", "choosing λ"} | OF_KERNELS),
        (GramRidge, {}, {"choosing kernel and λ"}),
    ],
)
def test_an_ordinary_fit_reports_its_progress_and_warns_of_nothing(kind, options, stages):
    calls = []
    fit(kind, *overlapping_classes(60, 100), progress=lambda *call: calls.append(call), **options)
    assert {stage for stage, _, _ in calls} == stages
    assert all(1 <= done <= total for _, done, total in calls)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("validation", [0.0, 0.2])
@pytest.mark.parametrize("when", [0.0, 0.5, 1.0])
def test_an_interrupted_fit_leaves_the_previous_one(kind, validation, when):
    if kind in ITERATIVE and validation == 0:
        validation = 0.1  # where leave-one-out has no closed form
    calls = []
    fitted = fit(kind, FEATURES, LABELS, progress=lambda *call: calls.append(call), validation=validation)
    scores = fitted.scores(seen(kind, FEATURES, FEATURES)).tobytes()
    before, last = dict(vars(fitted)), round(when * (len(calls) - 1))
    calls.clear()

    def interrupt(*call):
        calls.append(call)
        if len(calls) > last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(kind, FEATURES + np.float32(1), LABELS, fitted, interrupt)
    with pytest.raises(InvalidData):
        fit(kind, FEATURES, LABELS[1:], fitted)
    assert vars(fitted) == before
    assert fitted.scores(seen(kind, FEATURES, FEATURES)).tobytes() == scores


@pytest.mark.parametrize("kind", KINDS)
def test_features_and_labels_are_not_changed(kind):
    features, labels = FEATURES.copy(), LABELS.copy()
    fit(kind, features, labels, **given_kernel(kind)).scores(seen(kind, features, features))
    assert features.tobytes() == FEATURES.tobytes()
    assert labels.tobytes() == LABELS.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_rebuilt_classifier_predicts_the_same(kind):
    fitted = fit(kind, FEATURES, LABELS * 3, **given_kernel(kind))
    again = classifier_from_arrays(json.loads(json.dumps(fitted.to_dict())), fitted.arrays())
    assert type(again) is (LinearClassifier if isinstance(fitted, LinearClassifier) else KernelClassifier)
    assert not isinstance(again, TrainableClassifier)
    assert (again.to_dict(), learned(again)) == (fitted.to_dict(), learned(fitted))
    assert (again.n_features, again.n_parameters) == (fitted.n_features, fitted.n_parameters)
    values = seen(kind, FEATURES, FEATURES)
    assert again.scores(values).tobytes() == fitted.scores(values).tobytes()
    assert again.predict(values).tolist() == fitted.predict(values).tolist()


def test_no_other_classifier_is_rebuilt():
    fitted = fit(Ridge, FEATURES, LABELS)
    assert fitted.to_dict() == {"name": "linear"}
    with pytest.raises(ValueError, match="there is no classifier 'magic'"):
        classifier_from_arrays({"name": "magic"}, fitted.arrays())


@pytest.mark.parametrize("kind", KINDS)
def test_fits_and_scores_are_the_same_in_blocks(kind, monkeypatch):
    whole = fit(kind, FEATURES, LABELS, **given_kernel(kind))
    values = seen(kind, FEATURES, FEATURES)
    scores = whole.scores(values)
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 8 * 15 * 7)
    np.testing.assert_allclose(whole.scores(values), scores, atol=1e-5)
    pieces = fit(kind, FEATURES, LABELS, **given_kernel(kind))
    np.testing.assert_allclose(pieces.scores(values), scores, atol=1e-3)


@pytest.mark.parametrize("kind", OF_FEATURES)
@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (FEATURES, LABELS[:-1], r"59 labels .* 60 images"),
        (FEATURES[:1], LABELS[:1], r"the only label is 0.*two classes"),
        (FEATURES, np.zeros(60, int), r"all 60 labels are 0.*two classes"),
        (FEATURES, LABELS - 1, r"label -1 of image 0; expected 0 or greater"),
        (FEATURES, LABELS / 2, r"label 0.5 of image 1; expected whole numbers"),
        (FEATURES, np.eye(7)[LABELS % 7], r"\(60, 7\); expected one axis.*argmax"),
        (FEATURES[0], LABELS, r"shape \(15,\).*\[images, features\]"),
        (FEATURES[:0], LABELS[:0], r"shape \(0, 15\)"),
        ([["a"]], [0], "must be numbers"),
        (spoiled(FEATURES, np.nan), LABELS, r"image 7 hold NaN or infinity"),
        (spoiled(FEATURES, np.inf), LABELS, r"image 7 hold NaN or infinity"),
        (FEATURES.astype(np.float64) * 1e39, LABELS, r"image 0 hold NaN or infinity"),
        (np.full((60, 4), 0.1, np.float32), LABELS, r"features of all 60 images are equal"),
    ],
)
def test_bad_data_is_refused(kind, features, labels, words):
    with pytest.raises(InvalidData, match=words):
        kind(regularization=1e-2).fit(features, labels)


@pytest.mark.parametrize("kind", OF_FEATURES)
@pytest.mark.parametrize("widths", [(5, 6), (16,), (15, 0), (-1, 16), ()])
def test_widths_that_are_not_those_of_the_features_are_refused(kind, widths):
    said = r" \+ ".join(map(str, widths))
    with pytest.raises(InvalidData, match=rf"15 features, but the encoders are said to give {said}"):
        kind().fit(FEATURES, LABELS, widths=widths)


NAN, INF = float("nan"), float("inf")
BAD_LAMBDAS = [0, -1.0, NAN, INF, "best"]
BAD_WEIGHTS = [[], [0, 0.0], [1, -1], [1, NAN], [1, INF], [1, "2"], None, 2.0]


@pytest.mark.parametrize(
    ("kinds", "option", "values", "words"),
    [
        (KINDS, "regularization", BAD_LAMBDAS, r'expected "auto" or a number greater than 0 \(0 is'),
        (KINDS, "validation", [1, -0.1, "a"], "expected a fraction"),
        (ITERATIVE, "validation", [0], "expected a fraction"),
        (KINDS, "seed", [-1, 0.5], "expected a whole number"),
        (ITERATIVE, "max_iterations", [0], "expected at least 1"),
        ([Softmax], "optimizer", ["adam"], 'expected "lbfgs" or "sgd"'),
        (WITH_WEIGHTS, "weights", ["equal"], 'expected numbers, or "auto"'),
        (WITH_WEIGHTS, "weights", BAD_WEIGHTS, "expected numbers that are not negative, one positive"),
        (WITH_KERNEL, "kernel", ["exp", None, Exponential], "expected a kernel such as ArcCosine"),
        ([NystromRidge], "landmarks", [1, 2.5], "expected a whole number of at least 2"),
    ],
)
def test_bad_options_are_refused(kinds, option, values, words):
    for kind, value in itertools.product(kinds, values):
        # Where λ is given, validation may be 0.
        given = {"regularization": 1e-2} if value == -0.1 else {}
        named = option
        shown = "the class Exponential, .*" if value is Exponential else re.escape(repr(value))
        if isinstance(value, list) and len(value) == 2 and value != [0, 0.0]:  # the second of them is wrong
            named, shown = "weights.1.", re.escape(repr(value[1]))
        check_refused(kind, given | {option: value}, rf"{named} (is|are) {shown}; {words}")


@pytest.mark.parametrize("kind", WITH_WEIGHTS)
def test_options_that_do_not_suit_what_they_are_for_are_refused(kind):
    check_refused(kind, {"weights": [1, 1]}, "2 weights were given for 1 (encoders|kernels)")
    if kind in WITH_KERNEL:
        check_refused(kind, {"kernel": Exponential(quantile=0.1)}, "takes sigma, not quantile")


def check_refused(kind, options, words):
    with pytest.raises(InvalidSpec, match=words):
        kind(**options).check_options(encoders=1)
    with pytest.raises(InvalidSpec, match=words):
        fit(kind, FEATURES, LABELS, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_errors_say_what_to_do(kind):
    with pytest.raises(InvalidSpec, match=rf"this {kind.__name__} is not fitted; call fit"):
        kind().predict(FEATURES)
    fitted = fit(kind, FEATURES, LABELS, **given_kernel(kind))
    width = fitted.n_features
    with pytest.raises(InvalidData, match=rf"{width - 1} columns; this classifier was fitted on {width}"):
        fitted.scores(seen(kind, FEATURES, FEATURES)[:, :-1])
    with pytest.raises(InvalidData, match=r"image 7 hold NaN"):
        fitted.predict(seen(kind, spoiled(FEATURES, np.nan), FEATURES))


@pytest.mark.parametrize(
    ("weights", "intercept", "classes", "words"),
    [
        (np.ones((4, 3)), np.ones(2), [0, 1, 2], r"\(4, 3\), intercept \(2,\)"),
        (np.ones((4, 3)), np.ones(3), [0, 1], r"classes \(2,\)"),
        (np.ones((4, 1)), np.ones(1), [0], r"K at least 2"),
        (np.ones((4, 2)), np.ones(2), [1, 0], r"increasing order"),
        (np.full((4, 2), np.nan), np.ones(2), [0, 1], r"NaN"),
        (np.ones((4, 2)), [0, np.inf], [0, 1], r"infinity"),
    ],
)
def test_arrays_that_make_no_linear_classifier_are_refused(weights, intercept, classes, words):
    with pytest.raises(InvalidData, match=words):
        LinearClassifier.from_arrays(weights, intercept, classes)


def test_each_encoders_features_have_the_same_length_for_linear_classifiers_too():
    stretched = FEATURES.copy()
    stretched[:, 5:] *= 1000
    first, second = (Ridge(1e-2).fit(x, LABELS, widths=(5, 10)) for x in (FEATURES, stretched))
    np.testing.assert_allclose(first.scores(FEATURES), second.scores(stretched), atol=1e-4)
    alone = Ridge(1e-2).fit(stretched, LABELS).scores(stretched)
    assert np.abs(alone - first.scores(FEATURES)).max() > 0.05
