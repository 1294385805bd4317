"""Blocks of points, rows per call, and smaller batches after an out-of-memory error."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from tests.helpers import toys
from tests.oracle.helpers import is_close, small_classifier
from xplain.core.errors import DeviceError
from xplain.oracle import Oracle
from xplain.oracle.batching import Block

SHAPES = [*product((1, 2, 3, 4, 5, 8), (1, 2, 3, 5, 7, 16, 23, 33))]
ROWS = [1, 2, 3, 4, 7, 16, 100]
CLASSIFIER = small_classifier()


def make_blocks(images: int, points: int, rows: int) -> list[Block]:
    return list(Oracle(CLASSIFIER, batch_size=rows).blocks(torch.zeros(images, 3, 8, 10), points))


@pytest.mark.parametrize("rows", ROWS)
def test_blocks_cover_each_point_once(rows):
    for images, points in SHAPES:
        covered = torch.zeros(images, points, dtype=torch.long)
        for block in make_blocks(images, points, rows):
            assert 0 < block.shape[0] * block.shape[1] <= rows
            covered[block.images, block.points] += 1
            expected = list(range(block.points.start, block.points.stop))
            assert block.point_indices(torch.device("cpu")).tolist() == expected
        assert (covered == 1).all()


@pytest.mark.parametrize(("axis", "name"), [(0, "images"), (1, "points")])
@pytest.mark.parametrize("rows", ROWS)
def test_blocks_have_even_sizes(rows, axis, name):
    for images, points in SHAPES:
        sizes = [block.shape[axis] for block in make_blocks(images, points, rows)]
        assert max(sizes) - min(sizes) <= 1, f"{name} of {images} x {points}"


@pytest.mark.parametrize("rows", ROWS)
def test_blocks_are_as_few_as_possible(rows):
    for images, points in SHAPES:
        images_per_block = max(rows // points, 1)
        limit = math.ceil(images / images_per_block) * math.ceil(points / rows)
        assert len(make_blocks(images, points, rows)) <= limit


def test_blocks_fill_calls():
    blocks = make_blocks(images=3, points=8, rows=4)
    assert [block.shape[0] * block.shape[1] for block in blocks] == [4] * 6


def test_image_indices_repeat_per_point():
    block = Block(slice(2, 4), slice(5, 8))
    assert block.image_indices(torch.device("cpu")).tolist() == [2, 2, 2, 3, 3, 3]


def test_default_rows_depend_on_image_size_only():
    oracle = Oracle(small_classifier())
    assert oracle.rows_per_call(torch.zeros(3, 224, 224)) == 13
    assert oracle.rows_per_call(torch.zeros(3, 224, 224).expand(1000, -1, -1, -1)) == 13
    assert oracle.rows_per_call(torch.zeros(3, 448, 448)) == 3
    assert oracle.rows_per_call(torch.zeros(3, 112, 448)) == oracle.rows_per_call(torch.zeros(3, 448, 112)) == 13
    assert oracle.rows_per_call(torch.zeros(3, 2000, 2000)) == 1
    assert oracle.rows_per_call(torch.zeros(3, 8, 8)) == 256
    assert Oracle(small_classifier(), batch_size=5).rows_per_call(torch.zeros(3, 224, 224)) == 5


def test_peak_rows_do_not_depend_on_points():
    """On a CPU, at 224 pixels."""
    x = torch.zeros(1, 3, 224, 224)
    for points in (50, 1000):
        assert max(block.shape[1] for block in Oracle(small_classifier()).blocks(x, points)) == 13


def test_rows_are_split_evenly_over_calls():
    calls: list[int] = []
    oracle = Oracle(small_classifier(), batch_size=3, on_rows=calls.append)
    for rows, expected in ((7, [3, 2, 2]), (4, [2, 2]), (3, [3])):
        calls.clear()
        oracle.logits(toys.images(rows))
        assert calls == expected


class LimitedMemory:
    """A model that runs out of memory with more than ``limit`` rows; ``calls`` records the rows of each call."""

    def __init__(self, limit: int, error: type[RuntimeError] = torch.OutOfMemoryError, where: str = "forward") -> None:
        self.calls: list[int] = []
        weight = torch.linspace(-1, 1, 3 * 3 * 8 * 10, dtype=torch.float64).reshape(3, 3, 8, 10)
        calls = self.calls

        class Backward(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, gradient):
                if len(gradient) > limit:
                    raise error("[enforce fail] DefaultCPUAllocator: can't allocate memory")
                return gradient

        def function(x: Tensor) -> Tensor:
            if x.shape[-2:] != (8, 10):  # the inspection of the model
                return x.mean(dim=(2, 3))
            calls.append(len(x))
            if where == "backward":
                x = Backward.apply(x)
            elif len(x) > limit:
                raise error("[enforce fail] DefaultCPUAllocator: can't allocate memory")
            return torch.einsum("bchw,kchw->bk", x.sin(), weight)

        self.classifier = toys.classifier(toys.Function(function))
        self.weight = weight


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory_halves_rows(error):
    limited = LimitedMemory(3, error)
    x = toys.images(16)
    oracle = Oracle(limited.classifier, batch_size=16)
    expected = torch.einsum("bchw,kchw->bk", x.sin(), limited.weight)
    assert is_close(oracle.logits(x), expected)
    assert limited.calls == [16, 8, 4, *[2] * 8]
    assert oracle.cost.forwards == 16
    limited.calls.clear()
    assert is_close(oracle.logits(x), expected)
    assert limited.calls == [2] * 8


def test_row_limit_is_kept_per_classifier():
    limited = LimitedMemory(5)
    x = toys.images(8)
    Oracle(limited.classifier, batch_size=8).logits(x)
    limited.calls.clear()
    Oracle(limited.classifier, batch_size=8).logits(x)
    assert limited.calls == [4, 4]


def test_sufficient_memory_sets_no_limit():
    limited = LimitedMemory(8)
    Oracle(limited.classifier, batch_size=8).logits(toys.images(16))
    Oracle(limited.classifier, batch_size=3).logits(toys.images(6))
    assert limited.calls == [8, 8, 3, 3]


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_out_of_memory_gradients_count_rows_once(where):
    limited = LimitedMemory(3, where=where)
    x, y = toys.images(7), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    reported: list[int] = []
    oracle = Oracle(limited.classifier, batch_size=7, on_rows=reported.append)
    result = oracle.gradients(x, y)
    assert is_close(result.values, x.cos() * limited.weight[y])
    assert is_close(result.scores, (x.sin() * limited.weight[y]).sum(dim=(1, 2, 3)))
    assert (oracle.cost.forwards, oracle.cost.backwards) == (7, 7)
    assert sum(reported) == 7
    assert max(limited.calls[1:]) <= 4


def test_out_of_memory_block_uses_fewer_rows():
    limited = LimitedMemory(2)
    x, y = toys.images(3), torch.tensor([0, 1, 2])
    oracle = Oracle(limited.classifier, batch_size=6)
    scores = torch.full((3, 5), torch.nan, dtype=torch.float64)
    for block in oracle.blocks(x, 5):
        points = x[block.images, None].expand(-1, block.shape[1], -1, -1, -1)
        scores[block.images, block.points] = oracle.block_scores(block, points, y)
    expected = (x.sin() * limited.weight[y]).sum(dim=(1, 2, 3))
    assert is_close(scores, expected[:, None].expand(3, 5))
    assert oracle.cost.forwards == 15


def test_out_of_memory_with_one_row_raises():
    limited = LimitedMemory(0)
    with pytest.raises(DeviceError) as error:
        Oracle(limited.classifier, batch_size=4).logits(toys.images(4))
    assert limited.calls == [4, 2, 1]
    assert error.value.exit_code == 4
    assert str(error.value) == (
        "out of memory on cpu with a single image of 8x10 pixels; use a smaller model or another --device"
    )


def test_other_errors_are_not_out_of_memory():
    def function(x: Tensor) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Oracle(toys.classifier(toys.Function(function)), batch_size=4).logits(toys.images(4))


def test_row_limits_of_kinds_of_passes_are_separate():
    """Backward passes that run out of memory leave forward passes as they were, also their bytes."""
    limited = LimitedMemory(3, where="backward")
    x, y = toys.images(8), torch.zeros(8, dtype=torch.long)
    oracle = Oracle(limited.classifier, batch_size=8)
    oracle.gradients(x, y)
    assert limited.calls == [8, 4, 2, 2, 2, 2]
    limited.calls.clear()
    oracle.logits(x)
    assert limited.calls == [8]
    assert oracle.rows_per_call(x) == 8
    limited.calls.clear()
    oracle.gradients(x, y)
    assert limited.calls == [2, 2, 2, 2]
