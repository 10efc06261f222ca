"""Model files that are damaged, of another time or of another kind."""

import json
import struct

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from ckncuda.files.model_file import ENTRY

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(200)


def rewritten(path, target, change):
    """Copy a model with its specification and tensors changed."""
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    specification = json.loads(metadata[ENTRY])
    change(specification, tensors)
    metadata = {ENTRY: json.dumps(specification)}
    target.write_bytes(safetensors.numpy.save(tensors, metadata))


@pytest.mark.parametrize("command", ["info", "extract", "predict", "evaluate", "bench"])
def test_every_command_refuses_a_model_that_is_missing(refused, data, command):
    output = {"extract": ("-o", "f.npy"), "predict": ("-o", "s.csv")}.get(command, ())
    images = () if command == "info" else (data.npz,)
    words = ["no model file nowhere.ckn", "ckn fit"]
    refused(command, "nowhere.ckn", *images, *output, words=words)


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (0, ["not a model file"]),
        (5, ["not a model file"]),
        (8, ["not a model file"]),
        (100, ["truncated", "copy it again"]),
        (-1000, ["truncated", "copy it again"]),
        (-1, ["truncated", "copy it again"]),
    ],
)
def test_truncated_model_is_refused(refused, model, data, tmp_path, length, words):
    content = model.read_bytes()
    (tmp_path / "m.ckn").write_bytes(content[: length if length >= 0 else len(content) + length])
    refused("extract", "m.ckn", data.npy, "-o", "f.npy", words=["m.ckn", *words])


def test_model_of_a_newer_version_is_refused(refused, model, data, tmp_path):
    rewritten(model, tmp_path / "m.ckn", lambda specification, _: specification.update(version=4))
    words = ["m.ckn", "version 4", "up to 3", "install a newer ckncuda"]
    refused("predict", "m.ckn", data.npy, "-o", "s.csv", words=words)


def scrambled(specification, tensors):
    tensors["encoders.0.layers.0.projection"] = np.zeros((3, 3))


def without_classes(specification, tensors):
    del tensors["classifier.classes"]


def of_another_kernel(specification, tensors):
    specification["encoders"][0]["layers"][0]["kernel"] = "magic"


@pytest.mark.parametrize("change", [scrambled, without_classes, of_another_kernel])
def test_model_whose_parts_do_not_fit_is_refused(refused, model, tmp_path, change):
    rewritten(model, tmp_path / "m.ckn", change)
    refused("info", "m.ckn", words=["m.ckn is damaged", "do not fit"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.random.default_rng(0).bytes(3000), ["not a model file"]),
        (PNG, ["not a model file"]),
        (b"filters = 64\n", ["not a model file"]),
        (
            safetensors.numpy.save({"weight": np.zeros(9, np.float32)}),
            ["safetensors", "not a model of ckncuda"],
        ),
    ],
    ids=["noise", "png", "text", "safetensors"],
)
def test_file_that_is_no_model_is_refused(refused, tmp_path, content, words):
    (tmp_path / "m.ckn").write_bytes(content)
    refused("info", "m.ckn", words=["m.ckn", *words])


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_safetensors_of_types_that_numpy_lacks_are_refused(refused, tmp_path, dtype):
    size = 2 if dtype == "BF16" else 1
    head = json.dumps({"w": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4 * size]}}).encode()
    (tmp_path / "m.ckn").write_bytes(struct.pack("<Q", len(head)) + head + bytes(4 * size))
    refused("info", "m.ckn", words=["m.ckn", "not a model"])


def test_folder_is_no_model(refused, tmp_path):
    (tmp_path / "m.ckn").mkdir()
    refused("info", "m.ckn", words=["m.ckn is a folder", "ckn fit"])


def test_model_without_classifier_does_not_predict(refused, network, data):
    words = ["no classifier", "--classifier ridge"]
    refused("predict", network, data.npy, "-o", "s.csv", words=words)
    refused("evaluate", network, data.npz, words=words)
