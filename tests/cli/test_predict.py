import numpy as np

import ckncuda


def predictions(path):
    """The labels in a submission, once its header and ids are as they must be."""
    lines = path.read_text().splitlines()
    assert lines[0] == "Id,Prediction"
    ids, labels = zip(*(map(int, line.split(",")) for line in lines[1:]), strict=True)
    assert ids == tuple(range(1, len(ids) + 1))
    return np.array(labels)


def test_predict_writes_a_submission_and_scores(works, data, model, tmp_path, adds_up):
    shape = ("--image-shape", "12x12x3")
    result = works("predict", model, data.csv, *shape, "-o", "s.csv", "--scores", "s.npy", "--json").told
    seconds = result.pop("seconds")
    assert result == {"submission": "s.csv", "n": 40, "classes": [0, 1, 2, 3]}
    assert list(seconds) == ["reading", "features", "classifier", "writing", "total"]
    adds_up(seconds)
    labels = predictions(tmp_path / "s.csv")
    loaded = ckncuda.load(model)
    np.testing.assert_array_equal(labels, loaded.predict(data.images))
    scores = np.load(tmp_path / "s.npy")
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, loaded.scores(data.images))


def test_evaluate_agrees_with_predict(works, data, model, tmp_path):
    seconds, wrote = works("predict", model, data.npy, "-o", "s.csv").stdout.splitlines()
    assert "s (reading " in seconds
    assert wrote == "wrote s.csv: 40 predictions"
    labels = predictions(tmp_path / "s.csv")
    truth = np.where(np.arange(40) < 10, 3, data.labels)  # some wrong, so that the accuracy is not 1
    order = np.random.default_rng(0).permutation(40)
    rows = "".join(f"{i + 1},{truth[i]}\n" for i in order)
    (tmp_path / "y.csv").write_text("Id,Prediction\n" + rows)
    result = works("evaluate", model, data.npy, "--labels", "y.csv", "--json").told
    confusion = np.zeros((4, 4), int)
    np.add.at(confusion, (truth, labels), 1)
    expected = {"n": 40, "correct": np.sum(labels == truth), "accuracy": np.mean(labels == truth)}
    expected |= {"classes": [0, 1, 2, 3], "confusion": confusion.tolist()}
    assert result | expected == result
    assert result["accuracy"] < 1


def test_evaluate_for_people(works, data, model):
    lines = works("evaluate", model, data.npz).stdout.splitlines()
    right = int(np.sum(ckncuda.load(model).predict(data.images) == data.labels))
    assert lines[0] == f"accuracy {right / 40:.4f} ({right} of 40 images)"
    assert "confusion matrix" in lines[2]
    assert len(lines) == 4 + 4


def test_csv_rows_take_the_shape_that_the_model_knows(works, data, model):
    """A CSV of 12x12x3 needs --image-shape once, when the model is fitted."""
    works("predict", model, data.csv, "-o", "s.csv")
    works("extract", model, data.csv, "-o", "f.npy")
    works("evaluate", model, data.csv, "--labels", data.labels_csv)


def test_arrays_take_the_shape_that_the_model_knows(works, refused, tiny, tmp_path):
    """Arrays that look as if they were something else need --image-shape once, too."""
    images = np.random.default_rng(0).integers(0, 256, (12, 6, 20, 10), np.uint8)
    np.save(tmp_path / "x.npy", images)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(12) % 2)
    np.save(tmp_path / "first.npy", images.transpose(0, 3, 1, 2))
    np.save(tmp_path / "one.npy", images[0])
    refused("fit", "x.npz", "-o", "m.ckn", *tiny, words=["looks channels-first", "--image-shape 6x20x10 "])
    works("fit", "x.npz", "-o", "m.ckn", *tiny, "--image-shape", "6x20x10")
    for name in ("x.npy", "x.npz", "first.npy"):
        works("predict", "m.ckn", name, "-o", f"{name}.csv")
    expected = ckncuda.load(tmp_path / "m.ckn").predict(images)
    for name in ("x.npy", "x.npz", "first.npy"):
        np.testing.assert_array_equal(predictions(tmp_path / f"{name}.csv"), expected)
    assert "wrote one.csv: 1 prediction\n" in works("predict", "m.ckn", "one.npy", "-o", "one.csv").stdout
    assert predictions(tmp_path / "one.csv") == expected[:1]
    works("evaluate", "m.ckn", "x.npz")
    np.save(tmp_path / "other.npy", images[:, :, :19])
    refused("predict", "m.ckn", "other.npy", "-o", "s.csv", words=["looks channels-first"])
