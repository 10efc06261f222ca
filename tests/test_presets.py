import pytest

from ckncuda.errors import InvalidSpec
from ckncuda.presets import PRESETS, preset


@pytest.mark.parametrize(
    "shape", [(32, 32, 3), (28, 28, 1), (8, 8, 1), (64, 48, 3), (224, 224, 3), (3, 3, 1), (1, 1, 3)]
)
def test_the_default_leaves_few_positions_at_any_size(shape):
    height, width, _ = preset("default").encoders(1000, shape)[0].output_shape(shape)
    assert height * width <= 20


def test_the_default_asks_few_images_for_few_filters():
    for n, shape, filters in (
        (5000, (32, 32, 3), [64, 1024]),
        (40, (10, 10, 3), [64, 100]),
        (1, (1, 1, 3), [1, 1]),
    ):
        assert [layer.filters for layer in preset("default").encoders(n, shape)[0].layers] == filters


def test_the_seed_preset_is_the_published_network():
    (encoder,) = preset("seed").encoders(1000, (32, 32, 3))
    assert [layer.filters for layer in encoder.layers] == [64, 64, 128]
    assert encoder.output_shape((32, 32, 3)) == (4, 4, 128)
    assert preset("seed").classifier_options == {"regularization": 1e-3}


def test_every_preset_has_a_summary_and_an_unknown_one_is_refused():
    assert all(p.summary for p in PRESETS.values())
    with pytest.raises(InvalidSpec, match="no preset 'huge'; the presets are default, seed"):
        preset("huge")
