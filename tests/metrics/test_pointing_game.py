"""The pointing game on maps with a single highest pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from xplain.core.errors import InputError, UsageError

NET = toys.classifier(toys.small_net(1))
HEIGHT, WIDTH = 30, 40
NO_BOX = [torch.nan] * 4


def make_peak(row: int, column: int) -> Tensor:
    """Return a map (1, 3, 30, 40) with one high pixel in one channel."""
    values = torch.zeros(1, 3, HEIGHT, WIDTH, dtype=torch.float64)
    values[0, 1, row, column] = 1
    return values


def play(maps: Tensor, boxes: list, **options) -> xplain.Score:
    images = toys.images(len(maps), HEIGHT, WIDTH)
    table = torch.tensor(boxes, dtype=torch.float64)
    return xplain.measure(NET, images, maps, "pointing-game", target=0, boxes=table, **options)


@pytest.mark.parametrize(
    ("row", "column", "tolerance", "hit"),
    [
        (15, 15, 0, 1),
        (10, 10, 0, 1),  # the first pixel of the box
        (19, 24, 0, 1),  # the last
        (9, 10, 0, 0),
        (20, 24, 0, 0),
        (19, 25, 0, 0),
        (9, 10, 0.5, 1),  # its centre is half a pixel away
        (19, 25, 0.4, 0),
        (6, 6, 4.9, 0),  # 3.5 and 3.5 away: 4.95
        (6, 6, 5, 1),
        (29, 39, 15, 0),  # 9.5 and 14.5 away: 17.3
        (29, 36, 15, 1),  # 9.5 and 11.5 away: 14.9
    ],
)
def test_highest_pixel_hits_within_tolerance(row, column, tolerance, hit):
    score = play(make_peak(row, column), [[[10, 10, 25, 20]]], tolerance=tolerance)
    assert score.values.tolist() == [hit]
    assert score.undefined == {} or not any(mask.any() for mask in score.undefined.values())


def test_tolerance_defaults_to_15_pixels():
    assert play(make_peak(29, 36), [[[10, 10, 25, 20]]]).values.tolist() == [1]
    assert play(make_peak(29, 37), [[[10, 10, 25, 20]]]).values.tolist() == [0]
    assert play(make_peak(29, 39), [[[10, 10, 25, 20], [38, 28, 39, 29]]], tolerance=1).values.tolist() == [1]


def test_first_of_equal_maxima_counts():
    flat = torch.ones(2, 1, HEIGHT, WIDTH, dtype=torch.float64)
    score = play(flat, [[[0, 0, 2, 2]], [[30, 20, 40, 30]]], tolerance=0)
    assert score.values.tolist() == [1, 0]


def test_channels_are_summed_signed():
    maps = make_peak(15, 15) + 2 * make_peak(2, 2) - 2 * make_peak(2, 2).roll(1, dims=1)
    assert play(maps, [[[10, 10, 20, 20]]], tolerance=0).values.tolist() == [1]


def test_invisible_boxes_are_undefined():
    maps = torch.cat([make_peak(15, 15)] * 4)
    boxes = [
        [NO_BOX, NO_BOX],
        [[41, 0, 50, 9], NO_BOX],
        [[-9, 0, 0, 30], [10, 10, 20, 20]],
        [[0, -9, 9, 0], NO_BOX],
    ]
    score = play(maps, boxes)
    assert score.values[[0, 1, 3]].isnan().all()
    assert score.values[2] == 1
    assert {reason: mask.tolist() for reason, mask in score.undefined.items()} == {
        "the image has no box of the target": [True, False, False, False],
        "all boxes of the target are outside the crop": [False, True, False, True],
    }


def test_invisible_box_is_never_hit():
    assert play(make_peak(15, 39), [[[41, 0, 50, 30], [0, 0, 2, 2]]]).values.tolist() == [0]


@pytest.mark.parametrize(
    "box", [[20, 10, 10, 20], [10, 20, 20, 10], [10, 10, 10, 20], [0, 0, float("nan"), 20]], ids=str
)
def test_tensor_with_invalid_box(box):
    with pytest.raises(InputError, match=r"invalid box \(.*\); pass x0, y0, x1, y1 with x0 < x1"):
        play(make_peak(15, 15), [[[0, 0, 30, 30], box]])


def test_boxes_missing_or_invalid(tmp_path):
    images, maps = toys.images(1, HEIGHT, WIDTH), make_peak(1, 1)
    with pytest.raises(UsageError, match="pointing-game requires object boxes or masks; set boxes=FILE or masks=PATH"):
        xplain.measure(NET, images, maps, "pointing-game", target=0)
    with pytest.raises(
        InputError, match=r"boxes of shape \(1, 4\) do not match 1 images; pass boxes of shape \(images, boxes, 4\)"
    ):
        xplain.measure(NET, images, maps, "pointing-game", target=0, boxes=torch.zeros(1, 4))
    (tmp_path / "boxes.csv").write_text("a.jpg,0,0,1,1\n")
    with pytest.raises(
        UsageError, match="cannot look up boxes in a file, because the images have no names; pass a tensor"
    ):
        xplain.measure(NET, images, maps, "pointing-game", target=0, boxes=str(tmp_path / "boxes.csv"))
    with pytest.raises(UsageError, match=r"invalid value boxes=nowhere.csv; use an existing file"):
        xplain.measure(NET, images, maps, "pointing-game", target=0, boxes="nowhere.csv")
