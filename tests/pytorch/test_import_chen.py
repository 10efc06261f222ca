# ruff: noqa: E402  (without PyTorch nothing more can be imported)
"""State dicts of PyTorch's own making, of modules with the parameters and buffers of Chen's program."""

import argparse
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: the extra torch brings it")

import safetensors.torch

from ckncuda import Exponential, Polynomial, import_chen
from ckncuda.errors import InvalidData
from ckncuda.torch import CKNLayer


class HisLayer(torch.nn.Module):
    """The mathematics of one of his layers, written anew from the paper, with his names of what is stored."""

    def __init__(self, channels, filters, side, step, kernel, alpha=None):
        super().__init__()
        self.step, self.kernel = step, kernel
        weight = torch.randn(filters, channels, side, side)
        self.weight = torch.nn.Parameter(weight / weight.flatten(1).norm(dim=1)[:, None, None, None])
        self.register_buffer("ones", torch.ones(1, channels, side, side))
        taps = torch.exp(-(torch.arange(-step, step + 1.0) ** 2) / step**2)
        taps = torch.outer(taps, taps) / taps.sum() ** 2
        self.register_buffer("pooling_filter", taps.expand(filters, 1, -1, -1))
        self.register_buffer("lintrans", torch.full((filters, filters), math.nan))
        if alpha is not None:
            self.kernel_args = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor([alpha]))])

    def kappa(self, t):
        return t**2 if isinstance(self.kernel, Polynomial) else torch.exp(self.kernel.alpha * (t - 1))

    def forward(self, maps):
        half = self.weight.shape[2] // 2
        squares = torch.nn.functional.conv2d(maps**2, self.ones, padding=half)
        norms = squares.clamp(min=1e-6).sqrt()
        t = torch.nn.functional.conv2d(maps, self.weight, padding=half) / norms
        maps = norms * self.kappa(t)
        if self.step > 1:
            filters = self.pooling_filter
            how = {"stride": self.step, "padding": self.step, "groups": len(filters)}
            maps = torch.nn.functional.conv2d(maps, filters, **how)
        flat = self.weight.flatten(1)
        values, vectors = torch.linalg.eigh(self.kappa(flat @ flat.T))
        self.lintrans = (vectors / (values.clamp(min=0).sqrt() + 1e-2) @ vectors.T).detach()
        return torch.einsum("pq,nqhw->nphw", self.lintrans, maps)


class HisNetwork(torch.nn.Module):
    def __init__(self, alpha=None):
        super().__init__()
        self.features = torch.nn.Module()
        self.features.ckn_layers = torch.nn.Sequential(
            HisLayer(3, 12, 3, 2, Exponential(sigma=0.5), alpha),
            HisLayer(12, 10, 1, 1, Polynomial(2), None if alpha is None else 2.0),
            HisLayer(10, 8, 2, 3, Exponential(sigma=0.5), alpha),
        )
        self.classifier = torch.nn.Linear(8 * 3 * 3, 5)

    def forward(self, images):
        return self.classifier(self.features.ckn_layers(images).flatten(1))


@pytest.fixture
def images(rng):
    return rng.normal(size=(6, 16, 16, 3)).astype(np.float32)


@pytest.fixture
def network(images):
    torch.manual_seed(0)
    network = HisNetwork().requires_grad_(False)
    network(torch.as_tensor(images).permute(0, 3, 1, 2))
    return network


def his_scores(network, images):
    with torch.no_grad():
        return network(torch.as_tensor(images).permute(0, 3, 1, 2)).numpy()


def test_scores_of_a_state_dict_are_those_of_the_network(network, images, relative_error):
    model = import_chen(network.state_dict())
    assert relative_error(model.scores(images), his_scores(network, images)) < 1e-4


def test_parameters_that_require_gradients_and_kernels_that_were_trained(images, relative_error):
    network = HisNetwork(alpha=4.0)
    kernels = [None, Polynomial(2), None]
    model = import_chen(dict(network.named_parameters()) | dict(network.named_buffers()), kernel=kernels)
    assert relative_error(model.scores(images), his_scores(network, images)) < 1e-4


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_types(dtype, network, images, relative_error):
    expected = his_scores(network, images)
    kernels = [Exponential(sigma=0.5), Polynomial(2), Exponential(sigma=0.5)]
    state = network.to(getattr(torch, dtype)).state_dict()
    found = import_chen(state, kernel=kernels).scores(images)
    assert relative_error(found, expected) < {"float64": 1e-4, "float16": 1e-2, "bfloat16": 0.1}[dtype]


def test_files_of_safetensors(network, images, tmp_path):
    path = tmp_path / "network.safetensors"
    safetensors.torch.save_file({n: t.contiguous() for n, t in network.state_dict().items()}, path)
    expected = import_chen(network.state_dict()).scores(images)
    assert np.array_equal(import_chen(path).scores(images), expected)


@pytest.mark.parametrize("old", [False, True])
def test_the_lines_of_the_message_turn_a_pickle_into_numbers(old, network, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved = {"args": argparse.Namespace(model="ckn5", lr=0.1), "state_dict": network.state_dict()}
    torch.save(saved, "model.pkl", _use_new_zipfile_serialization=not old)
    with pytest.raises(InvalidData, match="is a pickle, .*in Python: import argparse") as refused:
        import_chen("model.pkl")
    exec(str(refused.value).partition("in Python: ")[2], {})
    expected = import_chen(network.state_dict()).scores(images)
    assert np.array_equal(import_chen("model.npz").scores(images), expected)


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda t: t.to("meta"), torch.Tensor.int])
def test_tensors_that_are_no_arrays_of_numbers_are_refused(change, network):
    state = network.state_dict()
    state["classifier.bias"] = change(state["classifier.bias"])
    with pytest.raises(InvalidData, match="classifier.bias is .*expected .*floating-point numbers"):
        import_chen(state)
    with pytest.raises(InvalidData, match=r"the state is a HisNetwork: give its state_dict\(\)"):
        import_chen(network)


def test_his_layers_go_on_as_modules(network, images, relative_error):
    layers = [
        CKNLayer(layer, channels_first=True) for layer in import_chen(network.state_dict()).network.layers
    ]
    again = torch.nn.Sequential(*layers, torch.nn.Flatten(), network.classifier)
    assert relative_error(his_scores(again, images), his_scores(network, images)) < 1e-4
