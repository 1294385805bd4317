"""The pointing game on maps with one highest pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from xplain.core.errors import InputError, UsageError

NET = toys.classifier(toys.small_net(1))
HEIGHT, WIDTH = 30, 40
NOTHING = [torch.nan] * 4


def peak(row: int, column: int) -> Tensor:
    """A map (1, 3, 30, 40) with one high pixel, in one channel."""
    found = torch.zeros(1, 3, HEIGHT, WIDTH, dtype=torch.float64)
    found[0, 1, row, column] = 1
    return found


def played(maps: Tensor, boxes: list, **options) -> xplain.Score:
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
def test_the_highest_pixel_hits_within_the_tolerance(row, column, tolerance, hit):
    found = played(peak(row, column), [[[10, 10, 25, 20]]], tolerance=tolerance)
    assert found.values.tolist() == [hit]
    assert found.undefined == {} or not any(mask.any() for mask in found.undefined.values())


def test_the_tolerance_is_15_pixels_and_any_box_will_do():
    assert played(peak(29, 36), [[[10, 10, 25, 20]]]).values.tolist() == [1]
    assert played(peak(29, 37), [[[10, 10, 25, 20]]]).values.tolist() == [0]
    assert played(peak(29, 39), [[[10, 10, 25, 20], [38, 28, 39, 29]]], tolerance=1).values.tolist() == [1]


def test_of_equal_maxima_the_first_one_points():
    flat = torch.ones(2, 1, HEIGHT, WIDTH, dtype=torch.float64)
    found = played(flat, [[[0, 0, 2, 2]], [[30, 20, 40, 30]]], tolerance=0)
    assert found.values.tolist() == [1, 0]


def test_channels_are_summed_with_their_signs():
    maps = peak(15, 15) + 2 * peak(2, 2) - 2 * peak(2, 2).roll(1, dims=1)
    assert played(maps, [[[10, 10, 20, 20]]], tolerance=0).values.tolist() == [1]


def test_without_a_box_in_sight_there_is_no_game():
    maps = torch.cat([peak(15, 15)] * 4)
    boxes = [
        [NOTHING, NOTHING],
        [[41, 0, 50, 9], NOTHING],
        [[-9, 0, 0, 30], [10, 10, 20, 20]],
        [[0, -9, 9, 0], NOTHING],
    ]
    found = played(maps, boxes)
    assert found.values[[0, 1, 3]].isnan().all()
    assert found.values[2] == 1
    assert {reason: mask.tolist() for reason, mask in found.undefined.items()} == {
        "the image has no box of the target": [True, False, False, False],
        "the object is outside the crop": [False, True, False, True],
    }


def test_a_box_out_of_sight_is_no_goal():
    assert played(peak(15, 39), [[[41, 0, 50, 30], [0, 0, 2, 2]]]).values.tolist() == [0]


def test_boxes_are_needed_and_have_a_shape(tmp_path):
    images, maps = toys.images(1, HEIGHT, WIDTH), peak(1, 1)
    with pytest.raises(UsageError, match="pointing-game requires object boxes; pass boxes=FILE"):
        xplain.measure(NET, images, maps, "pointing-game", target=0)
    with pytest.raises(InputError, match=r"boxes \(1, 4\) for 1 images; give \(images, boxes, 4\)"):
        xplain.measure(NET, images, maps, "pointing-game", target=0, boxes=torch.zeros(1, 4))
    (tmp_path / "boxes.csv").write_text("a.jpg,0,0,1,1\n")
    with pytest.raises(UsageError, match="by the images' names, which are not known here; give boxes as a tensor"):
        xplain.measure(NET, images, maps, "pointing-game", target=0, boxes=str(tmp_path / "boxes.csv"))
    with pytest.raises(UsageError, match=r"boxes=nowhere.csv is not accepted; use an existing file or folder"):
        xplain.measure(NET, images, maps, "pointing-game", target=0, boxes="nowhere.csv")
