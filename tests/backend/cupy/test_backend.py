"""Arrays that are on the device already, and what is learned there."""

import dataclasses

import numpy as np
import pytest
from factories import make_layer, network_and_images

from ckncuda import CKN, Exponential, load
from ckncuda.errors import InvalidData


def test_bytes_are_scaled_on_the_device(device, rng, check_encode):
    network, images = network_and_images(rng)
    images = np.clip(100 + 50 * images, 0, 255).astype(np.uint8)
    check_encode(device, images, network.layers, found=network.transform(images, backend=device))


def test_images_on_the_device_stay_there(device, rng, check_encode):
    network, images = network_and_images(rng)
    on_device = device.asarray(images)
    features = network.transform(on_device, backend=device)
    assert type(features) is type(on_device)
    check_encode(device, images, network.layers, found=features)


def test_images_on_the_device_are_checked_as_others_are(device, rng):
    network, images = network_and_images(rng)
    on_device = device.asarray(images)
    for backend in ("numpy", "reference"):
        with pytest.raises(InvalidData, match="the images are on a GPU, .* use the backend cupy"):
            network.transform(on_device, backend=backend)
    assert network.transform(on_device[:0], backend=device).shape == (0, 3, 3, 8)
    with pytest.raises(InvalidData, match="images are of type int32.*; give uint8"):
        network.transform(on_device.astype(np.int32), backend=device)
    on_device[3, 0, 0, 0] = np.nan
    with pytest.raises(InvalidData, match="images 0 to 22 hold NaN or infinite values"):
        network.transform(on_device, backend=device)


def test_bytes_on_the_device_need_not_lie_in_order(device, rng, check_encode):
    network, _ = network_and_images(rng)
    images = rng.integers(0, 256, size=(5, 3, 12, 10), dtype=np.uint8)
    planar = device._on_device(images).transpose(0, 2, 3, 1)
    for maps in (planar, planar[::-1][::-1]):
        found = device.to_host(device.encode(maps, network.layers))
        check_encode(device, images.transpose(0, 2, 3, 1), network.layers, found=found)


def test_torch_tensors_are_taken_through_dlpack(device):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU")
    rng = np.random.default_rng(0)
    network, images = network_and_images(rng)
    tensor = torch.from_numpy(images).cuda()
    features = network.transform(tensor, backend=device)
    assert features.is_cuda
    expected = network.transform(images, backend="numpy")
    np.testing.assert_allclose(features.cpu().numpy(), expected, rtol=1e-3, atol=1e-4)


def test_a_network_learned_on_the_device_serves_on_the_cpu_and_the_reverse(
    device, rng, check_encode, tmp_path
):
    images = rng.normal(size=(30, 12, 12, 3)).astype(np.float32)
    specs = [make_layer(3, rng).spec, make_layer(12, rng).spec]
    for learned_on, used_on in ((device, "numpy"), ("numpy", device)):
        network = CKN(specs).fit(images, patches=2000, backend=learned_on)
        network.save(tmp_path / "net.ckn")
        found = load(tmp_path / "net.ckn").network.transform(images, backend=used_on)
        check_encode(device, images, network.layers, found=found)


def test_both_backends_learn_the_same_anchors(device, rng):
    """The same patches are drawn; assignments differ only where two anchors are equally near."""
    images = rng.normal(size=(40, 12, 12, 3)).astype(np.float32)
    network = CKN([make_layer(3, rng).spec])
    on_device, on_host = (
        network.fit(images, patches=3000, backend=backend).layers[0].anchors for backend in (device, "numpy")
    )
    assert isinstance(on_device, np.ndarray)
    assert np.abs(on_device - on_host).max() < 1e-3


def test_learning_on_the_device_is_reproducible(device, rng):
    images = rng.normal(size=(20, 12, 12, 3)).astype(np.float32)
    first, second = (
        CKN([make_layer(3, rng).spec]).fit(images, patches=2000, backend=device).layers[0].anchors
        for _ in range(2)
    )
    assert first.tobytes() == second.tobytes()


def test_quantiles_of_distances_are_taken_on_the_device(device, rng):
    images = rng.normal(size=(20, 12, 12, 3)).astype(np.float32)
    spec = dataclasses.replace(make_layer(3, rng).spec, kernel=Exponential(quantile=0.1))
    sigmas = [
        CKN([spec]).fit(images, patches=2000, backend=backend).layers[0].spec.kernel.sigma
        for backend in (device, "numpy")
    ]
    assert sigmas[0] == pytest.approx(sigmas[1], rel=1e-5)


def test_sums_of_many_patches_lose_nothing(device, rng):
    """In float32 they would: each patch is small beside the sum."""
    patches = (0.1 + 0.01 * rng.normal(size=(50_000, 1))).astype(np.float32)
    sums = device.sum_by_anchor(device.asarray(patches), device.asarray(np.zeros(50_000)), 1)
    np.testing.assert_allclose(device.to_host(sums)[0, 0], patches.sum(dtype=np.float64), rtol=2e-7)
