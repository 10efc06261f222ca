"""Images held out or left out: they choose nothing, and the sentence says how many there were."""

import numpy as np
import pytest
from factories import (
    kernel_matrix,
    left_out_by_least_squares,
    left_out_by_refits,
    overlapping_classes,
    scaled_by_the_book,
    seen,
)

from ckncuda import Exponential, GramRidge, KernelRidge, Linear, Ridge, Softmax, SquaredHinge
from ckncuda.classifier.training_data import signed_targets
from ckncuda.classifier.validation import held_out_split
from ckncuda.errors import InvalidData

FEATURES, LABELS = overlapping_classes(100, 30)


def fit(kind, features, labels, **options):
    return kind(**options).fit(seen(kind, features, features), labels)


@pytest.mark.parametrize("kind", [Ridge, KernelRidge, GramRidge])
def test_held_out_images_choose_nothing_and_all_are_fitted_at_the_end(kind):
    fitted = fit(kind, FEATURES, LABELS, validation=0.25, seed=3)
    kept, held_out = held_out_split(LABELS, 0.25, 3)
    alone = fit(kind, FEATURES[kept], LABELS[kept])
    assert fitted.regularization_ == alone.regularization_
    assert getattr(fitted, "kernels_", None) == getattr(alone, "kernels_", None)
    assert getattr(fitted, "search_", None) == getattr(alone, "search_", None)
    predicted = alone.predict(seen(kind, FEATURES[held_out], FEATURES[kept]))
    assert fitted.validation_accuracy_ == np.mean(predicted == LABELS[held_out])
    chosen = f"λ = {fitted.regularization_:g} was chosen"
    given = {"regularization": fitted.regularization_}
    if kind is KernelRidge:
        given["kernel"] = kernel = fitted.kernels_[0]
        chosen = f"κ = exp(sigma={kernel.sigma:g}), {chosen.replace('was', 'were')}"
    assert fitted.validation_ == (
        f"25 images held out of 100; {chosen} by leave-one-out over the others, then all 100 were fitted"
    )
    everything = fit(kind, FEATURES, LABELS, **given)
    for name, array in fitted.arrays().items():
        assert everything.arrays()[name].tobytes() == array.tobytes()


LEFT_OUT = "leave-one-out over 100 images; λ = {:g} was chosen by the same accuracies"
HELD_OUT = "20 images held out of 100; λ = {:g} was chosen on them, then all 100 were fitted"


@pytest.mark.parametrize(
    ("kind", "validation", "sentence"),
    [(Ridge, 0, LEFT_OUT), (Softmax, 0.2, HELD_OUT), (SquaredHinge, 0.2, HELD_OUT)],
)
def test_chosen_regularization_is_the_best_that_was_tried(kind, validation, sentence):
    fitted = fit(kind, FEATURES, LABELS, validation=validation)
    best = max(accuracy for _, accuracy in fitted.search_)
    assert fitted.validation_accuracy_ == best
    assert fitted.regularization_ == max(tried for tried, accuracy in fitted.search_ if accuracy == best)
    assert fitted.validation_ == sentence.format(fitted.regularization_)
    if kind is Ridge:
        again = fit(kind, FEATURES, LABELS, regularization=fitted.regularization_)
        assert again.weights_.tobytes() == fitted.weights_.tobytes()


@pytest.mark.parametrize("kind", [Ridge, KernelRidge, GramRidge])
def test_a_given_regularization_is_measured_too(kind):
    fitted = fit(kind, FEATURES, LABELS, regularization=0.01, validation=0.1)
    assert "λ = 0.01 was given, then" in fitted.validation_
    assert fitted.validation_.startswith("10 images held out of 100; ")


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("kind", [Ridge, KernelRidge, GramRidge])
def test_accuracy_is_leave_one_out_by_hand(kind, classes):
    features, labels = overlapping_classes(37, 6, classes, seed=4)
    kernel = {"kernel": Exponential(sigma=1.0)} if kind is KernelRidge else {}
    fitted = fit(kind, features, labels + 3, regularization=1e-2, **kernel)
    targets = signed_targets(labels, classes)
    rows = scaled_by_the_book(features)
    if kind is Ridge:
        left_out = left_out_by_least_squares(rows, targets, 37 * 1e-2)
        assert fitted.search_ == [(1e-2, fitted.validation_accuracy_)]
    else:
        gram = kernel_matrix(rows, rows, (6,), [Exponential(sigma=1.0) if kernel else Linear()], [1.0])
        left_out = left_out_by_refits(gram, targets, 1e-2)
    predicted = (targets - left_out).argmax(axis=1)
    assert fitted.validation_accuracy_ == np.mean(predicted == labels)
    assert 0 < fitted.validation_accuracy_ < 1
    said = "κ = exp(sigma=1), λ = 0.01 were given" if kernel else "λ = 0.01 was given"
    assert fitted.validation_ == f"leave-one-out over 37 images; {said}"
    assert fitted.classes_.tolist() == list(range(3, 3 + classes))


def test_split_is_stratified_and_seeded():
    targets = np.repeat([0, 1, 2, 3], [50, 30, 19, 1])
    kept, held_out = held_out_split(targets, 0.1, 0)
    assert sorted([*kept, *held_out]) == list(range(100))
    assert np.bincount(targets[held_out], minlength=4).tolist() == [5, 3, 2, 0]
    assert held_out.tolist() == held_out_split(targets, 0.1, 0)[1].tolist()
    assert held_out.tolist() != held_out_split(targets, 0.1, 1)[1].tolist()


def test_split_always_leaves_an_image_of_each_class_and_holds_one_out():
    kept, held_out = held_out_split(np.array([0, 0, 1, 1, 2]), 0.9, 0)
    assert len(held_out) == 2
    assert np.unique(np.array([0, 0, 1, 1, 2])[kept]).tolist() == [0, 1, 2]
    assert len(held_out_split(np.array([0, 0, 1]), 0.1, 0)[1]) == 1


@pytest.mark.parametrize("kind", [Softmax, Ridge, KernelRidge, GramRidge])
def test_split_of_single_images_is_refused(kind):
    with pytest.raises(InvalidData, match=r"each of the 3 classes has one image.*take ridge"):
        fit(kind, np.eye(3, dtype=np.float32), [0, 1, 2], validation=0.5)
