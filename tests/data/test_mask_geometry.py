"""Masks follow the orientation, the resize and the crop of their image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xplain.data.annotations import Annotations, Box, BoxRow, locate_boxes
from xplain.data.image_metadata import turn_array_upright
from xplain.data.mask_geometry import measure_coverage, place_mask, turn_mask
from xplain.data.preprocessing import Preprocessing
from xplain.metrics._regions import fill_boxes


def cover_slowly(pixels: np.ndarray, preprocessing: Preprocessing, size: tuple[int, int]) -> np.ndarray:
    """Return the covered fraction of each pixel: the sum of the overlaps with all pixels of the mask."""
    geometry = preprocessing.geometry(size[1], size[0])
    scale_y, scale_x = geometry.height / pixels.shape[0], geometry.width / pixels.shape[1]
    result = np.zeros(preprocessing.size)
    for (row, column), _ in np.ndenumerate(result):
        top, left = geometry.top + row, geometry.left + column
        for r, c in zip(*pixels.nonzero(), strict=True):
            height = min(top + 1, (r + 1) * scale_y) - max(top, r * scale_y)
            width = min(left + 1, (c + 1) * scale_x) - max(left, c * scale_x)
            result[row, column] += max(height, 0) * max(width, 0)
    return result


@pytest.mark.parametrize(
    "preprocessing", [Preprocessing((5, 6), 8), Preprocessing((9, 9), 7), Preprocessing((6, 4), (7, 9))]
)
@pytest.mark.parametrize(
    ("shape", "size"), [((13, 11), (13, 11)), ((4, 5), (4, 5)), ((13, 11), (26, 22)), ((20, 10), (10, 5))]
)
def test_coverage_is_the_overlap_of_areas(preprocessing, shape, size):
    pixels = np.random.default_rng(2).random(shape) < 0.5
    expected = cover_slowly(pixels, preprocessing, size)
    np.testing.assert_allclose(measure_coverage(pixels, preprocessing, size), expected, atol=1e-12)
    ignored = ~pixels & (np.random.default_rng(3).random(shape) < 0.7)
    placed = place_mask(pixels, ignored, preprocessing, size)
    assert (placed == 1).tolist() == (expected >= 0.5 - 1e-9).tolist()
    is_ignored = (cover_slowly(ignored, preprocessing, size) >= 0.5 - 1e-9) & (placed != 1)
    assert np.isnan(placed).tolist() == is_ignored.tolist()
    assert 0 < np.nansum(placed) < placed.size


def test_square_through_256_to_224():
    """|S| is exact: 100 x 60 pixels of a 512 x 512 image become 50 x 30, of which the crop removes 16 at the left and the top."""
    pixels = np.zeros((512, 512), dtype=bool)
    pixels[20:120, 10:70] = True
    placed = place_mask(pixels, np.zeros_like(pixels), Preprocessing((224, 224), 256), (512, 512))
    assert placed.sum() == (60 - 16) * (35 - 16)
    assert placed[: 60 - 16, : 35 - 16].all()


def test_half_covered_pixels_belong_to_the_object():
    pixels = np.array([[1, 0, 0, 0], [1, 0, 0, 0]], dtype=bool)
    placed = place_mask(pixels, pixels, Preprocessing((1, 2), (1, 2)), (2, 4))
    assert placed.tolist() == [[1, 0]]
    placed = place_mask(np.zeros_like(pixels), pixels, Preprocessing((1, 2), (1, 2)), (2, 4))
    assert np.isnan(placed).tolist() == [[True, False]]


@pytest.mark.parametrize(("width", "height"), [(60, 40), (33, 47), (64, 64), (90, 20)])
@pytest.mark.parametrize(
    "preprocessing", [Preprocessing((24, 24), 32), Preprocessing((32, 16), 20), Preprocessing((40, 40), 30)]
)
def test_filled_boxes_equal_boxes(width, height, preprocessing):
    """A mask that fills a box of whole pixels goes to the same pixels of the model input as the box."""
    left, top, right, bottom = width // 5, height // 4, width - width // 3, height - height // 5
    pixels = np.zeros((height, width), dtype=bool)
    pixels[top:bottom, left:right] = True
    annotations = Annotations("boxes", {"a": [BoxRow("a", Box(left, top, right, bottom), "line 1")]})
    boxes = locate_boxes(annotations, ["a"], [(height, width)], [0], preprocessing, lambda name: 0)
    expected = fill_boxes(boxes, *preprocessing.size)[0]
    placed = place_mask(pixels, np.zeros_like(pixels), preprocessing, (height, width))
    assert torch.equal(torch.from_numpy(placed) == 1, expected)
    assert 0 < placed.sum() < placed.size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_masks_are_turned_like_their_image(orientation):
    stored = np.random.default_rng(1).random((4, 6)) < 0.5
    upright = turn_array_upright(stored[None], orientation)[0]
    assert (turn_mask(stored, upright.shape, orientation) == upright).all()
    if orientation > 4:  # only an upright mask has the upright size
        assert (turn_mask(upright, upright.shape, orientation) == upright).all()
        double = upright.repeat(2, axis=0).repeat(2, axis=1)
        assert (turn_mask(double, upright.shape, orientation) == double).all()
    square = stored[:, :4]
    assert (turn_mask(square, (4, 4), orientation) == turn_array_upright(square[None], orientation)[0]).all()


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((300, 400), True), ((150, 200), True), ((600, 800), True), ((75, 100), True), ((33, 44), True), ((34, 45), True),
     ((301, 400), False), ((400, 300), False), ((300, 300), False), ((299, 400), False), ((1, 1), True), ((35, 45), False)],
)  # fmt: skip
def test_masks_need_the_aspect_ratio_of_the_image(shape, fits):
    mask = np.ones(shape, dtype=bool)
    if fits:
        assert turn_mask(mask, (300, 400), 1) is not None
    else:
        with pytest.raises(
            ValueError, match=f"the mask has {shape[1]} x {shape[0]} pixels, but the image has 400 x 300"
        ):
            turn_mask(mask, (300, 400), 1)
