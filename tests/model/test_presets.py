import pytest

from ckncuda.errors import InvalidSpec
from ckncuda.images.symmetries import Symmetries
from ckncuda.model.presets import PRESETS
from ckncuda.model.system import System
from ckncuda.network.network import PATCHES

PUBLISHED = ("seed", "chen5")  # of a geometry of their own
NETWORKS = [name for name in PRESETS if name not in PUBLISHED]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "shape", [(32, 32, 3), (28, 28, 1), (8, 8, 1), (64, 48, 3), (224, 224, 3), (3, 3, 1), (1, 1, 3)]
)
def test_few_positions_are_left_at_any_size(name, shape):
    for encoder in System.preset(name, 1000, shape).encoders:
        height, width, _ = encoder.output_shape(shape)
        assert height * width <= 20


def test_few_images_are_asked_for_few_filters():
    for n, shape, filters in (
        (5000, (32, 32, 3), [64, 2048]),
        (40, (10, 10, 3), [64, 100]),
        (1, (1, 1, 3), [1, 1]),
    ):
        assert [layer.filters for layer in System.preset("default", n, shape).encoders[0].layers] == filters


@pytest.mark.parametrize("name", NETWORKS)
def test_colour_images_are_flipped_and_digits_are_not(name):
    for channels, flipped in ((1, False), (3, True)):
        encoders = System.preset(name, 1000, (32, 32, channels)).encoders
        assert all(encoder.symmetries == Symmetries(flip=flipped) for encoder in encoders)


def test_many_images_are_fitted_on_landmarks():
    for name, n, classifier, options in (
        ("fast", 20_000, "kernel-ridge", {"kernel": "arccos1"}),
        ("fast", 20_001, "nystrom-ridge", {"kernel": "arccos1"}),
        ("seed", 60_000, "softmax", {"regularization": 1e-3}),
    ):
        system = System.preset(name, n, (32, 32, 3))
        assert (system.classifier, system.classifier_options) == (classifier, options)


def test_the_seed_preset_is_the_published_network():
    system = System.preset("seed", 1000, (32, 32, 3))
    (encoder,) = system.encoders
    assert [layer.filters for layer in encoder.layers] == [64, 64, 128]
    assert encoder.output_shape((32, 32, 3)) == (4, 4, 128)
    assert system.patches == PATCHES


def test_every_preset_has_a_summary_and_an_unknown_one_is_refused():
    assert all(p.summary for p in PRESETS.values())
    message = "no preset 'huge'; the presets are fast, default, best, mnist, supervised, chen5, seed"
    with pytest.raises(InvalidSpec, match=message):
        System.preset("huge", 1000, (32, 32, 3))


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 3, 1), (3, 3, 3)])
def test_images_that_are_too_small_for_a_preset_are_refused_with_another(name, shape):
    size = "x".join(map(str, shape))
    with pytest.raises(InvalidSpec, match=f"the preset {name} is not for images of {size}: layer .*default"):
        System.preset(name, 100, shape)
    assert System.preset("default", 100, shape)


def test_best_whitens_as_the_images_allow():
    def names(n, shape):
        return [
            None if encoder.preprocessing is None else [p.name for p in encoder.preprocessing]
            for encoder in System.preset("best", n, shape).encoders
        ]

    assert names(5000, (32, 32, 3)) == [None, ["local_whitening", "zca"], ["local_whitening"]]
    assert names(300, (32, 32, 3)) == names(5000, (72, 72, 3)) == [None, ["local_whitening"]]
    assert names(5000, (2, 2, 3)) == [None]
