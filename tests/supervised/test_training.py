"""Options of a training, and its learning rates."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckncuda.errors import InvalidSpec
from ckncuda.images.augment import Augmentation
from ckncuda.supervised import Training

OTHERS = [
    Training(),
    Training(epochs=3, optimizer="sgd", learning_rate=0.5, schedule="steps", milestones=[1, 2], warmup=0),
    Training(loss="squared-hinge", head_fit="alternating", augment=Augmentation(flip=True, cutout=3)),
    Training(start="random", train_layers=2, validation=0, label_smoothing=0.1, regularization=0.01),
]


@pytest.mark.parametrize("training", OTHERS, ids=str)
def test_a_training_is_what_its_plain_data_say(training):
    assert Training.from_dict(training.to_dict()) == training
    assert Training.from_dict({}) == Training()
    assert Training.from_dict({"augment": "flip,crop=4"}).augment == Augmentation(flip=True, crop=4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 0}, "epochs is 0; it must be a whole number of at least 1"),
        ({"batch": 2.5}, "batch is 2.5"),
        ({"learning_rate": 0}, "learning_rate is 0; it must be a positive number, such as 3e-3"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; it must be a positive number"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'"),
        ({"optimizer": "lbfgs"}, "optimizer is 'lbfgs'; it must be one of adam, sgd"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"schedule": "steps"}, "the schedule is steps and milestones are []; .*give milestones"),
        ({"milestones": [3]}, "the schedule is cosine and milestones are [3]; .*leave the milestones out"),
        ({"schedule": "steps", "milestones": [3, 2]}, "milestones are [3, 2]; expected each once, in incr"),
        (
            {"schedule": "steps", "milestones": [60, 85], "epochs": 70},
            "milestones are [60, 85], of 70 epochs; expected epochs that are reached, up to 70: give others",
        ),
        ({"schedule": "steps", "milestones": [0]}, "milestones[0] is 0; expected whole numbers of epochs"),
        ({"schedule": "steps", "milestones": "60"}, "milestones are '60'; expected whole numbers of epochs"),
        ({"warmup": -1}, "warmup is -1; it must be a number of epochs, 0 or more"),
        ({"momentum": 1}, "momentum is 1; it must be at least 0 and less than 1"),
        ({"validation": 1.0}, "validation is 1.0"),
        ({"label_smoothing": 1}, "label_smoothing is 1"),
        ({"label_smoothing": 0.1, "loss": "squared"}, "label_smoothing is for the loss softmax"),
        ({"regularization": -1}, 'regularization is -1; expected "auto" or a number that is not negative'),
        ({"head_fit": "never"}, "head_fit is 'never'"),
        ({"start": "zero"}, "start is 'zero'"),
        ({"train_layers": 0}, "train_layers is 0"),
        ({"augment": "flip"}, "expected Augmentation(flip=True, crop=4), for instance"),
    ],
)
def test_options_that_cannot_be(options, said):
    with pytest.raises(InvalidSpec) as refused:
        Training(**options)
    for part in said.split(".*"):
        assert part in str(refused.value)


def test_unknown_options_are_named_with_those_there_are():
    with pytest.raises(InvalidSpec, match="no option dropout; it has epochs, optimizer, learning_rate"):
        Training.from_dict({"dropout": 0.5})
    with pytest.raises(InvalidSpec, match='such as {"epochs": 30}'):
        Training.from_dict([])


def test_rates_of_steps_by_the_book():
    training = Training(
        epochs=6, optimizer="sgd", learning_rate=1, schedule="steps", milestones=[2, 4], warmup=0
    )
    assert [training.rate(e + 0.5) for e in range(6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_rates_of_a_cosine_by_the_book():
    training = Training(epochs=11, learning_rate=2.0, warmup=1)
    for epoch in (1, 3.25, 6, 11):
        assert training.rate(epoch) == pytest.approx(1 + math.cos(math.pi * (epoch - 1) / 10))


@given(
    epochs=st.integers(1, 50),
    warmup=st.floats(0, 60),
    schedule=st.sampled_from(["cosine", "constant"]),
    part=st.floats(0, 1),
)
def test_rates_rise_and_fall_between_zero_and_the_highest(epochs, warmup, schedule, part):
    training = Training(epochs=epochs, warmup=warmup, schedule=schedule, learning_rate=0.7)
    rates = [training.rate(part * epochs * i / 20) for i in range(21)]
    assert all(0 <= rate <= 0.7 for rate in rates)
    highest = rates.index(max(rates))
    assert rates[: highest + 1] == sorted(rates[: highest + 1])
    assert rates[highest:] == sorted(rates[highest:], reverse=True)


def test_the_rate_by_default_is_the_optimizers():
    assert Training().highest_rate == 3e-3
    assert Training(optimizer="sgd").highest_rate == 0.1
    assert Training(optimizer="sgd", learning_rate=0.2).highest_rate == 0.2
