"""`ckn distance`: networks beside their exact kernel."""

import numpy as np
import pytest

from ckncuda import load
from ckncuda.exact import gram
from ckncuda.studies.distance import network_distance

LAYER = "patch=3,subsampling=3,kernel=exp,sigma=0.6"


def test_distance_of_networks_that_are_fitted(works, data, tmp_path):
    arguments = ("--layer", LAYER, "--preprocess", "none", "--anchors", "4,64", "--n-images", "12")
    result = works("distance", data.npy, *arguments, "-o", "d.png", "--json").told
    few, many = result["distances"]
    assert (result["n_images"], few["filters"], many["filters"]) == (12, [4], [64])
    assert few["distance"] > 2 * many["distance"] > 0
    assert few["centred"] > many["centred"]
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
    table = works("distance", data.npy, *arguments).stdout.splitlines()
    assert (table[0], len(table)) == ("relative Frobenius distance to the exact kernel of 12 images", 4)


def test_distance_of_a_model(works, data, model):
    result = works("distance", data.npy, "--model", model, "--n-images", "40", "--json").told
    network = load(model).network
    exact = gram(data.images, [layer.spec for layer in network.layers])
    expected = network_distance(network, data.images, exact=exact)
    assert result["distances"] == []
    assert result["model"]["distance"] == pytest.approx(expected.distance, rel=1e-6)
    features = network.transform(data.images).reshape(40, -1).astype(np.float64)
    relative = np.linalg.norm(features @ features.T - exact) / np.linalg.norm(exact)
    assert expected.distance == pytest.approx(relative, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--anchors", "16,x"), "not a list of whole numbers"),
        (("--anchors", "0"), "not a list of whole numbers"),
        (("--layer", "patch=3,subsampling=2,kernel=exp,quantile=0.1"), "sigma, not quantile"),
        (("--layer", LAYER, "--model", "m.ckn"), "--model brings its layers"),
        (("--layer", LAYER, "-o", "nowhere/d.png"), "nowhere"),
        (("--layer", LAYER, "-o", "d.txt"), "ending in .png"),
        (("--layer", "patch=30,subsampling=2,sigma=0.6"), "layer 1 does not fit"),
    ],
)
def test_refusals(refused, data, arguments, words):
    refused("distance", data.npy, *arguments, words=[words])
