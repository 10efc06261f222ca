"""What holds for every classifier: invariances, errors, determinism, progress, reconstruction."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckncuda.classifier import LinearClassifier, Ridge, Softmax, SquaredHinge, TrainableClassifier
from ckncuda.classifier.selection import DECADES, REFINEMENT, THIRDS, climb_from, search_regularization
from ckncuda.errors import InvalidData, InvalidSpec

KINDS = [Ridge, Softmax, SquaredHinge]


def problem(images=60, width=15, classes=3, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    centres = random.standard_normal((classes, width))
    features = 1 + 0.5 * centres[labels] + random.standard_normal((images, width))
    return features.astype(np.float32), labels


def tight_scores(classifier, features, labels):
    """Solve nearly exactly, so that only float32 rounding distinguishes two fits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ckncuda.classifier.lbfgs.TOLERANCE", 1e-8)
        patch.setattr("ckncuda.classifier.lbfgs.VALUE_TOLERANCE", 1e-12)
        return classifier.fit(features, labels).scores(features)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(
    shift=st.floats(-50, 50),
    factor=st.floats(1e-3, 1e3),
    negative=st.booleans(),
)
def test_scores_do_not_depend_on_the_place_and_scale_of_features(kind, shift, factor, negative):
    features, labels = problem()
    factor = -factor if negative else factor
    moved = ((features.astype(np.float64) + shift) * factor).astype(np.float32)
    expected = tight_scores(kind(1e-2), features, labels)
    np.testing.assert_allclose(tight_scores(kind(1e-2), moved, labels), expected, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(permutation=st.permutations([0, 1, 2]))
def test_permuting_labels_permutes_classes(kind, permutation):
    features, labels = problem()
    names = np.array([4, 17, 1000])
    renamed = names[np.array(permutation)[labels]]
    first = tight_scores(kind(1e-2), features, labels)
    second = kind(1e-2)
    scores = tight_scores(second, features, renamed)
    assert second.classes_.tolist() == [4, 17, 1000]
    np.testing.assert_allclose(scores[:, permutation], first, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_learns_separable_classes_with_its_defaults(kind):
    features, labels = problem(90, 40)
    features[np.arange(90), labels] += 20
    fitted = kind().fit(features, labels + 5)
    assert fitted.predict(features).tolist() == (labels + 5).tolist()
    assert fitted.validation_accuracy_ == 1
    assert (fitted.weights_.dtype, fitted.weights_.shape) == (np.float32, (40, 3))
    assert (fitted.intercept_.dtype, fitted.intercept_.shape) == (np.float32, (3,))
    assert fitted.classes_.dtype == np.int64
    assert isinstance(fitted, TrainableClassifier)


@pytest.mark.parametrize(
    "make",
    [Ridge, Softmax, SquaredHinge, lambda: Softmax(1e-2, "sgd")],
    ids=["ridge", "softmax", "hinge", "sgd"],
)
def test_same_data_and_seed_give_the_same_bytes(make):
    features, labels = problem()
    first, second = make().fit(features, labels), make().fit(features, labels)
    assert first.weights_.tobytes() == second.weights_.tobytes()
    assert first.intercept_.tobytes() == second.intercept_.tobytes()
    assert first.search_ == second.search_


@pytest.mark.parametrize(
    ("make", "stage"),
    [
        (Ridge, "Gram matrix"),
        (Softmax, "L-BFGS"),
        (SquaredHinge, "L-BFGS"),
        (lambda: Softmax(1e-2, "sgd"), "SGD and L-BFGS"),
    ],
)
def test_progress_is_reported(make, stage):
    features, labels = problem(60, 100)
    calls = []
    make().fit(features, labels, lambda *call: calls.append(call))
    assert stage in {call[0] for call in calls}
    assert all(1 <= done <= total for _, done, total in calls)


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_fit_leaves_the_previous_one(kind):
    features, labels = problem()
    fitted = kind(1e-2).fit(features, labels)
    before = fitted.weights_.copy()

    def interrupt(stage, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted.fit(features + 1, labels[::-1], progress=interrupt)
    assert fitted.weights_.tobytes() == before.tobytes()


def test_features_are_not_changed():
    features, labels = problem()
    before = features.copy()
    for kind in KINDS:
        kind(1e-2).fit(features, labels)
    assert features.tobytes() == before.tobytes()


def test_rebuilt_classifier_predicts_the_same():
    features, labels = problem()
    fitted = Ridge(1e-2).fit(features, labels * 3)
    rebuilt = LinearClassifier.from_arrays(fitted.weights_, fitted.intercept_, fitted.classes_)
    assert rebuilt.scores(features).tobytes() == fitted.scores(features).tobytes()
    assert rebuilt.predict(features).tolist() == fitted.predict(features).tolist()


def test_scores_are_the_same_in_blocks(monkeypatch):
    features, labels = problem()
    fitted = Ridge(1e-2).fit(features, labels)
    whole = fitted.scores(features)
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 8 * 15 * 7)
    np.testing.assert_allclose(fitted.scores(features), whole, rtol=1e-6)


def test_the_search_stops_when_the_accuracy_has_clearly_fallen():
    accuracy = {1.0: 0.5, 0.1: 0.8, 0.01: 0.79, 0.001: 0.7}
    best, search = search_regularization(lambda tried: accuracy.get(tried, 0.8), 100, None)
    assert [tried for tried, _ in search] == [1.0, 0.1, 0.01, 0.001, 0.46, 0.22, 0.046, 0.022]
    assert best == 0.46  # of equal accuracies, the largest λ


def test_the_search_tries_every_decade_while_accuracy_holds():
    _, search = search_regularization(lambda tried: 0.5, 100, None)
    assert [tried for tried, _ in search[: len(DECADES)]] == list(DECADES)
    assert len(search) == len(DECADES) + len(REFINEMENT)


@pytest.mark.parametrize("start", [1.0, 3e-3, 1e-8])
@pytest.mark.parametrize("peak", [1.0, 0.022, 1e-5, 1e-8])
def test_the_climb_finds_the_top_of_a_hill_from_anywhere(start, peak):
    accuracy = {tried: -abs(THIRDS.index(tried) - THIRDS.index(peak)) for tried in THIRDS}
    best, search = climb_from(start, accuracy.__getitem__, None)
    assert best == peak
    assert (
        len(search)
        == len(dict(search))
        <= abs(THIRDS.index(peak) - min(range(len(THIRDS)), key=lambda i: abs(np.log(THIRDS[i] / start)))) + 3
    )
    assert dict(search) == {tried: accuracy[tried] for tried, _ in search}


def test_the_climb_crosses_a_level_stretch_but_no_plain():
    start = THIRDS.index(1e-3)
    heights = {tried: 0.5 for tried in THIRDS} | {THIRDS[start + 2]: 0.6}
    assert climb_from(1e-3, heights.__getitem__, None)[0] == THIRDS[start + 2]
    _, search = climb_from(1e-3, lambda tried: 0.5, None)
    assert len(search) == 7


def test_thirds_of_a_decade_are_those_of_the_refinement():
    assert set(DECADES) <= set(THIRDS)
    assert {float(f"{1e-3 * factor:.1e}") for factor in REFINEMENT} <= set(THIRDS)
    assert list(THIRDS) == sorted(THIRDS, reverse=True)


def spoiled(value):
    features, _ = problem()
    features[7, 3] = value
    return features


FEATURES, LABELS = problem()


@pytest.mark.parametrize("kind", KINDS)
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
        kind(1e-2).fit(features, labels)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Ridge(0), r"regularization is 0; expected .auto. or a number greater than 0 \(0 is not"),
        (lambda: Softmax(-1.0), r"regularization is -1.0"),
        (lambda: SquaredHinge(float("nan")), r"regularization is nan"),
        (lambda: Ridge("best"), r"regularization is 'best'"),
        (lambda: Softmax(optimizer="adam"), r"optimizer is 'adam'; expected .lbfgs. or .sgd."),
        (lambda: Softmax(validation=0), r"validation is 0; expected a fraction"),
        (lambda: Softmax(1e-2, validation=1.0), r"validation is 1.0; expected a fraction"),
        (lambda: SquaredHinge(1e-2, validation=-0.1), r"validation is -0.1"),
        (lambda: Softmax(max_iterations=0), r"max_iterations is 0; expected at least 1"),
    ],
)
def test_bad_options_are_refused(make, words):
    with pytest.raises(InvalidSpec, match=words):
        make().fit(FEATURES, LABELS)


def test_prediction_errors_say_what_to_do():
    with pytest.raises(InvalidSpec, match=r"this Ridge is not fitted; call fit"):
        Ridge().predict(FEATURES)
    fitted = Ridge(1e-2).fit(FEATURES, LABELS)
    with pytest.raises(InvalidData, match=r"14 columns; this classifier was fitted on 15"):
        fitted.scores(FEATURES[:, :-1])
    with pytest.raises(InvalidData, match=r"image 7 hold NaN"):
        fitted.predict(spoiled(np.nan))


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
def test_arrays_that_make_no_classifier_are_refused(weights, intercept, classes, words):
    with pytest.raises(InvalidData, match=words):
        LinearClassifier.from_arrays(weights, intercept, classes)


@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_fit_warns_of_nothing(kind):
    features, labels = problem(60, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind().fit(features, labels)
