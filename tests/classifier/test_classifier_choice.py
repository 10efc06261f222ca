"""The choice of λ, κ and weights: which values are tried, on which images, and what is said of it."""

import itertools
import math

import numpy as np
import pytest
from factories import gauss, overlapping_classes, overlapping_points, polynomial, rings
from hypothesis import given
from hypothesis import strategies as st

from ckncuda import ArcCosine, Exponential, GramRidge, KernelRidge, Linear, Polynomial
from ckncuda.classifier import choice
from ckncuda.classifier.choice import DECADES, LAMBDAS, REFINEMENT, SIGMAS, THIRDS, WEIGHTS
from ckncuda.classifier.gram_matrices import GramMatrices
from ckncuda.classifier.systems import GramSystem, KernelSystem
from ckncuda.classifier.training_data import FeatureScaling, TrainingData


def test_the_search_stops_when_the_accuracy_has_clearly_fallen():
    accuracy = {1.0: 0.5, 0.1: 0.8, 0.01: 0.79, 0.001: 0.7}
    search = choice.search_regularization(lambda tried: accuracy.get(tried, 0.8), 100, None)
    assert [tried for tried, _ in search] == [1.0, 0.1, 0.01, 0.001, 0.46, 0.22, 0.046, 0.022]
    assert choice.best_regularization(search) == 0.46  # of equal accuracies, the largest λ


def test_the_search_tries_every_decade_while_accuracy_holds():
    search = choice.search_regularization(lambda tried: 0.5, 100, None)
    assert [tried for tried, _ in search[: len(DECADES)]] == list(DECADES)
    assert len(search) == len(DECADES) + len(REFINEMENT)


@pytest.mark.parametrize("start", [1.0, 3e-3, 1e-8])
@pytest.mark.parametrize("peak", [1.0, 0.022, 1e-5, 1e-8])
def test_the_climb_finds_the_top_of_a_hill_from_anywhere(start, peak):
    accuracy = {tried: -abs(THIRDS.index(tried) - THIRDS.index(peak)) for tried in THIRDS}
    search = choice.climb_from(start, accuracy.__getitem__, None)
    assert choice.best_regularization(search) == peak
    first = min(range(len(THIRDS)), key=lambda place: abs(np.log(THIRDS[place] / start)))
    assert len(search) == len(dict(search)) <= abs(THIRDS.index(peak) - first) + 3
    assert dict(search) == {tried: accuracy[tried] for tried, _ in search}


def test_the_climb_crosses_a_level_stretch_but_no_plain():
    start = THIRDS.index(1e-3)
    heights = {tried: 0.5 for tried in THIRDS} | {THIRDS[start + 2]: 0.6}
    assert choice.best_regularization(choice.climb_from(1e-3, heights.__getitem__, None)) == THIRDS[start + 2]
    assert len(choice.climb_from(1e-3, lambda tried: 0.5, None)) == 7


def test_thirds_of_a_decade_are_those_of_the_refinement():
    assert set(DECADES) <= set(THIRDS)
    assert {float(f"{1e-3 * factor:.1e}") for factor in REFINEMENT} <= set(THIRDS)
    assert list(THIRDS) == sorted(THIRDS, reverse=True)


@given(data=st.data())
def test_a_climb_ends_where_no_neighbour_is_better_and_asks_once(data):
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple))
    start = tuple(data.draw(st.integers(0, size - 1)) for size in sizes)
    heights = np.random.default_rng(data.draw(st.integers(0, 10_000))).integers(0, 5, size=sizes)
    asked = []

    def accuracy_at(place):
        assert all(0 <= axis < size for axis, size in zip(place, sizes, strict=True))
        asked.append(place)
        return float(heights[place])

    best = choice.climb(start, accuracy_at, sizes)
    assert len(asked) == len(set(asked))
    assert best == start or heights[best] > heights[start]
    for axis, size in enumerate(sizes):
        for neighbour in (best[axis] - 1, best[axis] + 1):
            if 0 <= neighbour < size:
                assert heights[(*best[:axis], neighbour, *best[axis + 1 :])] <= heights[best]


@given(peak=st.tuples(*[st.integers(0, 9)] * 2), start=st.tuples(*[st.integers(0, 9)] * 2))
def test_a_climb_finds_the_top_of_a_hill(peak, start):
    assert choice.climb(start, lambda place: -math.dist(place, peak), (10, 10)) == peak


@given(images=st.integers(1, 200_000), few=st.integers(1, 2000))
def test_halvings_end_with_all_and_begin_with_few(images, few):
    counts = choice.halvings(images, few)
    assert counts[-1] == images
    assert all(first == second // 2 for first, second in itertools.pairwise(counts))
    assert counts[0] < 2 * few or (few == 1 and counts[0] == 1)
    assert counts[0] >= min(images, few)


def test_halvings_by_hand():
    assert choice.halvings(5000, 1000) == [1250, 2500, 5000]
    assert choice.halvings(1999, 1000) == [1999]
    assert choice.halvings(2000, 1000) == [1000, 2000]


@pytest.fixture
def few(monkeypatch):
    """Searches that begin on 20 to 40 images, of which half judge from 40 on."""
    monkeypatch.setattr("ckncuda.classifier.choice.FEW", 20)


def kernel_system(seed, encoders):
    """A system for κ on 90 images, whose features come from so many encoders, and all that can be chosen."""
    features, labels = overlapping_classes(90, 12, seed=seed)
    data = TrainingData.of(features, labels, [12] if encoders == 1 else [5, 7])
    system = KernelSystem(data, FeatureScaling.of(features, data.widths), None)
    return system, choice.Options("auto", encoders, "auto", "auto")


def gram_system(seed, kernels):
    """The same for Gram matrices."""
    x, labels = overlapping_points(90, seed)
    grams = [gauss(x, x), polynomial(x, x)][:kernels]
    system = GramSystem(GramMatrices(grams, np.arange(90), np.arange(3), labels))
    return system, choice.Options("auto", kernels, "auto")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", [kernel_system, gram_system])
def test_what_is_chosen_is_at_least_as_good_as_its_neighbours(few, kind, count, seed):
    system, options = kind(seed, count)
    calls = []
    chosen, judged = options.search(system.accuracy_among, 90, lambda *call: calls.append(call))
    assert judged == 45
    assert calls[0] == ("choosing kernel and λ", 1, 40)
    place = next(p for p in itertools.product(*map(range, options.sizes)) if options.at(p) == chosen)
    best = system.accuracy_among(chosen, 90, 45)
    assert best > 1 / 3
    for axis, size in enumerate(options.sizes):
        for step in (-1, 1):
            if 0 <= place[axis] + step < size:
                neighbour = (*place[:axis], place[axis] + step, *place[axis + 1 :])
                assert system.accuracy_among(options.at(neighbour), 90, 45) <= best


def kernel_ridge(seed, **options):
    return KernelRidge(**options).fit(*overlapping_classes(90, 12, seed=seed))


def gram_ridge(seed, **options):
    x, labels = overlapping_points(90, seed)
    return GramRidge(**options).fit([gauss(x, x), polynomial(x, x)], labels)


@pytest.mark.parametrize("kind", [kernel_ridge, gram_ridge])
def test_what_is_chosen_is_fitted_as_if_it_had_been_given(few, kind):
    fitted = kind(2)
    given = {"regularization": fitted.regularization_, "weights": fitted.kernel_weights_}
    if kind is kernel_ridge:
        given["kernel"] = fitted.kernels_[0]
    again = kind(2, **given)
    for name, array in fitted.arrays().items():
        np.testing.assert_allclose(again.arrays()[name], array, rtol=1e-5)
    assert again.validation_accuracy_ == fitted.validation_accuracy_
    assert "over 45 of them" in fitted.validation_
    assert "of them" not in again.validation_


def test_a_kernel_sees_what_no_line_separates():
    features, labels = rings()
    assert KernelRidge(Linear()).fit(features, labels).validation_accuracy_ < 0.7
    fitted = KernelRidge().fit(features, labels)
    assert fitted.validation_accuracy_ > 0.85
    unseen, true = rings(seed=1)
    assert np.mean(fitted.predict(unseen) == true) > 0.85


def test_weights_choose_what_tells_more():
    features, labels = rings(80)
    noise = np.random.default_rng(5).normal(size=(80, 5)).astype(np.float32)
    options = {"kernel": Exponential(sigma=1.0), "regularization": 1e-2}
    first = KernelRidge(**options).fit(np.hstack([features, noise]), labels, widths=(2, 5))
    second = KernelRidge(**options).fit(np.hstack([noise, features]), labels, widths=(5, 2))
    x, labels = overlapping_points(80)
    third = GramRidge(1e-2).fit([gauss(x, x), gauss(noise, noise)], labels)
    fourth = GramRidge(1e-2).fit([gauss(noise, noise), gauss(x, x)], labels)
    assert first.kernel_weights_[0] > 0.5 < third.kernel_weights_[0]
    assert second.kernel_weights_[1] > 0.5 < fourth.kernel_weights_[1]
    assert all("weights" in fitted.validation_ for fitted in (first, second, third, fourth))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "κ = {k}, weights {w}, λ = {r} were chosen by {by}"),
        ({"regularization": 0.01}, "κ = {k}, weights {w} were chosen by {by}; λ = 0.01 was given"),
        ({"kernel": ArcCosine(1)}, "weights {w}, λ = {r} were chosen by {by}; κ = arccos1 was given"),
        ({"weights": [3, 1]}, "κ = {k}, λ = {r} were chosen by {by}; weights 0.75 : 0.25 was given"),
        (
            {"kernel": Polynomial(2, 0.5), "regularization": 0.1},
            "weights {w} was chosen by {by}; κ = poly(degree=2, offset=0.5), λ = 0.1 were given",
        ),
        (
            {"kernel": Linear(), "regularization": 0.1, "weights": (0, 1)},
            "κ = linear, weights 0 : 1, λ = 0.1 were given",
        ),
    ],
)
def test_what_is_given_is_kept_and_said(few, options, sentence):
    features, labels = overlapping_classes(90, 12, seed=1)
    fitted = KernelRidge(**options).fit(features, labels, widths=(5, 7))
    if "regularization" in options:
        assert fitted.regularization_ == options["regularization"]
    else:
        assert fitted.regularization_ in LAMBDAS
    if "kernel" in options:
        assert fitted.kernels_ == (options["kernel"],) * 2
    else:
        assert all(kernel.sigma in SIGMAS for kernel in fitted.kernels_)
    if "weights" in options:
        assert fitted.kernel_weights_ == tuple(w / sum(options["weights"]) for w in options["weights"])
    else:
        assert fitted.kernel_weights_[1] / fitted.kernel_weights_[0] in WEIGHTS
    assert sum(fitted.kernel_weights_) == pytest.approx(1)
    kernels = dict.fromkeys(f"exp(sigma={kernel.to_dict().get('sigma')})" for kernel in fitted.kernels_)
    words = sentence.format(
        k=", ".join(kernels).replace(".0)", ")"),
        w=" : ".join(f"{weight:.2g}" for weight in fitted.kernel_weights_),
        r=f"{fitted.regularization_:g}",
        by="the same accuracies over 45 of them",
    )
    assert fitted.validation_ == f"leave-one-out over 90 images; {words}"


def test_with_one_encoder_nothing_is_said_of_weights():
    features, labels = overlapping_classes(40, 12)
    for weights in ("auto", [2.5]):
        fitted = KernelRidge(Linear(), 0.1, weights).fit(features, labels)
        assert fitted.kernel_weights_ == (1.0,)
        assert fitted.validation_ == "leave-one-out over 40 images; κ = linear, λ = 0.1 were given"
