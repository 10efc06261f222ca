"""Images that cannot be read, or are not what the model was fitted on: what commands make of the refusal.

Which files are refused, and in which words, is tested beside their readers.
"""

import os
import pickle

import numpy as np
import pytest
from factories import Call
from PIL import Image


def csv_with(data, row, column, text):
    """The challenge's CSV with one cell replaced; counted from 0."""
    rows = [line.split(",") for line in data.csv.read_text().splitlines()]
    rows[row][column] = text
    return "\n".join(map(",".join, rows)).encode()


CASES = {
    # name: (file's name, its content made from the tiny data, words of the message)
    "nan": ("x.csv", lambda d: csv_with(d, 16, 5, "nan"), ["nan", "line 17, column 6", "expected finite"]),
    "cut": ("x.npy", lambda d: d.npy.read_bytes()[:-100], ["truncated", "100 bytes are missing", "again"]),
    "malicious": (
        "data_batch_1",
        lambda d: pickle.dumps({b"labels": [0], b"data": Call(os.system, "touch harmed")}),
        ["system", "refused before it ran"],
    ),
    "unknown": ("x.dat", lambda d: b"\x7fELF" * 9, ["cannot tell what", "x.dat", "--format"]),
    "office": ("x.doc", lambda d: b"\xd0\xcf\x11\xe0" * 9, ["x.doc is an Office document"]),
}


@pytest.mark.parametrize("case", CASES)
def test_fit_refuses_damaged_images(refused, data, tiny, tmp_path, case):
    name, content, words = CASES[case]
    (tmp_path / name).write_bytes(content(data))
    options = tiny if name == "x.csv" else tiny[:-2]
    refused("fit", name, "-o", "m.ckn", *options, words=words)


@pytest.mark.parametrize("command", ["fit", "extract", "predict", "evaluate", "baseline"])
def test_every_command_refuses_images_that_are_missing(refused, model, command):
    models = () if command in ("fit", "baseline") else (model,)
    output = () if command in ("evaluate", "baseline") else ("-o", "out.npy")
    refused(command, *models, "nowhere.npy", *output, words=["no such file", "nowhere.npy"])


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_extract_that_fails_late_leaves_no_features(refused, model, tmp_path, rng, suffix):
    images = rng.normal(size=(700, 12, 12, 3)).astype(np.float32)  # more than one block
    images[-1, 0, 0, 0] = np.nan
    np.save(tmp_path / "x.npy", images)
    (tmp_path / f"f.{suffix}").write_bytes(b"what stood here before")
    refused("extract", model, "x.npy", "-o", f"f.{suffix}", words=["nan", "image 700"])


def test_predict_that_fails_late_leaves_neither_submission_nor_scores(refused, model, data, tmp_path):
    images = data.images.copy()
    images[20, 3, 4, 1] = np.nan
    np.save(tmp_path / "x.npy", images)
    refused("predict", model, "x.npy", "-o", "s.csv", "--scores", "s.npy", words=["nan", "image 21"])


MISFITS = {
    "size": (np.zeros((3, 10, 14, 3), np.float32), ["10x14x3", "fitted on 12x12x3"]),
    "channels": (np.zeros((3, 12, 12, 1), np.float32), ["12x12x1", "fitted on 12x12x3"]),
    "type": (np.zeros((3, 12, 12, 3), np.uint8), ["type uint8", "fitted on float32", "give the images in"]),
}


@pytest.mark.parametrize("case", MISFITS)
def test_images_that_are_not_the_models_are_refused(refused, model, tmp_path, case):
    images, words = MISFITS[case]
    np.save(tmp_path / "x.npy", images)
    refused("extract", model, "x.npy", "-o", "f.npy", words=words)


def test_predict_and_evaluate_refuse_images_of_another_size(refused, model, tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 10, 10, 3), np.float32), labels=[0, 1])
    refused("predict", model, "x.npz", "-o", "s.csv", words=["10x10x3", "12x12x3"])
    refused("evaluate", model, "x.npz", words=["10x10x3", "12x12x3"])


def test_bytes_model_refuses_floating_point_images(refused, data, tiny, works, tmp_path):
    works("fit", data.bytes_npy, "-o", "m.ckn", *tiny)
    refused("extract", "m.ckn", data.npy, "-o", "f.npy", words=["type float32", "fitted on uint8"])


def test_csv_of_an_unusual_size_asks_for_its_shape(refused, data):
    refused("fit", data.csv, "-o", "m.ckn", words=["432 values a line", "--image-shape"])


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--image-shape", "12x12", ["432", "144 (12x12x1)"]),
        ("--image-shape", "12", ["--image-shape", "'12'", "such as 32x32x3"]),
        ("--image-shape", "0x3x3", ["--image-shape", "'0x3x3'", "such as 32x32x3"]),
        ("--format", "idx", ["Xtr.csv", "expected an IDX"]),
        ("--format", "xls", ["--format", "'xls'", "csv"]),
    ],
)
def test_shapes_and_formats_that_are_not_the_files_are_refused(refused, data, model, option, value, words):
    refused("extract", model, data.csv, option, value, "-o", "f.npy", words=words)


@pytest.mark.parametrize("kind", ["EPS", "PSD", "WMF"])
def test_a_picture_starts_no_other_program(refused, data, tiny, works, tmp_path, kind):
    """Pillow hands EPS to Ghostscript, whatever the file's name."""
    content = {
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 12\n%%EndComments\n%%EOF\n",
        "PSD": b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x0c\0\0\0\x0c\0\x08\0\3" + bytes(14 + 432),
        "WMF": b"\xd7\xcd\xc6\x9a" + bytes(40),
    }[kind]
    works("fit", data.bytes_npy, "--labels", data.labels_csv, "-o", "m.ckn", *tiny)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(content)
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for command in (
        ("fit", "photos", "-o", "n.ckn", *tiny[:-2]),
        ("predict", "m.ckn", "photos", "-o", "s.csv"),
    ):
        refused(*command, words=["cannot read the image", "1.png"], env=path)
    assert not (tmp_path / "ran").exists()


def test_a_header_is_said(works, data, tiny, tmp_path):
    header = ",".join(f"pixel{i}" for i in range(432))
    (tmp_path / "x.csv").write_text(header + "\n" + data.csv.read_text())
    done = works("fit", "x.csv", "--labels", data.labels_csv, "-o", "m.ckn", *tiny)
    assert "Note: line 1 is taken for a header, not an image: pixel0, pixel1, pixel2, ..." in done.stderr
    quoted = "\n".join(
        ",".join(f'"{cell}"' for cell in line.rstrip(",").split(","))
        for line in data.csv.read_text().splitlines()
    )
    (tmp_path / "q.csv").write_text(quoted + "\n")
    works("fit", "q.csv", "--labels", data.labels_csv, "-o", "q.ckn", *tiny)
    assert (tmp_path / "q.ckn").read_bytes() == (tmp_path / "m.ckn").read_bytes()


def test_images_where_a_model_belongs(refused, data, model, tmp_path):
    words = ["is no model, but images", "give the model first"]
    refused("predict", data.npy, model, "-o", "s.csv", words=["x.npy", "(npy)", *words])
    refused("extract", data.csv, model, "-o", "f.npy", words=["Xtr.csv", "(csv)", *words])
    refused("evaluate", data.npz, model, words=["xy.npz", "(npz)", *words])
    (tmp_path / "m.ckn").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    refused(
        "predict", "m.ckn", data.npy, "-o", "s.csv", words=["m.ckn is a pointer of Git LFS", "git lfs pull"]
    )
    (tmp_path / "m.ckn").write_bytes(b"<!DOCTYPE html>")
    refused("predict", "m.ckn", data.npy, "-o", "s.csv", words=["m.ckn is a web page"])
    (tmp_path / "m.ckn").write_bytes(model.read_bytes()[:-9])
    refused("predict", "m.ckn", data.npy, "-o", "s.csv", words=["m.ckn is truncated"])
    refused("predict", model, model, "-o", "s.csv", words=["model.ckn is a model of ckncuda"])


@pytest.mark.parametrize("order", [b"II*\0", b"MM\0*"])
def test_nothing_is_said_of_damages_that_are_not_the_pixels(works, tiny, tmp_path, order):
    """Pillow warns, of which file it does not say, and nobody could do anything about it."""
    (tmp_path / "photos").mkdir()
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 12, 3), np.uint8)
        exif = b"Exif\0\0" + order + b"\xff\xff\xff\xff"
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.jpg", exif=exif)
    done = works("fit", "photos", "-o", "m.ckn", *tiny[:-2])
    assert "arning" not in done.stderr
    assert "EXIF" not in done.stderr
