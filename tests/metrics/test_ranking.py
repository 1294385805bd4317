"""The order of values, of pixels, and its ties."""

from __future__ import annotations

import pytest
import torch

from xplain.metrics._ranking import pixel_ranks, ranks


def test_places_count_from_the_highest_or_from_the_lowest():
    values = torch.tensor([[0.5, -3.0, 2.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    assert ranks(values).tolist() == [[1, 3, 0, 2], [3, 2, 1, 0]]
    assert ranks(values, lowest=True).tolist() == [[2, 0, 3, 1], [0, 1, 2, 3]]
    assert ranks(values[None]).tolist() == [[[1, 3, 0, 2], [3, 2, 1, 0]]]


@pytest.mark.parametrize("count", [4, 1000])  # torch sorts long rows by other means
def test_equal_values_keep_their_order_from_either_end(count):
    values = torch.zeros(1, count)
    values[0, 1] = 1
    rest = [*range(2, count)]
    assert ranks(values).tolist() == [[1, 0, *rest]]
    assert ranks(values, lowest=True).tolist() == [[0, count - 1, *(each - 1 for each in rest)]]


def test_pixels_are_ordered_by_their_sum_over_channels():
    maps = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 9.0, 0.0]], [[1.0, 0.0, 3.0], [0.0, -9.0, 3.0]]])[None]
    assert pixel_ranks(maps).tolist() == [[[2, 3, 0], [4, 5, 1]]]  # sums 2 0 3, 0 0 3
    assert pixel_ranks(maps, lowest=True).tolist() == [[[3, 0, 4], [1, 2, 5]]]
