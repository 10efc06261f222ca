"""Model files that are missing, damaged, of another time or of another kind: what commands say of them.

Which files are refused is tested beside the reader of model files.
"""

import os
import shutil

import pytest
from factories import rewrite_model


@pytest.mark.parametrize("command", ["info", "extract", "predict", "evaluate", "bench"])
def test_every_command_refuses_a_model_that_is_missing(refused, data, command):
    output = {"extract": ("-o", "f.npy"), "predict": ("-o", "s.csv")}.get(command, ())
    images = () if command == "info" else (data.npz,)
    refused(command, "nowhere.ckn", *images, *output, words=["no model file nowhere.ckn", "ckn fit"])


CASES = {
    "truncated": (lambda path: os.truncate(path, 2000), ["truncated", "copy it again"]),
    "no model": (lambda path: path.write_text("filters = 64\n"), ["not a model file"]),
    "newer": (
        lambda path: rewrite_model(path, lambda s, t: s.update(version=4)),
        ["version 4", "up to 3", "install a newer ckncuda"],
    ),
    "parts that do not fit": (
        lambda path: rewrite_model(path, lambda s, t: s["encoders"].clear()),
        ["m.ckn is damaged", "do not fit"],
    ),
    "folder": (lambda path: (path.unlink(), path.mkdir()), ["m.ckn is a folder", "ckn fit"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_is_no_whole_model_is_refused(refused, model, data, tmp_path, case):
    change, words = CASES[case]
    change(shutil.copy(model, tmp_path / "m.ckn"))
    refused("info", "m.ckn", words=["m.ckn", *words])
    refused("extract", "m.ckn", data.npy, "-o", "f.npy", words=["m.ckn", *words])


def test_model_without_classifier_does_not_predict(refused, network, data):
    words = ["no classifier", "--classifier ridge"]
    refused("predict", network, data.npy, "-o", "s.csv", words=words)
    refused("evaluate", network, data.npz, words=words)
