"""The linear classifier of a training: its gradients, its start, and what it is afterwards."""

import numpy as np
import pytest
from factories import overlapping_classes

from ckncuda import Ridge
from ckncuda.supervised import Training
from ckncuda.supervised.head import Head

TRAININGS = {
    "softmax": Training(),
    "smoothed": Training(label_smoothing=0.2),
    "squared-hinge": Training(loss="squared-hinge"),
    "squared": Training(loss="squared"),
}


@pytest.fixture(scope="module")
def data():
    return overlapping_classes(60, 7)


@pytest.fixture(params=TRAININGS)
def head(request, data):
    return Head.fitted(*data, TRAININGS[request.param])


def copied(head):
    return Head(head.weights.copy(), head.intercept.copy(), head.scaling, head.loss, head.regularization)


def test_gradients_are_slopes(head, data, rng):
    features, targets = data[0][:20], data[1][:20]
    loss, right, by_features, by_weights, by_intercept = head.backward(features, targets, 40)
    scores = head.scores(features)
    assert loss == pytest.approx(head.loss(scores, targets)[0] / 40)
    assert right == (scores.argmax(axis=1) == targets).sum()

    def slope(change, step):
        values = []
        for way in (step, -step):
            other, moved = copied(head), features.astype(np.float32)
            moved = change(other, moved, np.float32(way))
            values.append(other.backward(moved, targets, 40)[0])
        return (values[0] - values[1]) / (2 * step)

    along = rng.normal(size=features.shape).astype(np.float32)
    of_features = slope(lambda other, moved, way: moved + way * along, 1e-2)
    assert of_features == pytest.approx((by_features * along).sum(), rel=2e-2, abs=1e-4)
    towards = rng.normal(size=head.weights.shape).astype(np.float32)

    def of_weights(other, moved, way):
        other.weights += way * towards
        return moved

    assert slope(of_weights, 1e-2) == pytest.approx((by_weights * towards).sum(), rel=2e-2, abs=1e-4)

    def of_intercept(other, moved, way):
        other.intercept[1] += way
        return moved

    assert slope(of_intercept, 1e-2) == pytest.approx(float(by_intercept[1]), rel=2e-2, abs=1e-4)


def test_parts_of_a_batch_add_up(head, data):
    whole = head.backward(*data, 60)
    parts = [head.backward(data[0][part], data[1][part], 60) for part in (slice(0, 17), slice(17, 60))]
    for number in (0, 1, 3, 4):
        np.testing.assert_allclose(parts[0][number] + parts[1][number], whole[number], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([part[2] for part in parts]), whole[2], rtol=1e-6)


@pytest.mark.parametrize("name", TRAININGS)
def test_it_begins_as_ridge_regression_does(name, data):
    head, ridge = Head.fitted(*data, TRAININGS[name]), Ridge().fit(*data)
    np.testing.assert_allclose(head.scores(data[0]), ridge.unchecked_scores(data[0]), atol=2e-3)


def test_the_classifier_that_remains_has_the_same_scores(head, data):
    classifier = head.classifier(np.array([2, 5, 7]))
    np.testing.assert_allclose(classifier.unchecked_scores(data[0]), head.scores(data[0]), atol=2e-3)
    expected = np.array([2, 5, 7])[head.scores(data[0]).argmax(axis=1)]
    assert np.mean(classifier.predict(data[0]) == expected) > 0.98


@pytest.mark.parametrize("name", TRAININGS)
def test_fitting_it_anew_lowers_its_loss_where_features_have_changed(name, data):
    training = TRAININGS[name]
    head = Head.fitted(*data, training)
    changed = data[0] @ np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)

    def objective():
        loss = head.judge(changed, data[1])[0] / len(changed)
        return loss + head.regularization / 2 * float((head.weights.astype(np.float64) ** 2).sum())

    before, weights = objective(), head.weights
    head.refit(changed, data[1], training, 0)
    assert head.weights is weights  # which an optimizer steps
    assert objective() < before


def test_what_it_holds_makes_the_same_head(head, data):
    again = Head.from_arrays(head.arrays(), Training(), head.regularization)
    assert np.array_equal(again.scores(data[0]), head.scores(data[0]))


def test_one_image_a_class_will_do():
    features = np.eye(3, 5, dtype=np.float32)
    head = Head.fitted(features, np.arange(3), Training(regularization=0.1))
    assert np.array_equal(head.scores(features).argmax(axis=1), np.arange(3))
