"""Networks of Chen's PyTorch program, from state dicts in the layout of his modules."""

import ast
import math

import numpy as np
import pytest
import safetensors.numpy
from factories import Call, chens_networks

import ckncuda
from ckncuda import CknError, Exponential, Polynomial, import_chen
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.images.preprocess import Standardize
from ckncuda.layer.pooling import pooling_filter

FILES = ["chen_seed_paper", "chen_two_layer", "chen_poly_valid", "chen_even_patch", "chen_gradients"]
PREFIX = "features.ckn_layers."


def stored_layer(anchors, subsampling, projection=None):
    """Return the tensors of a layer of his, of anchors [p, k, k, c]."""
    weight = anchors.transpose(0, 3, 1, 2)
    filters, channels, side, _ = weight.shape
    size = 2 * subsampling + 1
    taps = np.exp(-((np.arange(size) - subsampling) ** 2) / subsampling**2)
    taps /= taps.sum()
    parts = {
        "weight": weight,
        "ones": np.ones((1, channels, side, side)),
        "pooling_filter": np.broadcast_to(np.outer(taps, taps), (filters, 1, size, size)),
        "lintrans": projection,
    }
    return {name: array.astype(np.float32) for name, array in parts.items() if array is not None}


def stored(data, prefix=PREFIX, *, lintrans=True):
    """Return the state dict of the network of a golden file."""
    state = {}
    for i, options in enumerate(ast.literal_eval(str(data["config"]))):
        projection = data[f"whitening_{i}"] if lintrans else None
        parts = stored_layer(data[f"anchors_{i}"], options["s"], projection)
        state |= {f"{prefix}{i}.{name}": array for name, array in parts.items()}
    return state


def padding_of(data):
    return "valid" if "VALID" in str(data["config"]) else "zero"


def kernels_of(data):
    return [spec.kernel for spec in chens_networks(data)[-1].specs]


def head(rng, maps, classes=5, bias=True):
    """Return a classifier of his on maps [n, h, w, p], and its scores, by his order of features."""
    features = maps.transpose(0, 3, 1, 2).reshape(len(maps), -1)
    weight = rng.normal(size=(classes, features.shape[1])) / math.sqrt(features.shape[1])
    offsets = rng.normal(size=classes) * bias
    state = {"classifier.weight": weight.astype(np.float32)}
    if bias:
        state["classifier.bias"] = offsets.astype(np.float32)
    return state, features, features @ weight.T + offsets


@pytest.fixture
def two_layers(shared_file):
    return np.load(shared_file("golden/chen_two_layer.npz"))


@pytest.fixture
def small(rng):
    """A state of one layer that needs no golden file, σ 0.5, s = 2, with a classifier on 4x4 positions."""
    anchors = rng.normal(size=(6, 3, 3, 2))
    anchors /= np.linalg.norm(anchors.reshape(6, -1), axis=1)[:, None, None, None]
    layer = ckncuda.LayerSpec(6, 3, 2, Exponential(sigma=0.5), **ckncuda.conventions.CHEN)
    projection = ckncuda.Layer.from_anchors(layer, anchors).projection
    state = {f"{PREFIX}0.{name}": array for name, array in stored_layer(anchors, 2, projection).items()}
    weight = rng.normal(size=(3, 96)).astype(np.float32)
    return state | {"classifier.weight": weight, "classifier.bias": np.zeros(3, np.float32)}


@pytest.mark.parametrize("name", FILES)
def test_features_and_scores_are_his(name, shared_file, relative_error, rng):
    data = np.load(shared_file(f"golden/{name}.npz"))
    maps = data[f"maps_{len(chens_networks(data)) - 1}"]
    classifier, _, scores = head(rng, maps)
    model = import_chen(stored(data) | classifier, padding=padding_of(data))
    assert model.network.specs == chens_networks(data)[-1].specs  # κ found in lintrans, s in the filters
    assert relative_error(model.transform(data["images"]), maps) < 2e-5
    assert relative_error(model.scores(data["images"]), scores) < 5e-5
    assert np.array_equal(model.predict(data["images"]), scores.argmax(axis=1))


def test_his_unsupervised_networks_centre_and_scale_features(two_layers, relative_error, rng):
    classifier, features, _ = head(rng, two_layers["maps_1"], bias=False)
    centred = features - features.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    his = centred / norms @ classifier["classifier.weight"].T
    model = import_chen(stored(two_layers) | classifier)
    scores = model.scores(two_layers["images"])
    assert relative_error(scores / norms, his) < 5e-5
    assert np.array_equal(scores.argmax(axis=1), his.argmax(axis=1))
    plain = import_chen(stored(two_layers) | classifier, scaler=False).scores(two_layers["images"])
    assert relative_error(plain, features @ classifier["classifier.weight"].T) < 5e-5


@pytest.mark.parametrize("prefix", [PREFIX, f"module.{PREFIX}", "ckn_layers.", ""])
def test_what_names_begin_with(prefix, two_layers):
    model = import_chen(stored(two_layers, prefix))
    assert model.classifier is None
    assert model.network.specs == chens_networks(two_layers)[-1].specs


def test_one_layer_alone_and_what_his_script_saves(small):
    alone = {name.removeprefix(f"{PREFIX}0."): a for name, a in small.items() if name.startswith(PREFIX)}
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 2)).astype(np.float32)
    expected = import_chen(small)
    assert np.array_equal(import_chen(alone).features(images), expected.features(images))
    assert np.array_equal(
        import_chen({"args": object(), "state_dict": small}).scores(images), expected.scores(images)
    )


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files(suffix, small, tmp_path):
    path = tmp_path / f"network{suffix}"
    if suffix == ".npz":
        np.savez_compressed(path, **{name: np.asfortranarray(array) for name, array in small.items()})
    else:
        safetensors.numpy.save_file({n: np.ascontiguousarray(a) for n, a in small.items()}, path)
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 2)).astype(np.float32)
    model, expected = import_chen(path), import_chen(small)
    assert np.array_equal(model.scores(images), expected.scores(images))
    model.save(tmp_path / "model.ckn")
    assert np.array_equal(ckncuda.load(tmp_path / "model.ckn").scores(images), expected.scores(images))
    with pytest.raises(InvalidData, match="is a model of ckncuda already: read it by ckncuda.load"):
        import_chen(tmp_path / "model.ckn")


def test_half_precision(small, relative_error):
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 2)).astype(np.float32)
    expected = import_chen(small).scores(images)
    halved = {name: array.astype(np.float16) for name, array in small.items() if "lintrans" not in name}
    assert relative_error(import_chen(halved, kernel=Exponential(sigma=0.5)).scores(images), expected) < 3e-3


def bfloat16(array):
    """Return the nearest numbers with eight binary digits, as the upper halves of float32."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def test_bfloat16_in_safetensors(small, tmp_path, relative_error):
    halves = {name: bfloat16(array) for name, array in small.items() if "lintrans" not in name}
    content = safetensors.numpy.save(halves).replace(b'"U16"', b'"BF16"')
    length = int.from_bytes(content[:8], "little") + len(halves)  # one letter more each
    (tmp_path / "network.safetensors").write_bytes(length.to_bytes(8, "little") + content[8:])
    model = import_chen(tmp_path / "network.safetensors", kernel=Exponential(sigma=0.5))
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 2)).astype(np.float32)
    assert relative_error(model.scores(images), import_chen(small).scores(images)) < 3e-2


class Tensor:
    """The part of a tensor of PyTorch that is asked for."""

    def __init__(self, array, dtype):
        self.array, self.dtype = array, dtype

    def detach(self):
        return self

    cpu = detach

    def float(self):
        return Tensor(self.array, "torch.float32")

    def numpy(self):
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


@pytest.mark.parametrize("dtype", ["torch.float32", "torch.bfloat16"])
def test_tensors(dtype, small):
    model = import_chen({name: Tensor(array, dtype) for name, array in small.items()})
    assert np.array_equal(model.network.layers[0].anchors, import_chen(small).network.layers[0].anchors)


@pytest.mark.parametrize("name", FILES)
def test_kernels_are_found_in_projections_and_else_asked_for(name, shared_file):
    data = np.load(shared_file(f"golden/{name}.npz"))
    options = {"padding": padding_of(data)}
    bare = stored(data, lintrans=False)
    with pytest.raises(InvalidSpec, match=r"layer 1: nothing in the state tells its kernel: give kernel="):
        import_chen(bare, **options)
    assert list(kernels_of(data)) == [s.kernel for s in import_chen(stored(data), **options).network.specs]
    given = import_chen(bare, kernel=kernels_of(data), **options)
    assert given.network.specs == chens_networks(data)[-1].specs


@pytest.mark.parametrize("kernel", [Polynomial(2), Exponential(sigma=0.71), Exponential(sigma=1.3)])
@pytest.mark.parametrize("spread", [0.03, 0.1, 0.4])
def test_kernels_of_anchors_that_are_alike_are_told_apart_or_asked_for(kernel, spread, rng):
    anchors = 1 + spread * rng.normal(size=(24, 1, 1, 9))
    anchors /= np.linalg.norm(anchors, axis=3, keepdims=True)
    layer = ckncuda.LayerSpec(24, 1, 1, kernel, **ckncuda.conventions.CHEN)
    projection = ckncuda.Layer.from_anchors(layer, anchors.astype(np.float32)).projection.astype(np.float32)
    state = {f"0.{name}": array for name, array in stored_layer(anchors, 1, projection).items()}
    if spread < 0.1:  # all cosines are nearly 1
        with pytest.raises(InvalidSpec, match="nothing in the state tells its kernel"):
            import_chen(state)
    else:
        assert import_chen(state).network.specs[0].kernel == kernel


@pytest.mark.parametrize("value", [0.0, np.nan, 1e38])
def test_a_projection_that_was_never_computed_tells_nothing(value, small):
    small[f"{PREFIX}0.lintrans"] = np.full((6, 6), value, np.float32)
    with pytest.raises(InvalidSpec, match="nothing in the state tells its kernel"):
        import_chen(small)
    import_chen(small, kernel=Exponential(sigma=0.5))


def test_a_kernel_that_was_trained(small):
    alone = {name: array for name, array in small.items() if "lintrans" not in name}
    alone[f"{PREFIX}0.kernel_args.0"] = np.array([3.7], np.float32)
    assert import_chen(alone).network.specs[0].kernel.alpha == pytest.approx(3.7)
    alone[f"{PREFIX}0.kernel_args.0"] = np.array([2], np.float32)  # the degree of t², or α
    with pytest.raises(InvalidSpec, match="nothing in the state tells its kernel"):
        import_chen(alone)
    assert import_chen(alone, kernel=Polynomial(2)).network.specs[0].kernel == Polynomial(2)


def test_subsampling_padding_and_shape_that_are_given(small):
    bare = {name: a for name, a in small.items() if "pooling_filter" not in name and "ones" not in name}
    with pytest.raises(InvalidSpec, match="there is no .*pooling_filter, .*: give subsampling=2"):
        import_chen(bare)
    assert import_chen(bare, subsampling=2).network.specs == import_chen(small).network.specs
    model = import_chen(small, padding=["valid"], image_shape=(10, 10, 2), preprocessing=[Standardize()])
    assert model.network.specs[0].padding == "valid"
    assert model.image_shape == (10, 10, 2)
    assert model.encoders[0].preprocessing == (Standardize(),)
    small["classifier.weight"] = small["classifier.weight"][:, :48]  # 2x4 positions
    assert import_chen(small, image_shape=(4, 8, 2)).n_features == 48
    with pytest.raises(InvalidSpec, match=r"8 positions, which make no square: give image_shape="):
        import_chen(small)


BROKEN = {
    "no layer": (lambda s: s.clear(), "holds no layer, but nothing"),
    "other": (lambda s: s.update({"fc.weight": np.ones(3)}), "holds fc.weight; expected .*: leave out"),
    "several": (lambda s: s.update({"0.weight": np.ones((6, 2, 3, 3))}), "layers of several networks"),
    "missing": (lambda s: s.pop(f"{PREFIX}0.weight"), r"layer 1 .*there is no .*0\.weight, but ones"),
    "a gap": (lambda s: s.update({f"{PREFIX}2.weight": np.ones((6, 2, 3, 3))}), r"layer 2 .*there is no"),
    "NaN": (lambda s: s[f"{PREFIX}0.weight"].__setitem__((0, 0, 0, 0), np.nan), "weight holds NaN or inf"),
    "norms": (lambda s: s[f"{PREFIX}0.weight"].__imul__(2), "of norm 2; expected 1: call network.normalize_"),
    "axes": (lambda s: s.update({f"{PREFIX}0.weight": np.ones((6, 18))}), r"\[filters, channels, k, k\]"),
    "ones": (lambda s: s[f"{PREFIX}0.ones"].__imul__(2), "ones holds other numbers than 1"),
    "bias": (lambda s: s.update({f"{PREFIX}0.ckn_bias": np.ones((1, 2, 3, 3))}), "made with bias=False"),
    "projection": (lambda s: s.update({f"{PREFIX}0.lintrans": np.ones((5, 5))}), r"expected \[6, 6\]"),
    "pooling": (lambda s: s[f"{PREFIX}0.pooling_filter"].__imul__(2), "not the Gaussian one"),
    "taps": (lambda s: s.update({f"{PREFIX}0.pooling_filter": np.ones((6, 1, 4, 4))}), r"2s \+ 1, 2s \+ 1"),
    "alpha": (lambda s: s.update({f"{PREFIX}0.kernel_args.0": -np.ones(1)}), "kernel_args.0 is -1"),
    "cache": (lambda s: s.update({f"{PREFIX}0.kernel_args.0": np.ones(1)}), "kernel_args is that of .* but"),
    "integers": (lambda s: s.update({f"{PREFIX}0.weight": np.ones((6, 2, 3, 3), int)}), "is of type int64"),
    "text": (lambda s: s.update({f"{PREFIX}0.weight": "weight"}), "is of type <U6"),
    "ragged": (lambda s: s.update({f"{PREFIX}0.weight": [[1.0], [1.0, 2.0]]}), "no array in memory"),
    "a number": (lambda s: s.update({3: np.ones(3)}), "a name in the state is 3"),
    "head": (lambda s: s.pop("classifier.weight"), "classifier.weight is missing"),
    "features": (lambda s: s.update({"classifier.weight": np.ones((3, 97))}), r"of shape \[3, 97\]"),
    "one class": (lambda s: s.update({"classifier.weight": np.ones((1, 96))}), "of two classes or more"),
    "offsets": (lambda s: s.update({"classifier.bias": np.ones(4)}), r"classifier.bias is of .*\[4\]; exp"),
    "infinity": (lambda s: s["classifier.bias"].__setitem__(0, np.inf), "classifier.bias holds NaN or inf"),
    "heads": (lambda s: s.update({"module.classifier.bias": np.ones(3)}), "more than one classifier"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_states_are_refused(kind, small):
    break_it, said = BROKEN[kind]
    break_it(small)
    with pytest.raises(CknError, match=said):
        import_chen(small)


CONTRADICTORY = {
    "kernel": ({"kernel": Exponential(sigma=0.6)}, r"given as Exponential\(sigma=0.6.*lintrans is that of"),
    "quantile": ({"kernel": Exponential(quantile=0.1)}, "sigma was chosen when the network was made"),
    "no kernel": ({"kernel": "exp"}, "kernel is 'exp'; expected a kernel such as"),
    "two": ({"kernel": [Exponential(sigma=0.5)] * 2}, "of 2 layers; the network has 1"),
    "step": ({"subsampling": 3}, "subsampling is given as 3, but pooling_filter is that of 2"),
    "half": ({"subsampling": 2.5}, "subsampling is 2.5; it must be a whole number"),
    "padding": ({"padding": "SAME"}, "padding is 'SAME'; it must be one of zero, valid"),
    "shape": ({"image_shape": (10, 10, 2)}, "takes 96 features, but images of 10x10x2 have 5x5x6"),
    "channels": ({"image_shape": (8, 8, 3)}, "images have 3 channels"),
    "scaler": ({"scaler": 1}, "scaler is 1; expected true or false"),
    "steps": ({"preprocessing": ["standardize"]}, r"preprocessing\[0\] is 'standardize'"),
}


@pytest.mark.parametrize("kind", CONTRADICTORY)
def test_what_contradicts_the_state_is_refused(kind, small):
    options, said = CONTRADICTORY[kind]
    with pytest.raises(CknError, match=said):
        import_chen(small, **options)


def test_scores_that_are_no_linear_ones_are_refused(small):
    small["classifier.bias"] = np.ones(3, np.float32)
    with pytest.raises(InvalidSpec, match=r"scaler is true, but classifier.bias is not zero"):
        import_chen(small, scaler=True)
    without = {name: array for name, array in small.items() if not name.startswith("classifier")}
    with pytest.raises(InvalidSpec, match="scaler is given, but the state has no classifier"):
        import_chen(without, scaler=True)


def test_layers_that_do_not_stack_are_refused(small, rng):
    weight = rng.normal(size=(4, 5, 1, 1))
    weight /= np.linalg.norm(weight, axis=1, keepdims=True)
    second = {f"{PREFIX}1.weight": weight}
    kernels, steps = [None, Polynomial(2)], [None, 1]
    with pytest.raises(InvalidSpec, match="layer 2: anchors have 5 channels, the layer below has 6 filters"):
        import_chen(small | second, kernel=kernels, subsampling=steps)


class Module:
    def state_dict(self):
        return {}


@pytest.mark.parametrize("state", [None, 3, [1], Module(), dict])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(CknError, match="state_dict"):
        import_chen(state)


def test_pickles_are_never_read(tmp_path):
    import pickle
    import zipfile

    old, new = tmp_path / "model.pkl", tmp_path / "model.pt"
    old.write_bytes(pickle.dumps({"weight": Call(print, "read")}))
    with zipfile.ZipFile(new, "w") as archive:
        archive.writestr("model/data.pkl", old.read_bytes())
    for path in (old, new):
        with pytest.raises(
            InvalidData, match=r"is a pickle, which may .*: make one .*: import argparse"
        ) as e:
            import_chen(path)
        compile(str(e.value).partition("in Python: ")[2], "lines", "exec")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "neither an .npz nor a .safetensors file"),
        (b"weight,1\n", "neither an .npz nor a .safetensors file"),
        (b"\x93NUMPY\1\0", "neither an .npz nor a .safetensors file"),
        (b"PK\3\4" + bytes(30), "is a zip archive"),
        (b"\x10\0\0\0\0\0\0\0{", "is truncated"),
        (b"\x02\0\0\0\0\0\0\0{]", "is not a safetensors file, or is damaged"),
        (b"\x89HDF\r\n\x1a\n", "neither an .npz nor a .safetensors file"),
        (None, "no such file"),
    ],
)
def test_other_files_are_refused(content, said, tmp_path):
    path = tmp_path / "network.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CknError, match=said):
        import_chen(path)


def test_names_are_looked_at_before_anything_is_unpacked(small, tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **small, other=np.zeros(8 << 20, np.uint8))
    with pytest.raises(InvalidData, match="the state holds other; expected"):
        import_chen(tmp_path / "a.npz")
    zeros = {f"{PREFIX}{i}.weight": np.zeros((50, 100, 30, 30), np.float32) for i in range(4)}
    np.savez_compressed(tmp_path / "b.npz", **zeros)
    with pytest.raises(InvalidData, match="hardly anything is in it, or it is a trap"):
        import_chen(tmp_path / "b.npz")


def test_the_filter_of_these_tests_is_that_of_the_library():
    taps = pooling_filter(9, 3, "gaussian", "corner")[1]
    filters = stored_layer(np.ones((1, 1, 1, 1)), 3)["pooling_filter"]
    assert np.allclose(filters[0, 0], np.outer(taps, taps))
