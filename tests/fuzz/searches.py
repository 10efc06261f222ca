"""Search folders: made by real searches of which only the fits are not, and gone on with."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from factories import make_spec
from fuzz.corpus import Seed, small_models

from ckncuda import EncoderSpec, Model
from ckncuda.errors import InvalidData
from ckncuda.model import system
from ckncuda.model.presets import Preset
from ckncuda.studies.search import trials
from ckncuda.studies.search.trials import SearchOptions, SearchResult

TRIALS = 4  # of the whole search; the folders hold three
LABELS = np.arange(24) % 3
PIXELS = np.random.default_rng(7).normal(size=(24, 8, 8, 1)).astype(np.float32)


@contextlib.contextmanager
def _without_fits(failing: int | None) -> Iterator[None]:
    """Let every fit give the same model, but one of them fail, and draw no plots."""
    made = small_models()[-1]
    calls = iter(range(1000))

    def fit(cls: type[Model], *_: Any, **__: Any) -> Model:
        if next(calls) == failing:
            raise InvalidData("as if the layers did not fit")
        return Model(
            made.encoders, made.classifier, made.image_shape, made.image_type, None, dict(made.report)
        )

    small = {
        "small": Preset("for tests", lambda n, shape: [EncoderSpec([make_spec(subsampling=4)])], "ridge", {})
    }
    with (
        mock.patch.object(Model, "fit", classmethod(fit)),
        mock.patch.object(trials, "PRESETS", small),
        mock.patch.object(system, "PRESETS", small),
        mock.patch.object(trials, "draw_search"),
    ):
        yield


def search(folder: Path, n: int = TRIALS, failing: int | None = None) -> SearchResult:
    """Search, or go on with what the folder holds."""
    options = SearchOptions(seconds=600, trials=n, hold_out=0.0)
    with _without_fits(failing):
        return trials.search(PIXELS, LABELS, folder, options, backend="numpy")


def seeds(folder: Path) -> list[Seed]:
    """Return the folder of a search of three trials, of which one failed."""
    search(folder, TRIALS - 1, failing=1)
    return [Seed({name: (folder / name).read_bytes() for name in ("journal.log", "search.json")})]
