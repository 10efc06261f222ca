# ruff: noqa: E402  (without PyTorch nothing more can be imported)
"""Layers as modules of PyTorch, against the backends that they compute with, and inside of other networks.

This folder is not called torch: what tests share is imported from beside it, and so would this be.
"""

import copy
import io
import pickle
import threading

import numpy as np
import pytest
from factories import make_images, make_layer, make_spec, stripes

torch = pytest.importorskip("torch", reason="PyTorch is not installed: the extra torch brings it")

from ckncuda import CKN, ArcCosine, Exponential, Polynomial
from ckncuda.backend import get_backend
from ckncuda.backend.numpy import NumpyBackend
from ckncuda.errors import CknError, InvalidData, InvalidSpec
from ckncuda.layer.conventions import CHEN
from ckncuda.torch import CKNLayer

SPECS = {
    "exp": {},
    "chen, even": {"patch": 2, **CHEN},
    "centred averages": {"pooling": "average", "alignment": "centered", "patch": (1, 2)},
    "valid, poly": {"padding": "valid", "kernel": Polynomial(2, offset=0.5), "subsampling": 1},
    "strided, floored": {"pooling": "strided", "norm_floor": 1.5, "scale": "floored_norm"},
    "arccos1": {"kernel": ArcCosine(1)},
}


class Recording(NumpyBackend):
    """A backend that keeps what it is given, and what it returns."""

    def __init__(self):
        super().__init__(threads=1, compiled=False)
        self.encoded, self.back = [], []

    def encode(self, maps, layers):
        result = super().encode(maps, layers)
        self.encoded.append((maps, layers[0], result))
        return result

    def encode_backward(self, maps, layers, upstream, *, by_maps=True):
        result = super().encode_backward(maps, layers, upstream, by_maps=by_maps)
        self.back.append((maps, upstream, by_maps, result))
        return result


def maps_of(rng, *shape, dtype=torch.float32):
    return torch.as_tensor(rng.normal(size=shape)).to(dtype)


@pytest.fixture
def layer(rng):
    return CKNLayer(make_layer(3, rng))


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_gradients_are_those_of_differences(name, channels_first, rng):
    layer = CKNLayer(make_layer(2, rng, filters=3, **SPECS[name]), channels_first=channels_first).double()
    shape = (2, 2, 5, 4) if channels_first else (2, 5, 4, 2)
    maps = maps_of(rng, *shape, dtype=torch.float64).requires_grad_()

    def through(maps, anchors):
        return torch.func.functional_call(layer, {"anchors": anchors}, (maps,))

    if name == "arccos1":  # off the sphere κ is cut off, and K_ZZ has no derivative
        layer.anchors.requires_grad_(False)
    assert torch.autograd.gradcheck(through, (maps, layer.anchors))


@pytest.mark.parametrize("name", SPECS)
def test_float32_and_the_reference(name, rng, relative_error):
    single = CKNLayer(make_layer(3, rng, **SPECS[name]))
    double = copy.deepcopy(single).double()
    maps = maps_of(rng, 4, 9, 8, 3)
    found = []
    for layer in (single, double):
        given = maps.to(layer.anchors.dtype, copy=True).requires_grad_()
        encoded = layer(given)
        assert encoded.dtype == layer.anchors.dtype
        (encoded * encoded.detach().cos()).sum().backward()
        found.append([encoded.detach(), given.grad, layer.anchors.grad])
    for actual, expected in zip(*found, strict=True):
        assert actual.shape == expected.shape
        assert relative_error(actual.numpy(), expected.numpy()) < 2e-4


def test_tensors_are_passed_on_without_copies(rng):
    backend = Recording()
    layer = CKNLayer(make_layer(3, rng), backend=backend)
    maps = maps_of(rng, 4, 8, 8, 3).requires_grad_()
    encoded = layer(maps)
    given, _, result = backend.encoded[0]
    assert given.ctypes.data == maps.data_ptr()
    assert encoded.data_ptr() == result.ctypes.data
    upstream = torch.ones_like(encoded)
    gradient, _ = torch.autograd.grad(encoded, [maps, layer.anchors], upstream)
    given, above, _, result = backend.back[0]
    assert (given.ctypes.data, above.ctypes.data) == (maps.data_ptr(), upstream.data_ptr())
    assert gradient.data_ptr() == result[0].ctypes.data
    assert layer.to_layer().anchors.ctypes.data != layer.anchors.data_ptr()


def test_channels_first_is_a_view(rng):
    backend, learned = Recording(), make_layer(3, rng)
    first = CKNLayer(learned, channels_first=True, backend=backend)
    maps = maps_of(rng, 4, 3, 9, 8)
    encoded = first(maps)
    assert backend.encoded[0][0].ctypes.data == maps.data_ptr()
    last = CKNLayer(learned, backend=Recording())(maps.permute(0, 2, 3, 1).contiguous())
    assert torch.equal(encoded.permute(0, 2, 3, 1), last)


def test_only_gradients_that_are_asked_for_are_computed(rng):
    backend = Recording()
    layer = CKNLayer(make_layer(3, rng), backend=backend)
    maps = maps_of(rng, 2, 8, 8, 3)
    layer(maps).sum().backward()
    assert [by_maps for _, _, by_maps, _ in backend.back] == [False]
    layer.anchors.requires_grad_(False)
    layer.anchors.grad = None
    layer(maps.requires_grad_()).sum().backward()
    assert layer.anchors.grad is None
    assert maps.grad is not None
    with torch.no_grad():
        assert not layer(maps).requires_grad
    assert len(backend.back) == 2


def test_projections_are_computed_once_and_again_once_anchors_change(rng):
    backend = Recording()
    layer = CKNLayer(make_layer(3, rng), backend=backend)
    maps = maps_of(rng, 2, 8, 8, 3)
    before = layer(maps).detach()
    assert torch.equal(layer(maps), before)
    layer.anchors.data[0] = layer.anchors.data[1]  # which no version of the tensor counts
    assert not torch.equal(layer(maps), before)
    _, second, third = [used for _, used, _ in backend.encoded]
    assert backend.encoded[0][1] is second
    assert third is not second


def test_a_gradient_is_that_of_the_anchors_of_the_way_forward(rng):
    layer = CKNLayer(make_layer(3, rng))
    maps = maps_of(rng, 2, 8, 8, 3)
    layer(maps).square().sum().backward()
    expected = layer.anchors.grad.clone()
    layer.anchors.grad = None
    loss = layer(maps).square().sum()
    with torch.no_grad():
        layer.anchors.copy_(layer.anchors.flip(0))
    loss.backward()
    assert torch.equal(layer.anchors.grad, expected)
    encoded = layer(maps)
    maps += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        encoded.sum().backward()


def test_a_network_is_trained_from_end_to_end(rng):
    torch.manual_seed(0)
    images, labels = stripes(noise=40.0)
    images, labels = torch.as_tensor(images).float() / 255 - 0.5, torch.as_tensor(labels)
    network = torch.nn.Sequential(
        *(CKNLayer(make_spec(filters=6), 1), CKNLayer(make_spec(filters=5, subsampling=3), 6)),
        *(torch.nn.Flatten(), torch.nn.Linear(20, 2)),
    )
    before = network[0].to_layer().anchors
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    losses = []
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for layer in network[:2]:
            assert layer.normalize_() is layer
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    learned = CKN.from_layers([layer.to_layer() for layer in network[:2]])
    assert np.abs(learned.layers[0].anchors - before).max() > 0.05
    features = network[:2](images).detach().numpy()
    np.testing.assert_allclose(learned.transform(images.numpy(), backend="numpy"), features, atol=1e-6)


def test_anchors_move_the_loss_as_their_gradient_says(layer, rng):
    maps = maps_of(rng, 3, 8, 8, 3)
    loss = layer(maps).square().sum()
    loss.backward()
    with torch.no_grad():
        layer.anchors -= 1e-4 * layer.anchors.grad / layer.anchors.grad.norm()
    assert layer(maps).square().sum() < loss


def test_anchors_are_learned_without_labels(rng):
    images = make_images(rng, 20, 10, 9, 3)
    spec = make_spec()
    network = CKN([spec]).fit(images, patches=500, seed=3, backend="numpy")
    for first in (False, True):
        given = torch.as_tensor(images.transpose(0, 3, 1, 2).copy() if first else images)
        layer = CKNLayer(spec, 3, channels_first=first)
        parameter = layer.anchors
        assert layer.fit_anchors(given, patches=500, seed=3) is layer
        assert layer.anchors is parameter
        assert np.array_equal(layer.to_layer().anchors, network.layers[0].anchors)
    encoded = CKNLayer(network.layers[0])(torch.as_tensor(images)).detach().numpy()
    assert np.array_equal(encoded, network.transform(images, backend="numpy"))


def test_random_anchors_are_of_norm_one_and_of_torchs_seed():
    torch.manual_seed(5)
    layer = CKNLayer(make_spec(), 3, dtype=torch.float64)
    torch.manual_seed(5)
    assert torch.equal(layer.anchors, CKNLayer(make_spec(), 3, dtype=torch.float64).anchors)
    assert torch.allclose(layer.anchors.square().sum(dim=(1, 2, 3)), torch.ones(12, dtype=torch.float64))
    assert layer.anchors.dtype == torch.float64


@pytest.mark.parametrize("way", ["save", "pickle", "copy"])
def test_what_is_stored_is_the_same_layer(way, layer, rng):
    maps = maps_of(rng, 2, 8, 8, 3)
    expected = layer(maps)
    if way == "save":
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        other = CKNLayer(make_spec(), 3)
        other.load_state_dict(torch.load(file, weights_only=True))
        assert list(other.state_dict()) == ["anchors"]
    else:
        other = pickle.loads(pickle.dumps(layer)) if way == "pickle" else copy.deepcopy(layer)
    assert torch.equal(other(maps), expected)


def test_threads_share_a_layer(layer, rng):
    maps = [maps_of(rng, 3, 8, 8, 3) for _ in range(4)]
    expected = [layer(each).detach() for each in maps]
    found = {}

    def call(number):
        found[number] = [layer(maps[number]).detach() for _ in range(10)]

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for step in ("start", "join"):
        for thread in threads:
            getattr(thread, step)()
    for number, results in found.items():
        assert all(torch.equal(each, expected[number]) for each in results)
    assert len(found) == 4


def test_what_compiles_leaves_the_layer_alone(rng):
    layer, linear = CKNLayer(make_layer(3, rng)), torch.nn.Linear(2, 3)
    maps = maps_of(rng, 2, 8, 8, 2)

    def network(maps):
        return torch.cos(layer(torch.sin(linear(maps)))).flatten(1)

    expected = network(maps)
    torch._dynamo.reset()
    traced = []

    def keep(graph, inputs):
        traced.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    compiled = torch.compile(network, backend=keep)
    for _ in range(2):
        linear.zero_grad()
        encoded = compiled(maps)
        encoded.square().sum().backward()
        torch.testing.assert_close(encoded, expected)
    gradient = linear.weight.grad.clone()
    linear.zero_grad()
    expected.square().sum().backward()
    torch.testing.assert_close(gradient, linear.weight.grad)
    assert [sum(name in each for each in traced) for name in ("sin", "cos")] == [1, 1]
    assert len(traced) <= 4, traced  # beside them linear, and flatten


def test_no_images_make_no_features(layer):
    maps = torch.zeros(0, 8, 8, 3, requires_grad=True)
    encoded = layer(maps)
    assert encoded.shape == (0, 4, 4, 12)
    encoded.sum().backward()
    assert maps.grad.shape == maps.shape
    assert not layer.anchors.grad.any()


@pytest.mark.parametrize("constant", [True, False])
def test_second_derivatives_are_refused_and_never_silently_zero(constant, layer, rng):
    maps = maps_of(rng, 2, 8, 8, 3).requires_grad_()
    encoded = layer(maps)
    value = encoded.sum() if constant else encoded.square().sum()
    by_maps, by_anchors = torch.autograd.grad(value, [maps, layer.anchors], create_graph=True)
    for gradient in (by_maps, by_anchors):
        with pytest.raises(InvalidSpec, match="expected first derivatives alone: detach the gradient"):
            (gradient.square().sum() + maps.sum()).backward(retain_graph=True)
    (by_maps.detach().square().sum() + maps.sum()).backward()


def test_a_kernel_of_unbounded_derivative_is_refused_where_a_gradient_is_asked_for(rng):
    layer = CKNLayer(make_layer(3, rng, kernel=ArcCosine(0)))
    maps = maps_of(rng, 2, 8, 8, 3)
    with pytest.raises(InvalidSpec, match="the derivative of the kernel arccos0 is infinite at 1"):
        layer(maps)
    with torch.no_grad():
        assert layer(maps).isfinite().all()
    assert layer.requires_grad_(False)(maps).isfinite().all()


WRONG_MAPS = {
    "an array": (lambda m: m.numpy(), "expected a tensor, such as torch.as_tensor"),
    "axes": (lambda m: m[0], r"shape \[8, 8, 3\]; expected \[n, h, w, c\] with c = 3"),
    "first": (lambda m: m.permute(0, 3, 1, 2), r"shape \[2, 3, 8, 8\]; expected .*channels_first=True if"),
    "double": (
        lambda m: m.double(),
        r"float64 on cpu, anchors torch.float32 .*give maps.to\(layer.anchors\)",
    ),
    "bytes": (lambda m: m.to(torch.uint8), r"torch.uint8 on cpu, anchors torch.float32"),
    "device": (lambda m: m.to("meta"), "torch.float32 on meta, anchors torch.float32 on cpu"),
    "small": (lambda m: m[:, :0], "must be|expected height|larger than"),
}


@pytest.mark.parametrize("kind", WRONG_MAPS)
def test_other_maps_are_refused(kind, layer, rng):
    change, said = WRONG_MAPS[kind]
    with pytest.raises(CknError, match=said):
        layer(change(maps_of(rng, 2, 8, 8, 3)))


def test_other_types_and_backends_are_refused(rng):
    maps = maps_of(rng, 2, 8, 8, 3)
    with pytest.raises(
        InvalidData, match=r"bfloat16 on cpu; expected float32, or on a CPU float64: give layer"
    ):
        CKNLayer(make_spec(), 3, dtype=torch.bfloat16)(maps.bfloat16())
    with pytest.raises(
        InvalidData, match="float32 .*which the backend reference does not take; leave backend"
    ):
        CKNLayer(make_spec(), 3, backend="reference")(maps)
    chosen = get_backend("numpy", threads=1)
    assert CKNLayer(make_spec(), 3, backend=chosen)(maps).shape == (2, 4, 4, 12)


def test_anchors_that_have_left_the_sphere_are_refused(layer, rng):
    maps = maps_of(rng, 2, 8, 8, 3)
    layer.anchors.data *= 1.1
    with pytest.raises(
        InvalidSpec, match=r"from 1.1 to 1.1; expected 1: call the layer's normalize_\(\) after"
    ):
        layer(maps)
    assert layer.normalize_()(maps).shape == (2, 4, 4, 12)
    layer.anchors.data[3] = torch.nan
    for call in (lambda: layer(maps), layer.normalize_, layer.to_layer):
        with pytest.raises(InvalidSpec, match="the training has diverged, take a smaller learning rate"):
            call()


WRONG_LAYERS = {
    "no layer": ((64,), {}, "layer is 64; expected a specification such as LayerSpec"),
    "no channels": ((make_spec(),), {}, "channels is None; give the number of channels"),
    "quantile": ((make_spec(kernel=Exponential(quantile=0.1)), 3), {}, "sigma is to be chosen from images"),
    "decorrelated": ((make_spec(decorrelation=0.25), 3), {}, "decorrelation is 0.25, .*expected 0: train"),
    "flag": ((make_spec(), 3), {"channels_first": "yes"}, "channels_first is 'yes'; expected true or false"),
    "backend": ((make_spec(), 3), {"backend": "gpu"}, "there is no backend 'gpu'"),
}


@pytest.mark.parametrize("kind", WRONG_LAYERS)
def test_other_layers_are_refused(kind):
    arguments, options, said = WRONG_LAYERS[kind]
    with pytest.raises(InvalidSpec, match=said):
        CKNLayer(*arguments, **options)


def test_channels_of_a_layer_are_its_own(rng):
    assert CKNLayer(make_layer(3, rng), 3).channels == 3
    with pytest.raises(InvalidSpec, match="channels is 4; the layer has learned on 3: leave it out"):
        CKNLayer(make_layer(3, rng), 4)


def test_a_layer_says_what_it_is(rng):
    assert repr(CKNLayer(make_layer(3, rng), channels_first=True)).endswith("3, channels_first=True)")
    assert "filters=12" in repr(CKNLayer(make_spec(), 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that PyTorch computes on")
def test_on_a_gpu(rng, relative_error):
    learned = make_layer(3, rng)
    maps = maps_of(rng, 4, 9, 8, 3)
    found = []
    for device in ("cpu", "cuda"):
        layer, given = CKNLayer(learned, device=device), maps.to(device).requires_grad_()
        encoded = layer(given)
        encoded.square().sum().backward()
        assert {each.device.type for each in (encoded, given.grad, layer.anchors.grad)} == {device}
        found.append([encoded.detach().cpu(), given.grad.cpu(), layer.anchors.grad.cpu()])
    for actual, expected in zip(found[1], found[0], strict=True):
        assert relative_error(actual.numpy(), expected.numpy()) < 2e-4
