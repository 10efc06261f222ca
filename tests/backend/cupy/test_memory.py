"""Blocks, streams and halves: memory is never used before it is free, nor more of it than there is."""

import gpu
import numpy as np
import pytest
from factories import TWO_LAYERS, make_layer, network_and_images

from ckncuda import CKN
from ckncuda.backend.cupy import CupyBackend
from ckncuda.errors import OutOfMemory


@pytest.mark.parametrize("block", [1, 4, 5, 100])
def test_blocks_are_copied_while_others_are_computed(device, monkeypatch, block, rng, check_encode):
    """Blocks of unequal size, more than there are slots: no memory may be used before it is free."""
    network, images = network_and_images(rng)
    monkeypatch.setattr(device, "images_per_block", lambda layers, shape: block)
    check_encode(device, images, network.layers, found=network.transform(images, backend=device))
    parts = [maps for _, maps in network.transform_blocks(images, backend=device)]
    check_encode(device, images, network.layers, found=np.concatenate(parts))


def test_an_interrupted_stream_leaves_nothing_under_way(device, monkeypatch, rng):
    network, images = network_and_images(rng)
    monkeypatch.setattr(device, "images_per_block", lambda layers, shape: 5)

    class Broken:
        shape, dtype = images.shape, images.dtype

        def read(self, start, stop):
            if start >= 10:
                raise KeyboardInterrupt
            return images[start:stop]

    with pytest.raises(KeyboardInterrupt):
        network.transform(Broken(), backend=device)
    assert network.transform(images, backend=device).shape == (23, 3, 3, 8)


def test_what_is_under_way_is_waited_for_after_an_exception(device, monkeypatch, rng):
    """The device must not write to host memory that has been given back."""
    from ckncuda.backend.cupy import memory as cuda_blocks

    network, images = network_and_images(rng)
    events = []
    for name in ("begin", "end"):
        whole = getattr(cuda_blocks._Slot, name)

        def noted(slot, *arguments, name=name, whole=whole):
            events.append((name, slot))
            return whole(slot, *arguments)

        monkeypatch.setattr(cuda_blocks._Slot, name, noted)

    def blocks():
        yield images[:5]
        yield images[5:10]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(device.map_blocks(lambda block: device.encode(block, network.layers), blocks()))
    for slot in {slot for _, slot in events}:
        assert [name for name, other in events if other is slot][-1] == "end"


def test_blocks_that_are_still_on_their_way_to_the_device_are_waited_for(device, relative_error, rng):
    """What computes a block, or brings it, is queued on another stream than what encodes it."""
    network = CKN(TWO_LAYERS).fit(rng.normal(size=(20, 9, 9, 1)), patches=300, backend="numpy")
    images = rng.normal(size=(3, 5, 9, 9, 1)).astype(np.float32)
    expected = network.transform(images.reshape(-1, 9, 9, 1), backend="reference")

    def arriving():
        return (device._cupy.asarray(block) for block in images)

    def encode(block):
        return device.encode(block, network.layers)

    parts = list(device.map_blocks(encode, arriving()))
    assert relative_error(np.concatenate(parts), expected) < 1e-4
    out = device.empty(expected.shape)
    parts = list(device.map_blocks(encode, arriving(), out))
    assert all(type(part) is type(out) for part in parts)
    assert relative_error(out.get(), expected) < 1e-4
    assert np.array_equal(np.concatenate([part.get() for part in parts]), out.get())


def out_of_memory_above(device, monkeypatch, images):
    """Let a layer fail for more images than this, as a device does whose memory is full."""
    import cupy

    whole = device.encoder.encode

    def limited(maps, layer):
        if len(maps) > images:
            raise cupy.cuda.memory.OutOfMemoryError(1, 2, 3)
        return whole(maps, layer)

    monkeypatch.setattr(device.encoder, "encode", limited)


def test_out_of_memory_halves_the_block_and_goes_on(device, monkeypatch, rng, check_encode):
    network, images = network_and_images(rng)
    out_of_memory_above(device, monkeypatch, 3)
    check_encode(device, images, network.layers)
    assert device.images_per_block(network.layers, (12, 10, 3)) <= 3


def test_a_block_is_halved_where_it_is_encoded_or_where_it_is_walked(device, monkeypatch, rng, check_encode):
    """Whichever meets the lack of memory first; what has been learned holds for the blocks that follow."""
    import cupy

    network, images = network_and_images(rng)

    def limited(block):
        if len(block) > 5:
            raise cupy.cuda.memory.OutOfMemoryError(1, 2, 3)
        return device.encode(block, network.layers)

    parts = list(device.map_blocks(limited, [images[:12], images[12:]]))
    assert max(map(len, parts)) <= 5
    check_encode(device, images, network.layers, found=np.concatenate(parts))
    out_of_memory_above(device, monkeypatch, 3)
    whole = list(device.map_blocks(lambda block: device.encode(block, network.layers), [images]))
    assert [len(part) for part in whole] == [23]
    check_encode(device, images, network.layers, found=whole[0])
    out_of_memory_above(device, monkeypatch, 0)
    with pytest.raises(OutOfMemory, match="one image of 12x10x3 does not fit .*: use smaller images, fewer"):
        list(device.map_blocks(lambda block: device.encode(block, network.layers), [images]))


def test_an_image_that_does_not_fit_is_said(device, monkeypatch, rng):
    network, images = network_and_images(rng)
    out_of_memory_above(device, monkeypatch, 0)
    with pytest.raises(OutOfMemory, match="one image of 12x10x3 does not fit the GPU's memory"):
        device.encode(device.asarray(images), network.layers)


@pytest.mark.parametrize("free", [300, 450, 700, 1500])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_device_that_is_nearly_full_takes_smaller_blocks(
    device, monkeypatch, free, dtype, rng, check_encode
):
    """Real allocations fail here, wherever they are made; in KiB, for 23 images of 3 KiB and maps of 48."""
    network = CKN.from_layers([make_layer(3, rng, filters=48, subsampling=1)])
    images = (255 * rng.random(size=(23, 16, 16, 3))).astype(dtype)
    device.encode(device.asarray(images[:1]), network.layers)  # the anchors are there
    monkeypatch.setattr(device, "images_per_block", lambda layers, shape: 23)
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    taken = device_memory() - cupy.cuda.Device().mem_info[0]
    monkeypatch.setenv("CKNCUDA_CPU_DEVICE_MEMORY", str(taken + (free << 10)))
    check_encode(device, images, network.layers, found=network.transform(images, backend=device))


def device_memory():
    import cupy

    if "on a CPU" not in gpu.device_name():
        pytest.skip("the memory of a real GPU is not set by a variable")
    return cupy.cuda.Device().mem_info[1]


def test_blocks_are_smaller_where_there_is_less_memory(device):
    rng = np.random.default_rng(0)
    layers = [make_layer(3, rng, filters=64)]
    small, large = (CupyBackend(memory) for memory in (64 << 20, 1 << 30))
    assert 1 <= small.images_per_block(layers, (224, 224, 3)) < large.images_per_block(layers, (224, 224, 3))
