"""Rows per model call: batch sizes, blocks of points, and smaller batches when the device is out of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from xplain.core.errors import DeviceError, is_out_of_memory
from xplain.models import Classifier

CPU_PIXELS_PER_CALL = 13 * 224 * 224  # measured: 8 to 16 rows of 224 x 224 are fastest; 13 splits 50 and 1000 evenly
GPU_PIXELS_PER_CALL = 128 * 224 * 224
MAX_ROWS = 256

PassKind = Literal["forward", "gradient", "layer", "attention", "propagation", "other"]

# The number of rows that fit in memory, by image shape and kind of pass; filled when a call ran out of memory.
_row_limits: WeakKeyDictionary[Classifier, dict[tuple[tuple[int, ...], PassKind], int]] = WeakKeyDictionary()


class Block(NamedTuple):
    """The points ``points`` of the images ``images``, a slice or indices (b,): the work of one model call."""

    images: slice | Tensor
    points: slice

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of images and of points per image in the block."""
        count = self.images.stop - self.images.start if isinstance(self.images, slice) else len(self.images)
        return count, self.points.stop - self.points.start

    def image_indices(self, device: torch.device) -> Tensor:
        """Return the image index (b * k,) of each row of the block; the points of an image are consecutive rows."""
        images = self.images
        if isinstance(images, slice):
            images = torch.arange(images.start, images.stop, device=device)
        return images.repeat_interleave(self.shape[1])

    def point_indices(self, device: torch.device) -> Tensor:
        """Return the indices (k,) of the block's points."""
        return torch.arange(self.points.start, self.points.stop, device=device)


def rows_per_call(classifier: Classifier, x: Tensor, batch_size: int | None = None, kind: PassKind = "forward") -> int:
    """Return the number of rows per model call for images shaped like x (..., C, H, W).

    Without ``batch_size`` it depends on the device and the image size only, so that runs are reproducible to the byte.
    After a call of this kind of pass ran out of memory, it is at most the number of rows that fit: forward passes do not suffer from
    backward passes, which need more memory. It is 1 if the model mixes the rows of a call.
    """
    if classifier.checks.mixes_rows:
        return 1
    rows = batch_size or _default_rows(x)
    limits = _row_limits.get(classifier, {})
    return min(rows, limits.get((tuple(x.shape[-3:]), kind), rows))


def make_blocks(images: int | Tensor, points: int | range, rows: int) -> Iterator[Block]:
    """Yield blocks of even sizes, at most ``rows`` rows each, that cover the same points of several images.

    images: the number of images, or the indices (N,) of some. points: the number of points per image, or their indices.
    """
    image_count = images if isinstance(images, int) else len(images)
    points = range(points) if isinstance(points, int) else points
    images_per_block = max(rows // len(points), 1)
    image_slices = even_slices(image_count, _ceil_divide(image_count, images_per_block))
    point_slices = even_slices(len(points), _ceil_divide(len(points), rows))
    for image_slice in image_slices:
        for point_slice in point_slices:
            members = image_slice if isinstance(images, int) else images[image_slice]
            yield Block(members, slice(points.start + point_slice.start, points.start + point_slice.stop))


def even_slices(length: int, parts: int) -> list[slice]:
    """Return ``parts`` slices of even sizes that cover 0 .. length."""
    bounds = [round(length * part / parts) for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def run_in_batches(
    run: Callable[..., tuple[Tensor, ...]],
    classifier: Classifier,
    batch_size: int | None,
    x: Tensor,
    *others: Tensor | None,
    kind: PassKind = "other",
) -> list[Tensor]:
    """Call ``run`` on even batches of rows and concatenate its outputs.

    run: a function of a batch of x and of each of ``others``, to tensors (rows, ...). An ``other`` that is None stays None.
    kind: the kind of pass that ``run`` makes. When a call runs out of memory, it is repeated with half the rows, and later calls of this
    kind use no more rows than that.
    Raises DeviceError if a single image does not fit in memory.
    """
    outputs: list[tuple[Tensor, ...]] = []
    start = 0
    while start < len(x):
        size = _even_size(len(x) - start, rows_per_call(classifier, x, batch_size, kind))
        rows = slice(start, start + size)
        batch = [None if other is None else other[rows] for other in others]
        try:
            output = _run_rows(run, classifier, x[rows], batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            output = None
        if output is None:  # outside the except block, whose traceback keeps the tensors alive
            _halve_rows(classifier, x, size, kind)
            continue
        outputs.append(output)
        start += size
    return [torch.cat(column) if len(column) > 1 else column[0] for column in zip(*outputs, strict=True)]


def _run_rows(
    run: Callable[..., tuple[Tensor, ...]], classifier: Classifier, x: Tensor, others: list[Tensor | None]
) -> tuple[Tensor, ...]:
    """Call ``run`` on a batch of rows. A single row is run twice in a call if the model's gradient is wrong otherwise."""
    if len(x) > 1 or not classifier.checks.needs_two_rows:
        return run(x, *others)
    doubled = [None if other is None else torch.cat([other, other]) for other in others]
    return tuple(output[:1] for output in run(torch.cat([x, x]), *doubled))


def _default_rows(x: Tensor) -> int:
    """Return the default batch size for the device and image size of x."""
    pixels = CPU_PIXELS_PER_CALL if x.device.type == "cpu" else GPU_PIXELS_PER_CALL
    return min(max(pixels // (x.shape[-1] * x.shape[-2]), 1), MAX_ROWS)


def _even_size(rows: int, limit: int) -> int:
    """Return the size of the first of the fewest, evenly filled batches of at most ``limit`` rows."""
    return _ceil_divide(rows, _ceil_divide(rows, limit))


def _halve_rows(classifier: Classifier, x: Tensor, size: int, kind: PassKind) -> None:
    """Lower the row limit to half of ``size``. Raises DeviceError if ``size`` is one row."""
    if x.device.type == "cuda":
        torch.cuda.empty_cache()
    if size == 1:
        side = f"{x.shape[-2]}x{x.shape[-1]}"
        raise DeviceError(
            f"out of memory on {x.device} with a single image of {side} pixels",
            "use a smaller model or another --device",
        )
    _row_limits.setdefault(classifier, {})[tuple(x.shape[-3:]), kind] = size // 2


def _ceil_divide(dividend: int, divisor: int) -> int:
    """Return the quotient, rounded up."""
    return -(-dividend // divisor)
