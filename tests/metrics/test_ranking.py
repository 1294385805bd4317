"""Ranks of values and of pixels, and ties."""

from __future__ import annotations

import pytest
import torch

from xplain.metrics._ranking import pixel_ranks, ranks


def test_ranks_from_highest_or_lowest():
    values = torch.tensor([[0.5, -3.0, 2.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    assert ranks(values).tolist() == [[1, 3, 0, 2], [3, 2, 1, 0]]
    assert ranks(values, lowest=True).tolist() == [[2, 0, 3, 1], [0, 1, 2, 3]]
    assert ranks(values[None]).tolist() == [[[1, 3, 0, 2], [3, 2, 1, 0]]]


@pytest.mark.parametrize("count", [4, 1000])  # torch sorts long rows with another algorithm
def test_ranks_keep_order_of_ties(count):
    values = torch.zeros(1, count)
    values[0, 1] = 1
    rest = [*range(2, count)]
    assert ranks(values).tolist() == [[1, 0, *rest]]
    assert ranks(values, lowest=True).tolist() == [[0, count - 1, *(index - 1 for index in rest)]]


def test_pixel_ranks_sum_over_channels():
    maps = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 9.0, 0.0]], [[1.0, 0.0, 3.0], [0.0, -9.0, 3.0]]])[None]
    assert pixel_ranks(maps).tolist() == [[[2, 3, 0], [4, 5, 1]]]  # sums 2 0 3, 0 0 3
    assert pixel_ranks(maps, lowest=True).tolist() == [[[3, 0, 4], [1, 2, 5]]]
