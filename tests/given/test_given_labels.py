import numpy as np
import pytest

from ckncuda.classifier.training_data import check_labels as check_in_python
from ckncuda.errors import InvalidData
from ckncuda.given.labels import check_labels


@pytest.mark.parametrize(
    "labels",
    [
        *[[0, 1, 3], (0, 1, 3), np.array([0, 1, 3], np.uint8), np.array([0, 1, 3], ">i4"), [[0], [1], [3]]],
        *[[0.0, 1.0, 3.0], np.array([0, 1, 3], np.float16), np.ma.array([0, 1, 3]), range(0)],
        *[
            np.array([0, 1, 3], object),
            np.array([0, 1.0, np.int64(3)], object),
            np.array([[0], [1], [3]], object),
        ],
    ],
    ids=repr,
)
def test_whole_numbers_are_labels(labels):
    for found in (check_labels(labels, None, "y"), check_in_python(labels)):
        assert found.dtype == np.int64
        assert found.tolist() == ([0, 1, 3] if len(labels) else [])


def test_truth_values_are_labels():
    assert check_labels([True, False], 2, "y").tolist() == [1, 0]


@pytest.mark.parametrize(
    "labels",
    [["cat", "dog", "cat"], np.array([b"1", b"2"]), np.array(["a", "b"], object), [-1, 1, -1]],
    ids=repr,
)
def test_the_way_out_for_names_works_when_typed(labels):
    with pytest.raises(InvalidData, match=r"number the \w+ by numpy\.unique") as refusal:
        check_labels(labels, None, "y")
    advice = str(refusal.value).rpartition(" by ")[2].strip()
    numbered = eval(advice, {"numpy": np, "labels": labels})
    assert set(check_labels(numbered, len(labels), "y")) == {0, 1}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.5], "label 1.5 of image 2; expected whole numbers"),
        ([0.0, np.nan], "label nan of image 2; expected whole numbers"),
        ([0.0, np.inf], "label inf of image 2; expected whole numbers"),
        ([0.0, 1e300], r"label 1e\+300 of image 2; expected numbers below"),
        ([0.0, -1.0], "label -1.0 of image 2; expected 0 or greater"),
        ([0, 2**70], "labels of type object"),
        ([1j, 2], "labels of type complex128"),
        (np.array(["2020-01-01"], "M8[D]"), "labels of type datetime64"),
        ([[1, 2], [3]], "labels of type list"),
        (np.eye(3), r"shape \(3, 3\).*labels\.argmax\(axis=1\)"),
        (3, r"shape \(\).*: give a list or an array"),
        ({0, 1}, r"shape \(\).*: give a list or an array"),
        ((i for i in range(2)), r"shape \(\).*: give a list or an array"),
        (np.array([0, None]), "labels of type object"),
        (np.array([[0], [1, 2]], object), "labels of type object"),
        (np.array([0, 1.5], object), "label 1.5 of image 2; expected whole numbers"),
        (None, r"shape \(\)"),
        (np.ma.array([1, 2], mask=[True, False]), "masked"),
        (np.zeros(2, [("a", "i4")]), "labels of type"),
    ],
)
def test_what_is_no_label(labels, message):
    for check in (lambda labels: check_labels(labels, None, "y"), check_in_python):
        with pytest.raises(InvalidData, match=message.replace("image 2", "image [12]")):
            check(labels)
