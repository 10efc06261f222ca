"""Networks that Dexiong Chen's PyTorch program has trained, brought here: `import_chen`.

A state dict of his networks holds, for layer i of p filters on c channels, under ``features.ckn_layers.i.``:

=================  ====================  ===============================================================
``weight``         [p, c, k, k]          anchor points, of norm 1
``pooling_filter`` [p, 1, 2s+1, 2s+1]    Gaussian weights, of which s is the subsampling
``lintrans``       [p, p]                K_ZZ^{-1/2} as the network last used it: it tells κ
``kernel_args.0``  [1]                   α = 1/σ² of ``exp``, of networks that train it
``ones``           [1, c, k, k]          what sums the squares of a patch
``ckn_bias``       [1, c, k, k]          what is subtracted from patches; here there is no such thing
=================  ====================  ===============================================================

and of a classifier ``classifier.weight`` [K, p·h·w], on features in the order (filter, row, column), and
``classifier.bias`` [K].
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.classifier import LinearClassifier
from ckncuda.data.state_dicts import State, read_state
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.given.parameters import first_few, flag, image_shape, instance, several, shown, whole
from ckncuda.images.preprocess import Preprocessor
from ckncuda.layer.conventions import CHEN
from ckncuda.layer.dot_product import DotProductKernel, Exponential, Polynomial
from ckncuda.layer.layer import Layer
from ckncuda.layer.pooling import pooling_filter
from ckncuda.layer.spec import LayerSpec
from ckncuda.model.model import Model
from ckncuda.network.encoder import Encoder
from ckncuda.network.network import CKN
from ckncuda.types import Shape, StrPath

_PLACE = r"(?P<place>(?:module\.)?(?:features\.)?(?:ckn_layers\.)?)(?:(?P<number>0|[1-9]\d{0,3})\.)?"
_LAYER = re.compile(_PLACE + r"(?P<part>weight|ones|pooling_filter|lintrans|ckn_bias|kernel_args\.0)")
_HEAD = re.compile(r"(?:module\.)?classifier\.(?P<part>weight|bias)")
_NAMES = "expected those of his networks, such as features.ckn_layers.0.weight and classifier.weight"

ROUNDED = 1e-5  # norms of float32 are nearer to 1; of half precision they are not
FAR = 1e-2  # norms that no rounding explains
SAME_KERNEL = 0.02  # relative difference of two σ that rounding explains
MISFIT = 1e-2  # of κ at cosines of anchor points
CLEARLY = 0.2  # of the misfit of the other κ


def import_chen(
    state: Mapping[str, Any] | StrPath,
    *,
    kernel: DotProductKernel | Sequence[DotProductKernel | None] | None = None,
    subsampling: int | Sequence[int | None] | None = None,
    padding: str | Sequence[str] = "zero",
    scaler: bool | None = None,
    preprocessing: Sequence[Preprocessor] = (),
    image_shape: Shape | None = None,
) -> Model:
    """Make a model of a network of Chen's PyTorch program, CKN-Pytorch-image, and of its classifier.

    Features and scores are his, up to rounding.  No pickle is read, and PyTorch is not needed.

    Parameters
    ----------
    state : mapping or path-like
        ``network.state_dict()``, or the name of an ``.npz`` or ``.safetensors`` file of its tensors.  That of
        the layers alone will do: there is no classifier then.
    kernel : DotProductKernel, optional
        κ of all layers, or of each; None: as ``lintrans`` or ``kernel_args`` tell.
    subsampling : int, optional
        Of all layers, or of each; None: as ``pooling_filter`` tells.
    padding : {"zero", "valid"}
        Of all layers, or of each: ``"SAME"`` is called ``"zero"`` here.
    scaler : bool, optional
        Whether features are centred and divided by their norm before the classifier, as his unsupervised
        networks do.  By default they are where there is no ``classifier.bias``.  The centring becomes a part
        of the weights; the norm changes no prediction: scores are his, times that.
    preprocessing : sequence of Preprocessor
        His networks hold none: by default images are to be given as they were given to his network, but
        channels last.
    image_shape : (height, width, channels), optional
        Of the images; others are refused then.  Needed where the last maps are not square.

    Raises
    ------
    InvalidData
        The state is none of such a network, damaged, or contradicts itself or what is given.
    InvalidSpec
        Something that the state does not tell is not given, or is none of what is expected.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> weight = rng.normal(size=(8, 3, 3, 3))
    >>> weight /= np.linalg.norm(weight.reshape(8, -1), axis=1)[:, None, None, None]
    >>> model = import_chen({"0.weight": weight}, kernel=Exponential(sigma=0.5), subsampling=2)
    >>> model.features(rng.normal(size=(2, 8, 8, 3)).astype(np.float32)).shape
    (2, 128)
    """
    arrays = read_state(state, _check_names)
    stored = _layers_of(arrays)
    options = {"kernel": kernel, "subsampling": subsampling, "padding": padding}
    given = [_each(name, value, len(stored)) for name, value in options.items()]
    network = CKN.from_layers([_layer(*each) for each in zip(stored, *given, strict=True)])
    shape = None if image_shape is None else _checked_shape(image_shape, network)
    expected = "expected a list of steps that have learned, such as Standardize()"
    encoder = Encoder(network, several("preprocessing", preprocessing, Preprocessor, expected))
    return Model((encoder,), _classifier(arrays, network, shape, scaler), shape)


def _check_names(names: Collection[str]) -> None:
    """Raise `InvalidData` unless these are names of a network: of layers from 0 on, and of a classifier."""
    layers = [found for name in names if (found := _LAYER.fullmatch(name))]
    unknown = [name for name in names if not _LAYER.fullmatch(name) and not _HEAD.fullmatch(name)]
    if not layers:
        raise InvalidData(f"the state holds no layer, but {first_few(names) or 'nothing'}; {_NAMES}")
    if unknown:
        raise InvalidData(
            f"the state holds {first_few(unknown)}; {_NAMES}: leave out what is not of the network"
        )
    if (
        len({found["place"] for found in layers}) > 1
        or len({found["number"] is None for found in layers}) > 1
    ):
        raise InvalidData(
            f"the state holds layers of several networks, {first_few([m[0] for m in layers])}; {_NAMES}: "
            "give those of one"
        )
    heads = [found["part"] for name in names if (found := _HEAD.fullmatch(name))]
    if len(heads) > len(set(heads)):
        raise InvalidData(f"the state holds more than one classifier; {_NAMES}: give one")


@dataclass(frozen=True)
class _Stored:
    """A layer as the state holds it: its number in messages, what its names begin with, its parts."""

    number: int
    place: str
    parts: State

    def part(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
        """Return a part, if it is there; raise `InvalidData` where it is of another shape than this."""
        array = self.parts.get(name)
        if array is not None and array.shape != shape:
            raise self.error(f"{name} is of shape {list(array.shape)}; expected {list(shape)}, as weight is")
        return None if array is None else array.astype(np.float64)

    def error(self, words: str) -> InvalidData:
        """Return an error that says which layer, and where it is in the state."""
        return InvalidData(f"layer {self.number} ({self.place}*): {words}")


def _layers_of(arrays: State) -> list[_Stored]:
    """Return the layers in their order; raise `InvalidData` where one is missing, or has no weight."""
    found: dict[int, dict[str, Any]] = {}
    place = ""
    for name, array in arrays.items():
        if match := _LAYER.fullmatch(name):
            place = match["place"]
            number = -1 if match["number"] is None else int(match["number"])
            found.setdefault(number, {})[match["part"]] = array
    if -1 in found:
        layers = [_Stored(1, place, found[-1])]
    else:
        layers = [_Stored(n + 1, f"{place}{n}.", found.get(n, {})) for n in range(max(found) + 1)]
    for layer in layers:
        if "weight" not in layer.parts:
            has = f", but {first_few(layer.parts)}" if layer.parts else ""
            raise layer.error(f"there is no {layer.place}weight{has}; expected one for each layer from 0 on")
    return layers


def _each(name: str, value: Any, count: int) -> list[Any]:
    """Return what is given for each of so many layers, or for all of them."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        raise InvalidSpec(
            f"{name} is {shown(value)}, of {len(value)} layers; the network has {count}: give one for each, "
            "or one for all"
        )
    return list(value)


def _layer(stored: _Stored, kernel: DotProductKernel | None, subsampling: int | None, padding: str) -> Layer:
    weight = stored.parts["weight"]
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or not weight.size:
        raise stored.error(f"weight is of shape {list(weight.shape)}; expected [filters, channels, k, k]")
    filters, channels, side, _ = weight.shape
    anchors = _on_the_sphere(np.ascontiguousarray(weight.transpose(0, 2, 3, 1)), stored)
    ones = stored.part("ones", (1, channels, side, side))
    if ones is not None and not (ones == 1).all():
        raise stored.error("ones holds other numbers than 1; expected a state that his program saved")
    bias = stored.part("ckn_bias", (1, channels, side, side))
    if bias is not None and bias.any():
        raise stored.error(
            "ckn_bias is subtracted from patches, which no layer here does; expected a network that was made "
            "with bias=False: train one"
        )
    options: dict[str, Any] = {"patch": side, "padding": padding, **CHEN}
    options["subsampling"] = _subsampling(stored, subsampling, filters)
    options["kernel"] = _kernel(stored, kernel, anchors)
    return Layer.from_anchors(LayerSpec(filters=filters, **options), anchors)


def _on_the_sphere(anchors: NDArray[np.floating[Any]], stored: _Stored) -> NDArray[np.floating[Any]]:
    """Return anchor points of norm 1: as they are, but for those that were rounded to half precision."""
    norms = np.linalg.norm(anchors.reshape(len(anchors), -1).astype(np.float64), axis=1)
    if not np.isfinite(norms).all():
        raise stored.error("weight holds NaN or infinity; expected anchor points: train the network again")
    furthest = float(norms[np.argmax(np.abs(norms - 1))])
    if abs(furthest - 1) > FAR:
        raise stored.error(
            f"a filter of weight is of norm {furthest:.4g}; expected 1: call network.normalize_(), as his "
            "training does after each step, and save the state again"
        )
    if abs(furthest - 1) <= ROUNDED:
        return anchors
    rounded: NDArray[np.floating[Any]] = (anchors / norms[:, None, None, None]).astype(anchors.dtype)
    return rounded


def _subsampling(stored: _Stored, given: int | None, filters: int) -> int:
    """Return s: as given, or as the pooling filter tells, which must not contradict."""
    found = stored.parts.get("pooling_filter")
    if found is None:
        if given is None:
            raise InvalidSpec(
                f"layer {stored.number}: there is no {stored.place}pooling_filter, which would tell the "
                "subsampling: give subsampling=2, or a list of one for each layer, as the network has it"
            )
        return whole("subsampling", given, 1)
    size = found.shape[-1] if found.ndim else 0
    s = size // 2
    if s < 1 or found.shape != (filters, 1, 2 * s + 1, 2 * s + 1):
        expected = f"[{filters}, 1, 2s + 1, 2s + 1], s the subsampling"
        raise stored.error(f"pooling_filter is of shape {list(found.shape)}; expected {expected}")
    taps = np.ones(3) if s == 1 else pooling_filter(size, s, "gaussian", "corner")[1]
    if s > 1 and not np.allclose(found, np.outer(taps, taps), rtol=0, atol=1e-2 / size**2):
        raise stored.error(f"pooling_filter is not the Gaussian one of a subsampling of {s}")
    if given is not None and whole("subsampling", given, 1) != s:
        raise stored.error(
            f"subsampling is given as {given}, but pooling_filter is that of {s}: leave it out"
        )
    return s


def _kernel(
    stored: _Stored, given: DotProductKernel | None, anchors: NDArray[np.floating[Any]]
) -> DotProductKernel:
    """Return κ: as given, or as the state tells, which must not contradict."""
    expected = "expected a kernel such as Exponential(sigma=0.5), or one for each layer"
    if given is not None:
        given = instance("kernel", given, DotProductKernel, expected)
        if isinstance(given, Exponential) and given.sigma is None:
            raise InvalidSpec(f"kernel is {given!r}; sigma was chosen when the network was made: give that")
    flat = anchors.reshape(len(anchors), -1).astype(np.float64)
    projection = stored.part("lintrans", (len(flat), len(flat)))
    used = None if projection is None else _kernel_of(projection, flat @ flat.T)
    trained = _trained_kernel(stored, Polynomial(2) in (given, used))
    told = [("kernel is given as", given), ("kernel_args is that of", trained), ("lintrans is that of", used)]
    known = [(what, each) for what, each in told if each is not None]
    if not known:
        raise InvalidSpec(
            f"layer {stored.number}: nothing in the state tells its kernel: give "
            "kernel=Exponential(sigma=0.5) or Polynomial(2), or a list of one for each layer, as the network "
            "has it"
        )
    for what, each in known[1:]:
        if not _alike(known[0][1], each):
            raise stored.error(
                f"{known[0][0]} {known[0][1]}, but {what} {each}: give the one that the network was made "
                "with, and leave what is not of it out of the state"
            )
    return trained or known[0][1]


def _alike(one: DotProductKernel, other: DotProductKernel) -> bool:
    if isinstance(one, Exponential) and isinstance(other, Exponential):
        return abs(math.log(one.alpha / other.alpha)) < 2 * SAME_KERNEL
    return one == other


def _trained_kernel(stored: _Stored, polynomial: bool) -> Exponential | None:
    """Return κ of `exp` of the α that the state holds; None where it may be the degree of a polynomial."""
    alpha = stored.part("kernel_args.0", (1,))
    if alpha is None or polynomial or alpha[0] == 2:
        return None
    if not alpha[0] > 0:
        raise stored.error(f"kernel_args.0 is {alpha[0]:g}; expected 1/sigma^2, more than 0")
    return Exponential(sigma=float(alpha[0]) ** -0.5)


def _kernel_of(
    projection: NDArray[np.float64], cosines: NDArray[np.float64]
) -> Exponential | Polynomial | None:
    """Return κ with K_ZZ^{-1/2} = projection, of anchor points with these cosines; None if it tells no one.

    It does not where the network was never evaluated, so that anything may stand there, nor where it has been
    trained since.
    """
    if not np.isfinite(projection).all() or not np.abs(projection).max() < 1e6:
        return None
    if not np.linalg.cond(projection) < 1e6:
        return None
    root = np.linalg.inv((projection + projection.T) / 2) - CHEN["epsilon"] * np.eye(len(projection))
    gram = root @ root  # K_ZZ
    other = ~np.eye(len(gram), dtype=bool)
    t, k = cosines[other], gram[other]
    clear = (k > 0.02) & (t < 0.99)
    if not clear.any() or not np.abs(gram.diagonal() - 1).max() < MISFIT:
        return None
    alpha = float(np.log(k[clear]) @ (t[clear] - 1) / ((t[clear] - 1) ** 2).sum())
    if not alpha > 0:
        return None
    exponential, polynomial = np.abs(np.exp(alpha * (t - 1)) - k).max(), np.abs(t**2 - k).max()
    if not min(exponential, polynomial) < min(MISFIT, CLEARLY * max(exponential, polynomial)):
        return None
    if polynomial < exponential:
        return Polynomial(2)
    sigma = alpha**-0.5
    plain = float(f"{sigma:.2g}")  # people give two digits
    return Exponential(sigma=plain if abs(sigma / plain - 1) < SAME_KERNEL / 10 else sigma)


def _checked_shape(given: Shape, network: CKN) -> Shape:
    shape = image_shape("image_shape", given)
    network.output_shape(shape)  # raises where they do not fit
    return shape


def _classifier(
    arrays: State, network: CKN, image_shape: Shape | None, scaler: bool | None
) -> LinearClassifier | None:
    """Return the linear classifier on features in the order (row, column, filter), if the state has one."""
    parts = {found["part"]: array for name, array in arrays.items() if (found := _HEAD.fullmatch(name))}
    scaled = "bias" not in parts if scaler is None else flag("scaler", scaler)
    if not parts:
        if scaler is not None:
            raise InvalidSpec("scaler is given, but the state has no classifier: leave it out")
        return None
    weight, filters = parts.get("weight"), network.specs[-1].filters
    if (
        weight is None
        or weight.ndim != 2
        or weight.shape[0] < 2
        or not weight.size
        or weight.shape[1] % filters
    ):
        shape = "missing" if weight is None else f"of shape {list(weight.shape)}"
        raise InvalidData(
            f"classifier.weight is {shape}; expected [classes, features], of two classes or more, the "
            f"features of {filters} filters: leave out classifier.* to import the network alone"
        )
    bias = parts.get("bias", np.zeros(len(weight)))
    if bias.shape != weight.shape[:1]:
        raise InvalidData(f"classifier.bias is of shape {list(bias.shape)}; expected [{len(weight)}]")
    for name, array in (("weight", weight), ("bias", bias)):
        if not np.isfinite(array).all():
            raise InvalidData(f"classifier.{name} holds NaN or infinity; expected numbers: train it again")
    if scaled and bias.any():
        raise InvalidSpec(
            "scaler is true, but classifier.bias is not zero: scores of features divided by their norm are "
            "no linear ones of features then; leave out classifier.* and fit another classifier"
        )
    weights = weight.astype(np.float64)
    if scaled:
        weights -= weights.mean(axis=1, keepdims=True)
    height, width = _last_map(weight.shape[1] // filters, network, image_shape)
    weights = weights.reshape(-1, filters, height, width).transpose(2, 3, 1, 0).reshape(-1, len(weights))
    return LinearClassifier.from_arrays(weights, bias, np.arange(len(bias)))


def _last_map(positions: int, network: CKN, image_shape: Shape | None) -> tuple[int, int]:
    """Return height and width of the maps that the classifier sees."""
    if image_shape is not None:
        height, width, filters = network.output_shape(image_shape)
        if height * width != positions:
            shape = "x".join(map(str, image_shape))
            raise InvalidData(
                f"classifier.weight takes {positions * filters} features, but images of {shape} have "
                f"{height}x{width}x{filters}: give image_shape, padding and subsampling of the network"
            )
        return height, width
    side = math.isqrt(positions)
    if side**2 != positions:
        raise InvalidSpec(
            f"classifier.weight takes features of {positions} positions, which make no square: give "
            "image_shape=(height, width, channels)"
        )
    return side, side
