"""The space of a search: every system in it fits the images, and presets lie in it."""

import json

import pytest
from factories import make_spec

from ckncuda import Exponential
from ckncuda.images.preprocess import ZCA, LocalWhitening
from ckncuda.images.symmetries import Symmetries
from ckncuda.model.presets import PRESETS, Preset
from ckncuda.model.system import System
from ckncuda.network.encoder import EncoderSpec
from ckncuda.studies.search.space import SearchSpace, system_of_preset

optuna = pytest.importorskip("optuna", reason="Optuna, the extra `search`, is not installed")


@pytest.fixture(autouse=True)
def _few_patches(monkeypatch):
    monkeypatch.setattr("ckncuda.studies.search.space.PATCHES_PER_FILTER", 500)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (5, 5, 3), (8, 8, 1), (13, 40, 3), (32, 32, 3)])
@pytest.mark.parametrize("images", [20, 5_000, 60_000])
def test_every_system_drawn_fits_the_images(shape, images):
    space = SearchSpace(shape, images, max(1, images // 4), memory=1 << 30)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(40):
        drawn = space.draw(study.ask())
        (encoder,) = drawn.networks
        layers = encoder.layers
        height, width, filters = encoder.output_shape(shape)
        assert 1 <= min(height, width) <= 4
        assert filters == layers[-1].filters <= max(1, images // 4 * shape[0] * shape[1] // 500)
        assert 4 * images * height * width * filters <= 1 << 30 or filters == 1
        assert drawn.classifier == "ridge" or images <= 20_000
        assert not encoder.symmetries.flip or shape[2] == 3
        drawn.check(shape)
        stored = json.loads(json.dumps(drawn.to_dict()))
        assert System.from_dict(stored).to_dict() == drawn.to_dict()


def test_what_is_said_of_a_preset_draws_it_again():
    shape = (32, 32, 3)
    space = SearchSpace(shape, 5000, 5000)
    last = {"filters": 1024, "patch": 5, "subsampling": 6, "kernel": Exponential(sigma=0.5)}
    layers = [make_spec(filters=64), make_spec(**last, decorrelation=0.25)]
    encoder = EncoderSpec(layers, [ZCA(0.1)], Symmetries(flip=True))
    told = System([encoder], "kernel-ridge", {"kernel": "arccos1"}, 40_960)
    found = space.matching(told)
    assert set(found) == set(space.parameters)
    again = space.draw(optuna.trial.FixedTrial(found))
    assert again.to_dict() == told.to_dict()


def test_a_preset_is_described_as_far_as_the_space_has_words():
    layer = make_spec(filters=100, patch=4, subsampling=16, kernel=Exponential(sigma=0.607))
    told = System([EncoderSpec([layer], [ZCA(10), LocalWhitening()])], "ridge", {}, 1000)
    found = SearchSpace((32, 32, 1), 5000, 5000).matching(told)
    assert found == {"layers": 1, "classifier": "ridge", "last_positions": 2, "last_decorrelation": 0.0}


def test_presets_that_a_search_cannot_judge_are_left_out(monkeypatch):
    encoder = EncoderSpec([make_spec(subsampling=4)])
    for name, encoders in (("two", [encoder, encoder]), ("large", [encoder])):
        preset = Preset("for tests", lambda n, shape, encoders=encoders: encoders, "ridge", {})
        monkeypatch.setitem(PRESETS, name, preset)
    shape = (32, 32, 3)
    assert system_of_preset("default", 1000, shape) is not None
    assert system_of_preset("seed", 1000, shape) is None  # softmax
    assert system_of_preset("supervised", 1000, shape) is None  # trained, and judged on few images
    assert system_of_preset("two", 1000, shape) is None
    assert system_of_preset("large", 1000, shape) is not None
    assert system_of_preset("large", 1000, (2, 2, 3)) is None
