"""Labels that are missing, malformed, or not those of the images."""

import numpy as np

GOOD = [f"{i},{(i - 1) % 4}" for i in range(1, 41)]


def test_fit_refuses_labels(refused, data, tiny, tmp_path):
    """Which labels are refused, and in which words, is tested beside their reader."""
    fit = ("fit", data.npy, "-o", "m.ckn", *tiny, "--labels")
    (tmp_path / "y.csv").write_text("\n".join(["Id,Prediction", *GOOD[:6], *GOOD[7:]]) + "\n")
    refused(*fit, "y.csv", words=["y.csv", "39 labels for 40 images", "no label for id 7"])
    np.save(tmp_path / "y.npy", np.full(40, 0.5))
    refused(*fit, "y.npy", words=["y.npy", "label 0.5 of image 1", "expected whole numbers"])


def test_labels_that_are_missing_are_refused(refused, data, tiny, model):
    words = ["no such file", "nowhere.csv"]
    refused("fit", data.npy, "--labels", "nowhere.csv", "-o", "m.ckn", *tiny, words=words)
    refused("evaluate", model, data.npy, "--labels", "nowhere.csv", words=words)


def test_labels_that_are_needed_are_asked_for(refused, data, tiny, model):
    words, ridge = ["x.npy holds no labels", "--labels"], ("--classifier", "ridge")
    refused("fit", data.npy, "-o", "m.ckn", *tiny, *ridge, words=[*words, "--classifier none"])
    refused("evaluate", model, data.npy, words=words)


def test_evaluate_refuses_labels_of_other_images(refused, data, model, tmp_path):
    (tmp_path / "y.csv").write_text("\n".join(["Id,Prediction", *GOOD[:30]]) + "\n")
    refused("evaluate", model, data.npy, "--labels", "y.csv", words=["30 labels for 40 images"])


def test_labels_of_one_class_are_refused(refused, data, tiny, tmp_path):
    np.save(tmp_path / "y.npy", np.full(40, 3))
    refused("fit", data.npy, "--labels", "y.npy", "-o", "m.ckn", *tiny, words=["labels are 3", "two classes"])
