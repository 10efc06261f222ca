"""PyTorch's side of gpu_measure.py: the same network and the same steps of k-means, in their fastest forms.

A network's form is a batch size, a way of pooling, and whether it is compiled.  In every form maps are
channels-last, nothing is recorded for derivatives, a layer's norms come from a sum over channels and a
box filter, n(u) κ(t) = exp(α t + log n(u) − α) takes two passes over the map in place (or what the
compiler makes of it), and W is a convolution of 1x1.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray

from ckncuda import Layer

POOLINGS = {
    "separable": "two depthwise convolutions to pool",
    "square": "one depthwise convolution to pool",
    "matrix": "products with two matrices to pool",
}
MODES = ("default", "max-autotune-no-cudagraphs")  # of torch.compile
CHUNKS = (1 << 13, 1 << 15, 1 << 17)  # patches at a time in k-means
NORM_FLOOR = 1e-5


def set_precision(precision: str) -> None:
    """Allow TF32 or not, search for the best convolutions, and forget what was compiled before."""
    # The newer switches (fp32_precision) and torch.compile do not go together in PyTorch 2.9 to 2.11.
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    torch.compiler.reset()


def type_of(precision: str) -> torch.dtype:
    """The type that maps, anchors and patches have at a precision."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


class TorchLayer:
    """One layer with its weights on the device, for inputs [n, c, height, width] of one height and width."""

    def __init__(self, layer: Layer, shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> None:
        def weights(array: NDArray[Any]) -> torch.Tensor:
            tensor = torch.from_numpy(np.array(array, np.float32)).to(device, dtype)
            return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

        spec, self.dtype = layer.spec, dtype
        self.filters, self.s, self.patch = spec.filters, spec.subsampling, spec.patch
        self.alpha = spec.kernel.sigma**-2
        self.anchors = weights(layer.anchors.transpose(0, 3, 1, 2))
        self.projection = weights(layer.projection[:, :, None, None])
        taps = np.exp(-(np.arange(-self.s, self.s + 1) ** 2) / self.s**2)
        taps /= taps.sum()
        repeated = np.ones((self.filters, 1, 1, 1))
        self.square = weights(repeated * np.outer(taps, taps))
        self.vertical = weights(repeated * taps[:, None])
        self.horizontal = weights(repeated * taps)
        self.rows, self.columns = map(weights, spec.pooling_matrices(shape))

    def norms(self, x: torch.Tensor) -> torch.Tensor:
        """n(u) [n, 1, h, w], in float32."""
        squares = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32).square()
        margin = self.patch // 2
        return functional.avg_pool2d(squares, self.patch, 1, margin, divisor_override=1).sqrt()

    def unpooled(self, x: torch.Tensor) -> torch.Tensor:
        """n(u) κ(t_j(u)) [n, filters, h, w]; a patch of zeros has the exponent −∞."""
        norms = self.norms(x)
        scale = self.alpha / norms.clamp(min=NORM_FLOOR)
        shift = norms.log() - self.alpha
        y = functional.conv2d(x, self.anchors, padding=self.patch // 2)
        if torch.compiler.is_compiling():
            return torch.exp(y.float() * scale + shift).to(self.dtype)
        return torch.addcmul(shift, y, scale, out=y).exp_()

    def pooled(self, y: torch.Tensor, pooling: str) -> torch.Tensor:
        """A y [n, filters, h', w']."""
        s = self.s
        if pooling == "square":
            return functional.conv2d(y, self.square, stride=s, padding=s, groups=self.filters)
        if pooling == "separable":
            y = functional.conv2d(y, self.vertical, stride=(s, 1), padding=(s, 0), groups=self.filters)
            return functional.conv2d(y, self.horizontal, stride=(1, s), padding=(0, s), groups=self.filters)
        n, p, h, w = y.shape
        last = y.permute(0, 2, 3, 1).reshape(n, h, w * p)
        last = torch.bmm(self.rows.expand(n, -1, -1), last).reshape(-1, w, p)
        last = torch.bmm(self.columns.expand(len(last), -1, -1), last)
        return last.reshape(n, len(self.rows), len(self.columns), p).permute(0, 3, 1, 2)

    def encode(self, x: torch.Tensor, pooling: str) -> torch.Tensor:
        """W A y [n, filters, h', w']."""
        return functional.conv2d(self.pooled(self.unpooled(x), pooling), self.projection)


@dataclass
class Form:
    """A way to run a network, and the seconds that an image took when it was tried."""

    batch: int
    pooling: str
    how: str
    encode: Callable[[torch.Tensor], torch.Tensor]
    eager: Callable[[torch.Tensor], torch.Tensor]
    seconds: float = float("inf")

    def __str__(self) -> str:
        return f"{self.how}, {self.batch:,} images at a time, {POOLINGS[self.pooling]}"

    def run(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Encode images batch by batch; a last batch of another size does not wait for the compiler."""
        with torch.inference_mode():
            return [
                (self.encode if len(batch) == self.batch else self.eager)(batch)
                for batch in images.split(self.batch)
            ]

    def first_features(self, images: torch.Tensor, n: int) -> NDArray[np.float32]:
        """Features [n, h', w', filters] of the first images, which one batch holds."""
        features = self.run(images[: max(n, self.batch)])[0][:n]
        return features.permute(0, 2, 3, 1).float().cpu().numpy()


class TorchNetwork:
    """A network at one precision, and the forms in which it was tried."""

    def __init__(self, layers: Sequence[Layer], shape: tuple[int, int, int], precision: str, device: str):
        set_precision(precision)
        self.dtype, self.forms, self.remarks = type_of(precision), list[Form](), list[str]()
        self.layers = []
        for layer in layers:
            self.layers.append(TorchLayer(layer, shape, self.dtype, device))
            shape = layer.spec.output_shape(shape)

    def encode(self, x: torch.Tensor, pooling: str) -> torch.Tensor:
        """Features [n, filters, h', w'] of images [n, c, h, w], float32 and channels-last."""
        x = x.to(self.dtype)
        for layer in self.layers:
            x = layer.encode(x, pooling)
        return x

    def best(self, most: int) -> Form:
        """The fastest form of at most so many images at a time."""
        forms = [form for form in self.forms if form.batch <= most]
        if not forms:
            raise RuntimeError(f"no form worked: {'; '.join(self.remarks)}")
        return min(forms, key=lambda form: form.seconds)

    def try_form(self, form: Form, images: torch.Tensor, seconds: Callable[[Any], float]) -> None:
        """Take a form's time; one that fails is reported and left away."""
        try:
            form.run(images[: form.batch])
            form.seconds = min(seconds(lambda: form.run(images)) for _ in range(2)) / len(images)
            self.forms.append(form)
        except Exception as error:
            text = str(error).strip().partition("\n")[0][:160]
            self.remarks.append(f"{form} failed: {type(error).__name__}: {text}")
            if images.is_cuda:
                torch.cuda.empty_cache()

    def try_eager(
        self, images: torch.Tensor, batches: Sequence[int], seconds: Callable[[Any], float]
    ) -> None:
        """The best way of pooling at the middle batch size, then the other batch sizes with it."""

        def form(batch: int, pooling: str) -> Form:
            def eager(x: torch.Tensor) -> torch.Tensor:
                return self.encode(x, pooling)

            return Form(batch, pooling, "eager", eager, eager)

        middle = batches[len(batches) // 2]
        for pooling in POOLINGS:
            self.try_form(form(middle, pooling), images[: 2 * middle], seconds)
        best = self.best(middle)
        for batch in batches:
            if batch != middle:
                self.try_form(form(batch, best.pooling), images, seconds)

    def try_compiled(
        self, images: torch.Tensor, mode: str, batch: int, seconds: Callable[[Any], float], rehearsal: bool
    ) -> float:
        """The best eager form up to a batch size, compiled; seconds that the compiler took."""
        best = min(
            (f for f in self.forms if f.how == "eager" and f.batch <= batch), key=lambda form: form.seconds
        )
        options: dict[str, Any] = {"backend": "eager"} if rehearsal else {"mode": mode}
        compiled = torch.compile(best.eager, fullgraph=True, dynamic=False, **options)
        start = time.perf_counter()
        form = Form(best.batch, best.pooling, f"compiled ({mode})", compiled, best.eager)
        self.try_form(form, images, seconds)
        return time.perf_counter() - start


def device_images(images: NDArray[np.float32], device: str) -> torch.Tensor:
    """Images [n, h, w, c] on the device as [n, c, h, w], channels-last as they are."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2)


def matrix_run(size: int, precision: str, device: str) -> Callable[[], Any]:
    """A product of two random matrices at a precision."""
    set_precision(precision)
    a, b, out = (torch.randn(size, size, device=device, dtype=type_of(precision)) for _ in range(3))
    return lambda: torch.matmul(a, b, out=out)


def device_rows(rows: NDArray[np.float32], precision: str, device: str) -> torch.Tensor:
    """Patches or anchors [n, d] on the device, of the precision's type."""
    return torch.from_numpy(rows).to(device).to(type_of(precision))


def device_integers(numbers: NDArray[np.int64], device: str) -> torch.Tensor:
    """Numbers of anchors on the device."""
    return torch.from_numpy(numbers).to(device)


def best_chunk(patches: torch.Tensor, anchors: torch.Tensor, seconds: Callable[[Any], float]) -> int:
    """How many patches at a time are fastest."""

    def taken(chunk: int) -> float:
        run = nearest_run(patches, anchors, chunk)
        run()
        return seconds(run)

    return min(CHUNKS, key=taken)


def nearest_run(patches: torch.Tensor, anchors: torch.Tensor, chunk: int) -> Callable[[], Any]:
    """The nearest anchor of each patch and its cosine, so many patches at a time."""

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            found = [torch.max(part @ anchors.T, dim=1) for part in patches.split(chunk)]
            return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found])

    return run


def sums_run(patches: torch.Tensor, nearest: torch.Tensor, anchors: int) -> Callable[[], Any]:
    """Sums of the patches by their nearest anchor."""

    def run() -> torch.Tensor:
        with torch.inference_mode():
            sums = torch.zeros(anchors, patches.shape[1], device=patches.device, dtype=patches.dtype)
            return sums.index_add_(0, nearest, patches)

    return run


def cuda_seconds(run: Callable[[], Any]) -> float:
    """Seconds of a run on the device."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
