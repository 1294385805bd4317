"""The pictures of ``make gallery``."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from tests.tools.digit_networks import DIGIT_SIDE, SIDE, enlarge
from tests.tools.gallery import CELL, FOLDER, GAP, HEADING, LINE, MISSING, NETWORKS, SIGNED, Column, draw_gallery
from xplain.reports.render import apply_colormap, normalize

TOP = 2 * LINE + 3 * GAP + HEADING


def read_cell(picture: Image.Image, row: int, column: int) -> np.ndarray:
    """Return the pixels of a cell; column 0 holds the digits."""
    left, top = GAP + column * (CELL + GAP), TOP + row * (CELL + GAP)
    return np.asarray(picture.crop((left, top, left + CELL, top + CELL)))


def test_enlarged_digits_repeat_pixels():
    digits = torch.rand(2, 1, DIGIT_SIDE, DIGIT_SIDE, generator=torch.Generator().manual_seed(0))
    images = enlarge(digits)
    assert images.shape == (2, 3, SIDE, SIDE)
    assert torch.equal(images[:, 1, 3::4, ::4], digits[:, 0])
    assert torch.equal(images[:, 2, 4:8, 4:8], digits[:, 0, 1:2, 1:2].expand(-1, 4, 4))


def test_gallery_shows_maps_and_missing_maps():
    generator = torch.Generator().manual_seed(0)
    images = enlarge(torch.rand(2, 1, DIGIT_SIDE, DIGIT_SIDE, generator=generator))
    maps = torch.randn(2, 3, SIDE, SIDE, generator=generator)
    columns = [Column("saliency", maps), Column("deep-taylor", None, "deep-taylor has no rule for layer_norm")]
    picture = draw_gallery("two methods", images, ["3 (90%)", "5 (80%)"], columns)
    for row in range(2):
        digit = (images[row].numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8).repeat(2, 0).repeat(2, 1)
        assert np.array_equal(read_cell(picture, row, 0)[: CELL - LINE - 6], digit[: CELL - LINE - 6])
        colors = apply_colormap(normalize(maps[row].numpy(), SIGNED), SIGNED)
        assert np.array_equal(read_cell(picture, row, 1), colors.repeat(2, 0).repeat(2, 1))
        assert (read_cell(picture, row, 2)[:8] == MISSING).all()
        assert (read_cell(picture, row, 3) == 255).all()
    reason = np.asarray(picture)[TOP + 2 * (CELL + GAP) + GAP :]
    assert (reason < 128).any()  # the text below the maps


def test_pictures_are_small_and_complete():
    for name in NETWORKS:
        path = FOLDER / f"digits.{name}.png"
        assert path.stat().st_size < 400_000
        with Image.open(path) as picture:
            assert picture.width > 13 * CELL
            assert picture.height > 3 * (3 * CELL + HEADING)
