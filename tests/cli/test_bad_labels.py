"""Labels that are missing, malformed, or not those of the images."""

import numpy as np
import pytest

GOOD = [f"{i},{(i - 1) % 4}" for i in range(1, 41)]
CASES = {
    "missing-id": ([*GOOD[:6], *GOOD[7:]], ["39 labels for 40 images", "no label for id 7"]),
    "duplicate-id": ([*GOOD, "7,2"], ["id 7 stands in lines 8 and 42", "each id once"]),
    "fewer": (GOOD[:30], ["30 labels for 40 images", "31, 32", "expected the ids 1 to 40"]),
    "more": ([*GOOD, "41,0"], ["41 labels for 40 images", "no image for id 41"]),
    "fraction": ([*GOOD[:9], "10,1.5", *GOOD[10:]], ["line 11", "label '1.5' is not an integer"]),
    "word": ([*GOOD[:9], "10,cat", *GOOD[10:]], ["line 11", "label 'cat' is not an integer"]),
    "empty-label": ([*GOOD[:9], "10,", *GOOD[10:]], ["line 11", "'10,'", "expected"]),
    "negative": ([*GOOD[:9], "10,-1", *GOOD[10:]], ["line 11", "label -1", "0 or greater"]),
    "columns": ([*GOOD[:9], "10,1,1", *GOOD[10:]], ["line 11", "3 values", "Id,Prediction"]),
}


@pytest.mark.parametrize("case", CASES)
def test_fit_refuses_labels(refused, data, tiny, tmp_path, case):
    rows, words = CASES[case]
    (tmp_path / "y.csv").write_text("\n".join(["Id,Prediction", *rows]) + "\n")
    words = ["y.csv", *words]
    refused("fit", data.npy, "--labels", "y.csv", "-o", "m.ckn", *tiny, words=words)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros(39, int), ["y.npy: 39 labels", "expected 40"]),
        (np.zeros(40), ["float64", "expected integers"]),
        (np.zeros((40, 2), int), ["(40, 2)", "a label an image"]),
        (np.array([0, None]), ["pickled Python objects", "never loaded"]),
    ],
    ids=["fewer", "floats", "columns", "objects"],
)
def test_fit_refuses_labels_in_npy(refused, data, tiny, tmp_path, labels, words):
    np.save(tmp_path / "y.npy", labels)
    refused("fit", data.npy, "--labels", "y.npy", "-o", "m.ckn", *tiny, words=words)


def test_labels_that_are_missing_are_refused(refused, data, tiny, model):
    words = ["no such file", "nowhere.csv"]
    refused("fit", data.npy, "--labels", "nowhere.csv", "-o", "m.ckn", *tiny, words=words)
    refused("evaluate", model, data.npy, "--labels", "nowhere.csv", words=words)


def test_labels_that_are_needed_are_asked_for(refused, data, tiny, model):
    words = ["x.npy holds no labels", "--labels"]
    refused(
        "fit", data.npy, "-o", "m.ckn", *tiny, "--classifier", "ridge", words=[*words, "--classifier none"]
    )
    refused("evaluate", model, data.npy, words=words)


def test_evaluate_refuses_labels_of_other_images(refused, data, model, tmp_path):
    (tmp_path / "y.csv").write_text("\n".join(["Id,Prediction", *GOOD[:30]]) + "\n")
    refused("evaluate", model, data.npy, "--labels", "y.csv", words=["30 labels for 40 images"])


def test_labels_of_one_class_are_refused(refused, data, tiny, tmp_path):
    np.save(tmp_path / "y.npy", np.full(40, 3))
    refused("fit", data.npy, "--labels", "y.npy", "-o", "m.ckn", *tiny, words=["labels are 3", "two classes"])
