"""Properties of every classifier: invariances, errors, determinism, progress, reconstruction."""

import json
import warnings

import numpy as np
import pytest
from factories import overlapping_classes
from hypothesis import given, settings
from hypothesis import strategies as st

from ckncuda import Exponential, GramRidge, KernelRidge, NystromRidge, Ridge, Softmax, SquaredHinge
from ckncuda.classifier import (
    KernelClassifier,
    LinearClassifier,
    TrainableClassifier,
    classifier_from_arrays,
)
from ckncuda.errors import InvalidData, InvalidSpec

OF_FEATURES = [Ridge, Softmax, SquaredHinge, KernelRidge, NystromRidge]
KINDS = [*OF_FEATURES, GramRidge]
WITH_WEIGHTS = [KernelRidge, NystromRidge, GramRidge]
FEATURES, LABELS = overlapping_classes(60, 15)


def seen(kind, features, training):
    """What a kind of classifier sees of features: these, or the inner products with those of the training."""
    return features @ training.T if kind is GramRidge else features


def fit(kind, features, labels, classifier=None, progress=None, **options):
    """Fit a kind with these options, or this classifier, to features."""
    if classifier is None:
        classifier = kind(**({"landmarks": 30} if kind is NystromRidge else {}) | options)
    return classifier.fit(seen(kind, features, features), labels, progress=progress)


def learned(classifier):
    return {name: array.tobytes() for name, array in classifier.arrays().items()}


def given_kernel(kind):
    """A λ and, where there is one, a kernel: nothing is chosen then."""
    kernel = {"kernel": Exponential(sigma=1.0)} if kind in (KernelRidge, NystromRidge) else {}
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
    assert fitted.classes_.tolist() == [4, 17, 1000]
    assert fitted.classes_.dtype == np.int64
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
    ("kind", "options"),
    [*((kind, {}) for kind in KINDS), (Softmax, {"optimizer": "sgd"} | given_kernel(Softmax))],
)
def test_same_data_and_seed_give_the_same_bytes(kind, options):
    first, second = (fit(kind, FEATURES, LABELS, **options) for _ in range(2))
    assert learned(first) == learned(second)
    assert first.to_dict() == second.to_dict()
    assert getattr(first, "search_", None) == getattr(second, "search_", None)


@pytest.mark.parametrize(
    ("kind", "options", "stages"),
    [
        (Ridge, {}, {"Gram matrix", "choosing λ"}),
        (Softmax, {}, {"Gram matrix", "choosing λ", "L-BFGS"}),
        (SquaredHinge, {}, {"Gram matrix", "choosing λ", "L-BFGS"}),
        (Softmax, {"regularization": 1e-2, "optimizer": "sgd"}, {"SGD and L-BFGS"}),
        (KernelRidge, {}, {"Gram matrix", "choosing kernel and λ"}),
        (KernelRidge, {"validation": 0.2}, {"Gram matrix", "choosing kernel and λ"}),
        (
            NystromRidge,
            {},
            {"Gram matrix", "choosing kernel and λ", "landmarks", "second moments", "choosing λ"},
        ),
        (GramRidge, {}, {"choosing kernel and λ"}),
    ],
)
def test_progress_is_reported(kind, options, stages):
    features, labels = overlapping_classes(60, 100)
    calls = []
    fit(kind, features, labels, progress=lambda *call: calls.append(call), **options)
    assert {stage for stage, _, _ in calls} == stages
    assert all(1 <= done <= total for _, done, total in calls)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("validation", [0.0, 0.2])
@pytest.mark.parametrize("when", [0.0, 0.5, 1.0])
def test_an_interrupted_fit_leaves_the_previous_one(kind, validation, when):
    if issubclass(kind, (Softmax, SquaredHinge)) and validation == 0:
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
    assert again.to_dict() == fitted.to_dict()
    assert learned(again) == learned(fitted)
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


def spoiled(value):
    features = FEATURES.copy()
    features[7, 3] = value
    return features


@pytest.mark.parametrize("kind", OF_FEATURES)
@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (FEATURES, LABELS[:-1], r"59 labels .* 60 images"),
        (FEATURES, np.zeros(60, int), r"all 60 labels are 0.*two classes"),
        (FEATURES, LABELS - 1, r"label -1 of image 0 is negative"),
        (FEATURES, LABELS / 2, r"float64.*expected integers"),
        (FEATURES, LABELS[:, None], r"\(60, 1\).*expected integers"),
        (FEATURES[0], LABELS, r"shape \(15,\).*\[images, features\]"),
        (FEATURES[:0], LABELS[:0], r"shape \(0, 15\)"),
        ([["a"]], [0], "must be numbers"),
        (spoiled(np.nan), LABELS, r"image 7 hold NaN or infinity"),
        (spoiled(np.inf), LABELS, r"image 7 hold NaN or infinity"),
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


@pytest.mark.parametrize(
    ("kinds", "options", "words"),
    [
        (
            KINDS,
            {"regularization": 0},
            r"regularization is 0; expected .auto. or a number greater than 0 \(0 is",
        ),
        (KINDS, {"regularization": -1.0}, r"regularization is -1.0"),
        (KINDS, {"regularization": float("nan")}, r"regularization is nan"),
        (KINDS, {"regularization": float("inf")}, r"regularization is inf"),
        (KINDS, {"regularization": "best"}, r"regularization is 'best'"),
        (KINDS, {"validation": 1}, r"validation is 1; expected a fraction"),
        (KINDS, {"regularization": 1e-2, "validation": -0.1}, r"validation is -0.1"),
        (KINDS, {"validation": "a"}, r"validation is 'a'"),
        ([Softmax, SquaredHinge], {"validation": 0}, r"validation is 0; expected a fraction"),
        (KINDS, {"seed": -1}, r"seed is -1"),
        (KINDS, {"seed": 0.5}, r"seed is 0.5"),
        ([Softmax, SquaredHinge], {"max_iterations": 0}, r"max_iterations is 0; expected at least 1"),
        ([Softmax], {"optimizer": "adam"}, r"optimizer is 'adam'; expected .lbfgs. or .sgd."),
        (WITH_WEIGHTS, {"weights": "equal"}, r"weights are 'equal'; expected numbers, or .auto."),
        (
            WITH_WEIGHTS,
            {"weights": []},
            r"weights are \[\]; expected numbers that are not negative, one positive",
        ),
        (WITH_WEIGHTS, {"weights": [0, 0.0]}, r"weights are \[0, 0.0\]"),
        (WITH_WEIGHTS, {"weights": [1, -1]}, r"weights are \[1, -1\]"),
        (WITH_WEIGHTS, {"weights": [1, float("nan")]}, r"weights are \[1, nan\]"),
        (WITH_WEIGHTS, {"weights": [1, float("inf")]}, r"weights are \[1, inf\]"),
        (WITH_WEIGHTS, {"weights": [1, "2"]}, r"weights are \[1, '2'\]"),
        (WITH_WEIGHTS, {"weights": None}, r"weights are None"),
        (WITH_WEIGHTS, {"weights": 2.0}, r"weights are 2.0"),
        (WITH_WEIGHTS, {"weights": [1, 1]}, r"2 weights were given for 1 (encoders|kernels)"),
        (
            [KernelRidge, NystromRidge],
            {"kernel": "exp"},
            r"kernel is 'exp'; expected a kernel such as ArcCosine",
        ),
        ([KernelRidge, NystromRidge], {"kernel": None}, r"kernel is None"),
        ([KernelRidge, NystromRidge], {"kernel": Exponential}, r"kernel is <class"),
        ([KernelRidge, NystromRidge], {"kernel": Exponential(quantile=0.1)}, r"takes sigma, not quantile"),
        ([NystromRidge], {"landmarks": 1}, "landmarks is 1; expected a whole number of at least 2"),
        ([NystromRidge], {"landmarks": 2.5}, "landmarks is 2.5"),
    ],
)
def test_bad_options_are_refused(kinds, options, words):
    for kind in kinds:
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
        fitted.predict(seen(kind, spoiled(np.nan), FEATURES))


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


@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_fit_warns_of_nothing(kind):
    features, labels = overlapping_classes(60, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(kind, features, labels)


def test_each_encoders_features_have_the_same_length_for_linear_classifiers_too():
    stretched = FEATURES.copy()
    stretched[:, 5:] *= 1000
    first, second = (Ridge(1e-2).fit(x, LABELS, widths=(5, 10)) for x in (FEATURES, stretched))
    np.testing.assert_allclose(first.scores(FEATURES), second.scores(stretched), atol=1e-4)
    alone = Ridge(1e-2).fit(stretched, LABELS).scores(stretched)
    assert np.abs(alone - first.scores(FEATURES)).max() > 0.05
