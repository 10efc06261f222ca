"""One image after another: what a model makes for it is made once, and goes when the model goes."""

import copy
import gc
import multiprocessing
import pickle
import threading
import weakref

import numpy as np
import pytest

from ckncuda import ArcCosine, EncoderSpec, Exponential, KernelRidge, LayerSpec, Model, Ridge
from ckncuda.backend import shared_backend
from ckncuda.backend.numpy import NumpyBackend
from ckncuda.backend.numpy.threads import ThreadBuffer
from ckncuda.exact.kernel import ExactKernel
from ckncuda.layer import KernelLayer
from ckncuda.model.fit import fit_exact

LABELS = np.arange(40) % 2


@pytest.fixture
def images(rng):
    return (rng.normal(size=(40, 12, 12, 3)) + LABELS[:, None, None, None]).astype(np.float32)


def fitted(images, encoders=1, classifier=None):
    layers = [LayerSpec(f, 3, 2, kernel=Exponential(sigma=0.6)) for f in (16, 24)]
    classifier = classifier or KernelRidge(ArcCosine(1), 1e-3, [1] * encoders)
    return Model.fit(images, LABELS, [EncoderSpec(layers)] * encoders, classifier=classifier, patches=2000)


@pytest.fixture
def packings(monkeypatch):
    """Layers whose weights were packed, by any backend."""
    packed, steps = [], NumpyBackend()._steps
    weights_of = steps.weights_of
    monkeypatch.setattr(steps, "weights_of", lambda *of: (packed.append(of[0]), weights_of(*of))[1])
    return packed


CALLS = {
    "predict": lambda model, x: model.predict(x),
    "scores": lambda model, x: model.scores(x),
    "features": lambda model, x: model.features(x),
    "blocks": lambda model, x: list(model.feature_blocks(x)),
}


@pytest.mark.parametrize("call", [*CALLS, "transform", "network"])
@pytest.mark.parametrize("encoders", [1, 2])
def test_layers_are_packed_once(images, packings, call, encoders):
    model = fitted(images, encoders)
    calls = CALLS | {
        "transform": lambda model, x: model.transform(x),
        "network": lambda model, x: model.network.transform(x),
    }
    if encoders == 2 and call not in CALLS:
        pytest.skip("an ensemble has no one network")
    calls[call](model, images[:1])
    packings.clear()
    for image in range(3):
        calls[call](model, images[image : image + 1])
    assert packings == []


def test_norms_of_an_exact_models_images_are_computed_once(images, monkeypatch):
    layer = KernelLayer(patch=3, subsampling=4, kernel=Exponential(sigma=0.6))
    model = fit_exact(images, LABELS, [(ExactKernel([layer]), ())], regularization=1e-3)
    model.predict(images[:1])
    normed = []
    norms = NumpyBackend.patch_norms
    monkeypatch.setattr(
        NumpyBackend, "patch_norms", lambda b, m, s: (normed.append(len(m)), norms(b, m, s))[1]
    )
    model.predict(images[:1])
    assert normed == [1]


def test_another_backend_is_taken_when_it_is_asked_for(images, monkeypatch):
    model = fitted(images)
    first = model.features(images[:2])
    assert first.dtype == np.float32
    assert model.features(images[:2], backend="reference").dtype == np.float64
    monkeypatch.setenv("CKNCUDA_BACKEND", "reference")
    assert model.features(images[:2]).dtype == np.float64
    assert np.array_equal(model.features(images[:2], backend="numpy"), first)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("exact", [False, True])
def test_copies_predict_the_same_and_hold_no_more(images, copied, exact):
    layer = KernelLayer(patch=3, subsampling=4, kernel=Exponential(sigma=0.6))
    model = fit_exact(images, LABELS, [(ExactKernel([layer]), ())]) if exact else fitted(images)
    before = len(pickle.dumps(model))
    expected = model.scores(images[:3])
    assert len(pickle.dumps(model)) == before
    assert np.array_equal(copied(model).scores(images[:3]), expected)


def test_all_goes_with_the_last_model(images):
    gc.collect()  # what other tests have left
    one, two = fitted(images), fitted(images, classifier=Ridge(1e-3))
    one.predict(images[:1]), two.predict(images[:1])
    backend = weakref.ref(shared_backend("numpy"))
    buffer = weakref.ref(backend()._threads.buffer)
    packed = weakref.ref(backend()._packed)
    assert one._backends.of("numpy") is two._backends.of("numpy")
    assert len(packed()) == 4
    del one
    gc.collect()
    assert len(packed()) == 2
    del two
    gc.collect()
    assert backend() is packed() is buffer() is None


def test_workspace_that_has_grown_is_not_kept_twice():
    buffer = ThreadBuffer()
    small = weakref.ref(buffer("map", (10,)).base)
    kept = buffer.kept("a plan", lambda: buffer("map", (4,)))
    assert buffer.kept("a plan", lambda: None) is kept
    del kept
    buffer("map", (1000,))
    assert small() is None


def test_eight_threads_get_the_results_of_one(images, packings):
    model = fitted(images)
    expected = [model.scores(image[None]) for image in images]
    shared = Model(model.encoders, pickle.loads(pickle.dumps(model.classifier)))
    del model
    gc.collect()
    packings.clear()
    barrier, wrong, done = threading.Barrier(8), [], []

    def work(number):
        barrier.wait(timeout=30)
        for turn in range(60):
            image = (number * 7 + turn) % len(images)
            if not np.array_equal(shared.scores(images[image : image + 1]), expected[image]):
                wrong.append(image)
        done.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(done) == 8
    assert wrong == []
    assert len(packings) == 2  # a layer each, whoever came first


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_others_predict_predicts(images):
    model = fitted(images)
    model.predict(images[:1])
    going = True

    def busy():
        while going:
            fresh = Model(model.encoders)
            fresh.features(images[:4])

    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    fork = multiprocessing.get_context("fork")
    codes = []
    for _ in range(5):
        child = fork.Process(target=model.predict, args=(images[:2],))
        child.start()
        child.join(timeout=20)
        codes.append(child.exitcode)
        child.kill()
    going = False
    for thread in threads:
        thread.join()
    assert codes == [0] * 5  # None: it hangs
