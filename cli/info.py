"""`ckn info`: what a model file holds."""

from pathlib import Path
from typing import Any

import click

from ckncuda.data.source import format_shape
from ckncuda.model.model import Model
from ckncuda.progress import shown_bytes

from . import options


@click.command()
@click.argument("model")
@options.printed
def info(model: str) -> options.Printed:
    """Describe a MODEL: its layers, its classifier, how it was validated.

    \b
    Example:
        ckn info model.ckn
    """
    loaded = options.load_model(model)
    result = describe(loaded) | {"file_bytes": Path(model).stat().st_size}
    return result, _lines(result)


def describe(model: Model) -> dict[str, Any]:
    """Return everything about a model but its arrays."""
    classifier = None
    if model.classifier is not None:
        classifier = model.classifier.to_dict() | {
            "n_features": model.classifier.n_features,
            "classes": model.classifier.classes_.tolist(),
            "n_parameters": model.classifier.n_parameters,
        }
    return {
        "image_shape": None if model.image_shape is None else list(model.image_shape),
        "image_type": model.image_type,
        "class_names": None if model.class_names is None else list(model.class_names),
        "encoders": [encoder.describe(model.image_shape) for encoder in model.encoders],
        "classifier": classifier,
        "n_parameters": model.n_parameters,
        "report": model.report,
    }


def _lines(result: dict[str, Any]) -> list[str]:
    shape = result["image_shape"]
    images = "any size" if shape is None else f"{format_shape(shape)}, {result['image_type']}"
    lines = [f"images         {images}"]
    for number, encoder in enumerate(result["encoders"], 1):
        if len(result["encoders"]) > 1:
            lines.append(f"encoder {number}")
        lines += _encoder_lines(encoder)
    if result["classifier"] is None:
        lines.append("classifier     none")
    else:
        c = result["classifier"]
        lines.append(
            f"classifier     {c['n_features']} features to {len(c['classes'])} classes, "
            f"{c['n_parameters']:,} parameters"
        )
        for kernel, weight in zip(c.get("kernels", ()), c.get("weights", ()), strict=True):
            lines.append(f"               {_options(kernel, 'kernel')}, weight {weight:.2g}")
    if result["class_names"]:
        names = ", ".join(f"{i} {name}" for i, name in enumerate(result["class_names"]))
        lines.append(f"class names    {names}")
    report = {name: value for name, value in result["report"].items() if value is not None}
    lines += [f"{name:<14} {_reported(name, value)}" for name, value in report.items()]
    size = shown_bytes(result["file_bytes"])
    return [*lines, f"in all         {result['n_parameters']:,} parameters, {size}"]


def _encoder_lines(encoder: dict[str, Any]) -> list[str]:
    lines = ["preprocessing  " + (", ".join(_options(p, "name") for p in encoder["preprocessing"]) or "none")]
    if encoder["kind"] == "exact":
        name = "neural tangent kernel" if encoder["tangent"] else "exact kernel"
        mirrored = ", averaged over mirror images" if encoder["flip"] else ""
        lines.append(f"features       {name} with {encoder['n_images']:,} images{mirrored}")
        for number, layer in enumerate(encoder["layers"], 1):
            lines.append(f"layer {number}        {_options(layer)}")
        return lines
    if any(encoder["symmetries"].values()):
        lines.append("averaged over  " + _options(encoder["symmetries"]))
    for number, layer in enumerate(encoder["layers"], 1):
        shown = {k: v for k, v in layer.items() if k not in ("n_parameters", "output_shape", "on_a_gpu")}
        head = f"{layer['n_parameters']:,} parameters"
        if layer["output_shape"] is not None:
            head = f"output {format_shape(layer['output_shape'])}, {head}"
        lines += [f"layer {number}        {head}", "               " + _options(shown)]
        if layer["on_a_gpu"] is not None:
            lines.append(f"               on a GPU: {layer['on_a_gpu']}")
    return lines


def _reported(name: str, value: Any) -> Any:
    """Return what is shown of a report: of trainings how each chose its epoch, not what each epoch found."""
    if name != "training" or not isinstance(value, list):
        return value
    return "; ".join(str(each.get("chosen", each)) if isinstance(each, dict) else str(each) for each in value)


def _options(options: dict[str, Any], head: str | None = None) -> str:
    shown = ", ".join(f"{name}={value}" for name, value in options.items() if name != head)
    if head is None:
        return shown
    name = options[head]
    return f"{name} ({shown})" if shown else name
