import pytest

from ckncuda.errors import InvalidSpec
from ckncuda.network import check_specs
from ckncuda.presets import PRESETS, preset


@pytest.mark.parametrize(
    "shape", [(32, 32, 3), (28, 28, 1), (8, 8, 1), (64, 48, 3), (224, 224, 3), (3, 3, 1), (1, 1, 3)]
)
def test_the_default_leaves_few_positions_at_any_size(shape):
    height, width, _ = check_specs(preset("default").layers(1000, shape), shape)[-1]
    assert height * width <= 20


def test_the_default_asks_few_images_for_few_filters():
    assert [s.filters for s in preset("default").layers(5000, (32, 32, 3))] == [64, 1024]
    assert [s.filters for s in preset("default").layers(40, (10, 10, 3))] == [64, 100]
    assert [s.filters for s in preset("default").layers(1, (1, 1, 3))] == [1, 1]


def test_the_seed_preset_is_the_published_network():
    specs = preset("seed").layers(1000, (32, 32, 3))
    assert [s.filters for s in specs] == [64, 64, 128]
    assert check_specs(specs, (32, 32, 3))[-1] == (4, 4, 128)
    assert preset("seed").classifier_options == {"regularization": 1e-3}


def test_every_preset_has_a_summary_and_an_unknown_one_is_refused():
    assert all(p.summary for p in PRESETS.values())
    with pytest.raises(InvalidSpec, match="no preset 'huge'; the presets are default, seed"):
        preset("huge")
