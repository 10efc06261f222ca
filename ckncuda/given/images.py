"""Arrays of images: which axis is what, which numbers are pixels."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.types import Shape

Layout = Literal["NHWC", "NCHW"]

LARGEST = 1e16
"""The largest pixel: float32 holds the sum of the squares of millions of such."""

LARGEST_AS_FLOAT32 = float(np.float32(LARGEST))  # which is a little more

MOST_IMAGES = 1 << 24
MOST_BYTES = 256 << 20
"""Bounds on how many images are read, and on the size of one: more is a mistake, or a trap for memory."""

FEW = 4  # channels: grey, two of anything, colour, colour and transparency

Origin = Literal["Python", "file"]
PYTHON: Origin = "Python"
FILE: Origin = "file"


class Stack(NamedTuple):
    """The shape of images, channels last, and whether their channels come first where they are stored."""

    shape: tuple[int, int, int, int]
    channels_first: bool = False

    @property
    def stored(self) -> tuple[int, int, int, int]:
        """The four axes as they are stored."""
        n, height, width, channels = self.shape
        return (n, channels, height, width) if self.channels_first else self.shape

    def last(self, block: Any) -> Any:
        """Return a block of stored images with its channels last: a view."""
        return block.transpose(0, 2, 3, 1) if self.channels_first else block


def stack_of(
    axes: Sequence[int],
    where: str,
    *,
    origin: Origin = FILE,
    image_shape: Shape | None = None,
    layout: Layout | None = None,
) -> Stack:
    """Tell what the axes of an array of images are: [n, h, w, c] or [n, h, w], unless something else is said.

    Parameters
    ----------
    axes : sequence of int
        The array's shape.
    where : str
        What messages begin with.
    origin : {"Python", "file"}
        Where the array comes from: the way out differs.
    image_shape : (height, width, channels), optional
        Decides how an array is read that has it one way or the other, a single image [h, w, c] too.
    layout : {"NHWC", "NCHW"}, optional
        Decides as well.

    Raises
    ------
    InvalidData
        It is no stack of images, looks like a single one, or as if its channels came first.

    Examples
    --------
    >>> stack_of((10, 32, 32, 3), "x.npy").shape, stack_of((10, 28, 28), "x.npy").shape
    ((10, 32, 32, 3), (10, 28, 28, 1))
    >>> stack_of((10, 13, 64, 64), "x.npy", layout="NCHW")
    Stack(shape=(10, 64, 64, 13), channels_first=True)
    """
    axes = tuple(map(int, axes))
    given = f"{where}: array of shape {axes}"
    if layout is not None:
        return _stack_in(axes, layout, given)
    if image_shape is not None and (stack := _stack_with(axes, image_shape)) is not None:
        return stack
    if len(axes) == 4:
        if looks_channels_first(*axes[1:]):
            raise InvalidData(_channels_first(axes, given, origin))
        return Stack((axes[0], axes[1], axes[2], axes[3]))
    if len(axes) == 3:
        if looks_like_one_image(*axes):
            raise InvalidData(_one_image(axes, given, origin))
        return Stack((*axes, 1))
    advice = "use images.reshape(n, height, width, channels)"
    if len(axes) == 2:
        advice += ", or images[None] if this is one grey image"
    raise InvalidData(f"{given} is no stack of images; expected [n, h, w, c] or [n, h, w]: {advice}")


def looks_channels_first(a: int, b: int, c: int) -> bool:
    """Tell whether images [a, b, c] look as if a counted channels, not c.

    They do where b x c is nearer to a square than a x b, and c is more than the few channels of pictures; or
    where b and c are alike.  Of what looks as much like the one as the other the last axis is channels.

    Examples
    --------
    >>> looks_channels_first(13, 64, 64), looks_channels_first(8, 48, 64), looks_channels_first(64, 32, 32)
    (True, True, True)
    >>> looks_channels_first(64, 64, 200), looks_channels_first(3, 40, 1), looks_channels_first(4, 4, 512)
    (False, False, False)
    """
    if c <= FEW:
        return a < b == c
    return max(b, c) * min(a, b) < max(a, b) * min(b, c)


def looks_like_one_image(n: int, height: int, width: int) -> bool:
    """Tell whether axes [n, height, width] look like one image [h, w, c].

    Examples
    --------
    >>> looks_like_one_image(480, 640, 3), looks_like_one_image(2000, 128, 9)
    (True, False)
    >>> looks_like_one_image(1000, 28, 28), looks_like_one_image(500, 32, 8)
    (False, False)
    """
    if height < 8:
        return False
    if width in (1, 3, 4) or (n == height and height >= 2 * width):
        return True
    return height >= 8 * width and max(n, height) <= 4 * min(n, height)


def _stack_in(axes: tuple[int, ...], layout: Layout, given: str) -> Stack:
    if layout not in ("NHWC", "NCHW"):
        raise InvalidSpec(
            f"layout is {layout!r}; expected 'NHWC', which is channels last, or 'NCHW', channels first"
        )
    if len(axes) != 4:
        raise InvalidData(f"{given}; expected four axes, as layout={layout!r} names: use images.reshape")
    n, a, b, c = axes
    return Stack((n, b, c, a), True) if layout == "NCHW" else Stack((n, a, b, c))


def _stack_with(axes: tuple[int, ...], image_shape: Shape) -> Stack | None:
    """Return the stack of images of this shape that an array is, if it is one."""
    height, width, channels = image_shape
    if len(axes) == 4 and axes[1:] == image_shape:
        return Stack((axes[0], *image_shape))
    if len(axes) == 4 and axes[1:] == (channels, height, width):
        return Stack((axes[0], *image_shape), True)
    if len(axes) == 3 and channels == 1 and axes[1:] == (height, width):
        return Stack((axes[0], *image_shape))
    return Stack((1, *image_shape)) if axes == image_shape else None


def _channels_first(axes: tuple[int, ...], given: str, origin: str) -> str:
    _, a, b, c = axes
    advice = (
        f"ckncuda.as_images(images, layout='NCHW') if they are {b} x {c} with {a} channels, layout='NHWC'"
    )
    if origin == FILE:
        advice = (
            f"--image-shape {b}x{c}x{a} (image_shape in Python) if they are so, --image-shape {a}x{b}x{c}"
        )
    return (
        f"{given} looks channels-first [n, c, h, w]; expected channels last [n, h, w, c]:"
        f" use images.transpose(0, 2, 3, 1), or give {advice} if they are {a} x {b} with {c} channels"
    )


def _one_image(axes: tuple[int, ...], given: str, origin: str) -> str:
    n, height, width = axes
    other = "use images[..., None]"
    if origin == FILE:
        other = f"give --image-shape {height}x{width}x1 (image_shape in Python)"
    return (
        f"{given} looks like one image [h, w, c]; expected a stack [n, h, w, c] or [n, h, w]:"
        f" use images[None] for a stack of one; if they are {n} grey images of {height} x {width}, {other}"
    )


def pixel_type(dtype: np.dtype[Any], where: str) -> np.dtype[Any]:
    """Return what images of this type are delivered as: uint8 for whole numbers, else the type itself.

    Raises
    ------
    InvalidData
        These are no real numbers.
    """
    if dtype.kind not in "uibf":
        advice = {"c": "give images.real, or numpy.abs(images)", "O": "give numpy.stack(list(images))"}
        raise InvalidData(
            f"{where}: pixels are of type {dtype}; expected integers in 0..255 or floating-point"
            f" numbers: {advice.get(dtype.kind, 'give images.astype(numpy.float32), if they are numbers')}"
        )
    return dtype if dtype.kind == "f" else np.dtype(np.uint8)


def first_bad(block: NDArray[Any]) -> tuple[int, ...] | None:
    """Return where the first number stands that is no pixel, if there is one; see `expected_pixels`."""
    if block.dtype in (np.uint8, np.bool_) or not block.size:
        return None
    lowest, highest = (-LARGEST_AS_FLOAT32, LARGEST_AS_FLOAT32) if block.dtype.kind == "f" else (0, 255)
    if lowest <= float(block.min()) and float(block.max()) <= highest:  # not so with NaN among them
        return None
    with np.errstate(all="ignore"):
        numbers = block.astype(np.float64)
    good = (numbers >= lowest) & (numbers <= highest)
    return tuple(int(i) for i in np.argwhere(~good)[0])


def expected_pixels(value: Any) -> str:
    """Say what was expected in place of this number, and what to do."""
    if np.asarray(value).dtype.kind != "f":
        return (
            f"integer pixels ({np.asarray(value).dtype}) must lie in 0..255: scale the images and give them"
            " as float32 or uint8"
        )
    if np.isfinite(value):
        advice = "scale the images, as by images / numpy.abs(images).max()"
        return f"expected finite numbers up to {LARGEST:g}: {advice}"
    return "expected finite numbers: remove or repair this image"


def host_array(images: Any, where: str) -> NDArray[Any]:
    """Return what was given if it is an array of NumPy; raise `InvalidData` that says how to make it one.

    Masked arrays are taken where nothing is masked.
    """
    if isinstance(images, np.ma.MaskedArray):
        if np.ma.is_masked(images):
            raise InvalidData(
                f"{where}: {int(np.ma.getmaskarray(images).sum())} pixels are masked; expected a number for"
                " each: give images.filled(0), or whatever stands for what is missing"
            )
        return np.ma.getdata(images)
    if isinstance(images, np.ndarray):
        return images
    raise InvalidData(
        f"{where}: given is {_described(images)}; expected an array [n, height, width, channels]:"
        f" {_way_to(images)}"
    )


def _described(images: Any) -> str:
    kind = type(images)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(images, list | tuple):
        return f"a {name} of {len(images)}"
    return f"an object of type {name}"


def _way_to(images: Any) -> str:
    """Name a call that makes an array of what was given."""
    if isinstance(images, str | bytes) or hasattr(images, "__fspath__"):
        return "open a file with ckncuda.data.open_images"
    if isinstance(images, type):
        return "give an array, not a class"
    if isinstance(images, list | tuple):
        return "give numpy.stack(images) or, of batches, numpy.concatenate(images)"
    if hasattr(images, "to_numpy"):
        return "give images.to_numpy().reshape(n, height, width, channels)"
    if hasattr(images, "__array__"):
        return "give numpy.asarray(images)"
    if hasattr(images, "__iter__"):
        return "give numpy.stack(list(images)) or, of batches, numpy.concatenate(list(images))"
    return "give numpy.asarray of its numbers"
