"""TOML files in which people describe systems; `System.from_toml` puts together what is read here."""

import codecs
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.exact.encoder import ExactEncoderSpec
from ckncuda.exact.kernel import ExactKernel
from ckncuda.files.foreign import BEGIN, kind_of
from ckncuda.files.regular_file import read_within
from ckncuda.given.parameters import listed, shown
from ckncuda.images.preprocess import Preprocessor, preprocessor_from_dict
from ckncuda.images.symmetries import Symmetries
from ckncuda.layer.spec import LayerSpec
from ckncuda.network.encoder import EncoderSpec
from ckncuda.supervised.encoder import TrainedEncoderSpec
from ckncuda.supervised.training import Training

Table = Mapping[str, Any]

MOST_BYTES = 1 << 20  # of a configuration file
MOST_DOTS = 20  # of a key
_DEEP = re.compile(rf"(?<![^\s.=\[\]{{}},#])(?:[^\s.=\[\]{{}},#]+[ \t]*\.[ \t]*){{{MOST_DOTS + 1}}}")

_OF_AN_ENCODER = ("layers", "preprocessing", "symmetries")
_OF_A_NETWORK = (*_OF_AN_ENCODER, "training")
_OF_A_KERNEL = ("tangent", "flip")


def read_toml(path: str) -> dict[str, Any]:
    """Read a configuration file, whatever its line ends and byte-order mark, or raise `InvalidSpec`."""
    try:
        content = read_within(path, MOST_BYTES)
    except InvalidData as error:
        raise InvalidSpec(f"cannot read the configuration {error}") from error
    except OSError as error:
        raise InvalidSpec(f"cannot read the configuration {path}: {error.strerror}") from error
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidSpec(f"{path} is not TOML: it is no UTF-8 text, save it as such") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _DEEP.search(text):  # for which tomllib takes time quadratic in the depth
        raise InvalidSpec(f"{path} is no configuration: it has keys of more than {MOST_DOTS} dots")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise InvalidSpec(f"{path} is not TOML for us: its brackets are nested too deep") from error
    except ValueError as error:  # numbers of thousands of digits, too
        kind = kind_of(content[:BEGIN])
        problem = kind or f"is not TOML: {error}{_advice(text, error)}"
        raise InvalidSpec(f"{path} {problem}") from error


def _advice(text: str, error: ValueError) -> str:
    """Say what to write in a line where a number has a decimal comma."""
    found = re.search(r"at line (\d+)", str(error))
    line = text.split("\n")[int(found[1]) - 1] if found else ""
    comma = re.search(r"=\s*[+-]?\d+,\d", line)
    return f"; in {shown(line.strip())} write a point, not a comma" if comma else ""


def is_exact(content: Table) -> bool:
    """Return whether a file says by itself that it describes exact kernels."""
    return not {"exact", *_OF_A_KERNEL}.isdisjoint(content)


def encoder_tables(content: Table, path: str, described: str = "encoders") -> list[Table]:
    """Return the table of each encoder: those of ``[[encoders]]``, or the one that stands at the top."""
    tables = _tables(content, "encoders", path)
    alone = {name: content[name] for name in _OF_A_NETWORK if name in content}
    if "encoders" in content and alone:
        raise InvalidSpec(
            f"{path}: {', '.join(alone)} and encoders both describe {described}; "
            "put all of it into [[encoders]]"
        )
    return list(tables) or [alone]


def check_network_file(content: Table, path: str) -> None:
    """Raise `InvalidSpec` for a table that a file of networks has no place for."""
    known = ["encoders", *_OF_A_NETWORK, "classifier"]
    if unknown := sorted(set(content) - set(known)):
        raise InvalidSpec(f"{path}: there is no table {listed(unknown)}; there are {', '.join(known)}")


def network(table: Table, path: str) -> EncoderSpec:
    """Return the encoder that a table describes."""
    if unknown := sorted(set(table) - set(_OF_A_NETWORK)):
        raise InvalidSpec(f"{path}: an encoder has no {listed(unknown)}; it has {', '.join(_OF_A_NETWORK)}")
    described = _layers(table, path, "filters, patch, subsampling")
    symmetries = Symmetries(**_symmetries(table, path))
    layers = [LayerSpec.from_dict(layer) for layer in described]
    described_network = layers, _preprocessing(table, path), symmetries
    if "training" not in table:
        return EncoderSpec(*described_network)
    if not isinstance(table["training"], dict):
        raise InvalidSpec(f"{path}: training must be a table of options such as epochs = 30")
    return TrainedEncoderSpec(*described_network, Training.from_dict(table["training"]))


def exact_encoders(
    content: Table, path: str, given: Mapping[str, bool] | None = None
) -> list[ExactEncoderSpec]:
    """Return the exact kernels that a file describes; ``given`` takes the place of its tangent and flip."""
    known = {*_OF_AN_ENCODER, *_OF_A_KERNEL, "encoders", "exact", "classifier"}
    if unknown := sorted(set(content) - known):
        raise InvalidSpec(
            f"{path}: there is no {listed(unknown)} in the description of an exact kernel; "
            f"there is {', '.join(sorted(known))}"
        )
    exact = content.get("exact", {})
    if not isinstance(exact, dict) or set(exact) - set(_OF_A_KERNEL):
        raise InvalidSpec(f"{path}: exact must be a table of tangent and flip; it is {shown(exact)}")
    top = {name: content[name] for name in _OF_A_KERNEL if name in content}
    for name in set(top) & set(exact):
        raise InvalidSpec(f"{path}: {name} stands at the top and in [exact]; leave one of them out")
    tables = encoder_tables(content, path, "kernels")
    return [_exact_encoder(table, top | exact, given or {}, path) for table in tables]


def _exact_encoder(table: Table, shared: Table, given: Table, path: str) -> ExactEncoderSpec:
    """Return the exact kernel of a table; what is given goes before the table, the table before the file."""
    known = {*_OF_AN_ENCODER, *_OF_A_KERNEL}
    if unknown := sorted(set(table) - known):
        raise InvalidSpec(
            f"{path}: an exact kernel has no {listed(unknown)}; it has {', '.join(sorted(known))}"
        )
    layers = _layers(table, path, "patch and subsampling")
    symmetries = _symmetries(table, path)
    if symmetries.get("shift", 0) != 0:
        raise InvalidSpec(
            f"{path}: shift is {shown(symmetries['shift'])}; exact kernels are averaged over mirror images "
            "alone: leave shift out"
        )
    mirrored = {"flip": symmetries["flip"]} if "flip" in symmetries else {}
    own = {name: table[name] for name in _OF_A_KERNEL if name in table}
    kernel = ExactKernel.from_dict({"layers": layers, **shared, **mirrored, **own, **given})
    return ExactEncoderSpec(kernel, _preprocessing(table, path))


def classifier(content: Table, path: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of a file's classifier."""
    table = content.get("classifier", {})
    if not isinstance(table, dict):
        raise InvalidSpec(f"{path}: classifier must be a table: [classifier] with a name")
    return table.get("name", "ridge"), {name: value for name, value in table.items() if name != "name"}


def _layers(table: Table, path: str, needs: str) -> list[dict[str, Any]]:
    layers = _tables(table, "layers", path)
    if not layers:
        raise InvalidSpec(f"{path} describes no layer: it needs [[layers]] with {needs}")
    return layers


def _symmetries(table: Table, path: str) -> dict[str, Any]:
    """Return flip and shift, where a table gives them."""
    symmetries = table.get("symmetries", {})
    if not isinstance(symmetries, dict) or set(symmetries) - {"flip", "shift"}:
        raise InvalidSpec(f"{path}: symmetries must be a table of flip and shift; it is {shown(symmetries)}")
    return symmetries


def _preprocessing(table: Table, path: str) -> tuple[Preprocessor, ...] | None:
    """Return the steps, none where a table says nothing of them; None for those that images suggest."""
    if table.get("preprocessing") == "auto":
        return None
    return tuple(preprocessor_from_dict(step) for step in _tables(table, "preprocessing", path))


def _tables(content: Table, name: str, path: str) -> list[dict[str, Any]]:
    """Return the tables that a file has under a name, none if there is nothing."""
    tables = content.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InvalidSpec(f"{path}: {name} must be tables: [[{name}]]")
    return tables
