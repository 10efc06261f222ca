"""The memory that a fit and a prediction take, counted before the work.

What must be held at the same time is counted stage by stage.  Where the memory was given, more than that is
refused, with what is needed; else a report is told if the machine has less.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ckncuda.backend import Backend
from ckncuda.backend.operations import promised_memory
from ckncuda.classifier import Classifier, GramRidge, Ridge, TrainableClassifier
from ckncuda.errors import OutOfMemory
from ckncuda.images.sources import Images, size_of
from ckncuda.model.encoders import ImageEncoder, ImageEncoderSpec
from ckncuda.progress import Report
from ckncuda.types import Shape

MIB = 1 << 20
SLACK = 1.1  # of what is counted: memory that is given back is not all used again
ATTEMPTS = 64  # to find an amount of memory that suffices, since blocks and samples grow with it

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_fit(
    specs: Sequence[ImageEncoderSpec],
    learner: TrainableClassifier | GramRidge | None,
    images: Images,
    patches: int,
    backend: Backend,
    report: Report,
) -> None:
    """Raise `OutOfMemory` if a fit would take more than was given; else say if it may take all there is.

    Parameters
    ----------
    specs : sequence of ImageEncoderSpec
        With their preprocessing resolved.
    learner : TrainableClassifier or GramRidge, or None
    images, patches, backend, report
        See `ckncuda.model.model.Model.fit`.
    """
    if backend.name != "numpy":
        return
    stages = functools.partial(_fit_stages, specs, learner, images, patches, backend)
    mends = "fewer filters, fewer images"
    if learner is not None and not isinstance(learner, Ridge | GramRidge):
        mends += ", or --classifier ridge"
    promised = promised_memory(backend)
    if promised is not None:
        _check(stages, promised, f"give --memory {{}}, {mends}")
        return
    needed, available = max(stages(backend.memory_budget).values()), available_memory()
    if available is not None and needed > available:
        report.tell(
            f"Memory: this fit may take {_shown(needed)} or more, of which {_shown(available)} are free: "
            f"{mends} would take less"
        )


def check_prediction(
    encoders: Sequence[ImageEncoder], classifier: Classifier | None, shape: Shape, backend: Backend
) -> None:
    """Raise `OutOfMemory` if a model, and one block of images of this shape, take more than was given."""
    promised = promised_memory(backend)
    if promised is None:
        return
    held = sum(encoder.bytes_held() for encoder in encoders)
    held += 0 if classifier is None else classifier.bytes_held()

    def stages(memory: int) -> dict[str, int]:
        blocks = max(encoder.bytes_at_once(shape, backend, memory // 8) for encoder in encoders)
        return {"the model and a block of images": held + len(encoders) * blocks}

    _check(stages, promised, "give --memory {}, or a smaller model")


def available_memory() -> int | None:
    """Return the bytes that this process may still take, as far as Linux says; None: nobody says."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        pass  # another system
    for name in _CGROUPS:
        try:
            found.append(int(Path(name).read_text()))
        except (OSError, ValueError):
            continue  # not that version, or no limit, which is the word max
    return min(found, default=None)


def _check(stages: Callable[[int], Mapping[str, int]], promised: int, advice: str) -> None:
    found = stages(promised)
    largest = max(found, key=lambda stage: found[stage])
    if found[largest] <= promised:
        return
    enough = promised
    for _ in range(ATTEMPTS):
        needed = max(stages(enough).values())
        if needed <= enough:
            break
        enough = -(-needed // (64 * MIB)) * 64 * MIB
    raise OutOfMemory(
        f"--memory is {_shown(promised)}; {largest} would take {_shown(found[largest])}: "
        + advice.format(f"{enough // MIB}MiB")
    )


def _fit_stages(
    specs: Sequence[ImageEncoderSpec],
    learner: TrainableClassifier | GramRidge | None,
    images: Images,
    patches: int,
    backend: Backend,
    memory: int,
) -> dict[str, int]:
    """Return the bytes that are held in each stage, by what it does."""
    n, *size = images.shape
    shape: Shape = (size[0], size[1], size[2])
    share = memory // 8
    # As they were read and, of networks, preprocessed in single precision: both where an eighth suffices.
    as_read, prepared = size_of(images), 4 * size_of(images) // images.dtype.itemsize
    held = sum(each for each in (as_read, prepared) if each <= share)
    stages: dict[str, int] = {}
    learned = width = blocks = 0
    for number, spec in enumerate(specs, 1):
        of = f" of encoder {number}" if len(specs) > 1 else ""
        for stage, needed in spec.bytes_to_fit(n, shape, patches, backend, memory).items():
            stages[stage + of] = held + learned + needed
        learned += spec.bytes_learned(n, shape)
        width += spec.width(n, shape)
        blocks = max(blocks, spec.bytes_at_once(n, shape, backend, share))
    if learner is not None:
        features = 4 * n * width
        stages["features"] = held + learned + features + len(specs) * blocks
        needed = learner.bytes_to_fit(n, width, len(specs))
        stages[f"the classifier, with features of {n:,} images"] = held + learned + features + needed
    return {stage: int(SLACK * needed) for stage, needed in stages.items()}


def _shown(amount: int) -> str:
    return f"{-(-amount // MIB):,} MiB"
