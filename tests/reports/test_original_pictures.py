"""Pictures of whole photographs: resampling, placement, outline, and the limits of sizes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from xplain.core.errors import InputError
from xplain.core.options import RenderOptions
from xplain.data.preprocessing import CropBox, Preprocessing
from xplain.reports import original_pictures, render
from xplain.reports.original_pictures import Original, check_picture_size, outline, paint_original, resampling_weights

rng = np.random.default_rng(0)


@pytest.mark.parametrize(("samples", "count"), [(7, 31), (31, 7), (5, 5), (4, 9)])
def test_resampling_equals_pillow(samples, count):
    values = rng.normal(size=(samples, 1)).astype(np.float32)
    expected = np.asarray(Image.fromarray(values).resize((1, count), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(resampling_weights(count, 0, count, samples) @ values, expected, atol=1e-6)


def test_resampling_is_zero_outside_and_linear_inside():
    weights = resampling_weights(20, 4.3, 10.0, 5)
    inside = [i for i in range(20) if 4.3 <= i + 0.5 < 14.3]
    assert np.flatnonzero(weights.any(axis=1)).tolist() == inside == list(range(4, 14))
    np.testing.assert_allclose(weights[inside].sum(axis=1), 1)
    ramp = weights @ (np.arange(5) + 0.5)  # the position in the samples, away from the border
    positions = (np.arange(20) + 0.5 - 4.3) / 2
    np.testing.assert_allclose(ramp[5:13], positions[5:13])
    assert (ramp[4], ramp[13]) == (0.5, 4.5)  # the border keeps its value


def test_crop_box_is_in_pixels_of_the_photograph():
    assert Preprocessing((224, 224), 256).crop_box(512, 512) == (32, 32, 448, 448)
    assert Preprocessing((224, 224), 256).crop_box(1024, 512) == (288, 32, 448, 448)
    assert Preprocessing((100, 200), 200, squash=True).crop_box(50, 50) == (0, 0, 50, 50)
    assert Preprocessing((20, 20), (10, 10)).crop_box(5, 10) == (-2.5, -5, 10, 20)  # larger than the photograph


@pytest.mark.parametrize("kind", ["overlay", "heatmap", "masked"])
def test_whole_photograph_as_input_is_drawn_alike(kind):
    image = rng.integers(0, 256, (300, 20, 3)).astype(np.uint8)  # more rows than a strip
    values = rng.normal(size=(3, 300, 20))
    options = RenderOptions(sign="signed")
    drawn = paint_original(kind, Original(image, CropBox(0, 0, 20, 300)), values, options)
    np.testing.assert_array_equal(drawn, render.paint(kind, image, render.normalize(values, options), options))


def test_map_is_placed_in_the_crop():
    image = rng.integers(0, 256, (30, 60, 3)).astype(np.uint8)
    original = Original(image, CropBox(20, 5, 20, 20))
    values = rng.random(size=(1, 10, 10))
    options = RenderOptions(clip=(0, 100))
    enlarged = Image.fromarray(render.normalize(values, options).astype(np.float32))
    expected = np.zeros((30, 60))
    expected[5:25, 20:40] = np.asarray(enlarged.resize((20, 20), Image.Resampling.BILINEAR))
    outlined = np.ones((30, 60), dtype=bool)
    outlined[5:25, 20:40] = False
    outlined[:3], outlined[27:], outlined[:, :18], outlined[:, 42:] = False, False, False, False
    for kind in ("overlay", "heatmap", "masked"):
        drawn = paint_original(kind, original, values, options)
        plain = render.paint(kind, image, expected, options)
        if kind == "heatmap":
            plain[(np.arange(30) < 5) | (np.arange(30) >= 25)] = 128
            plain[:, (np.arange(60) < 20) | (np.arange(60) >= 40)] = 128
        difference = np.abs(drawn.astype(int) - plain)[~outlined]
        assert difference.max() <= 1 or (difference > 1).mean() < 0.01  # levels of the colormap that rounding changes
        assert set(np.unique(drawn[outlined])) == {0, 255}


def test_outline_stays_in_the_picture():
    picture = np.full((10, 12, 3), 7, dtype=np.uint8)
    outline(picture, CropBox(0, 0, 12, 10))
    assert (picture == 7).all()
    outline(picture, CropBox(3, 0, 6, 10))
    assert picture[5, :, 0].tolist() == [7, 0, 255, 7, 7, 7, 7, 7, 7, 255, 0, 7]
    assert picture[:, 5, 0].tolist() == [0, 255, 7, 7, 7, 7, 7, 7, 255, 0]


def test_reduced_photograph_keeps_the_crop():
    original = Original(np.zeros((400, 1600, 3), dtype=np.uint8), CropBox(600, 0, 400, 400))
    small = original.reduced_to(800)
    assert small.pixels.shape == (200, 800, 3)
    assert small.crop == (300, 0, 200, 200)
    assert original.reduced_to(1600) is original


def test_figure_shows_the_whole_photograph(monkeypatch):
    drawn = {}
    monkeypatch.setattr(original_pictures, "draw_figure", lambda panels, *_: drawn.update(panels._asdict()) or b"png")
    original = Original(np.full((20, 40, 3), 90, dtype=np.uint8), CropBox(10, 0, 20, 20))
    assert original_pictures.draw_original("figure", original, rng.random((1, 5, 5)), RenderOptions(), {}) == b"png"
    assert np.isnan(drawn["heatmap"][:, :10]).all()
    assert not np.isnan(drawn["heatmap"][:, 10:30]).any()
    assert drawn["image"][10, 9].tolist() == [255] * 3
    assert (original.pixels == 90).all()


def test_scale_enlarges_without_blur():
    image = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    values = rng.normal(size=(1, 4, 5))
    small, large = (
        np.asarray(Image.open(io.BytesIO(render.draw("overlay", image, values, RenderOptions(), {}, scale))))
        for scale in (1, 3)
    )
    assert large.shape == (12, 15, 3)
    for i in range(12):
        for j in range(15):
            assert (large[i, j] == small[i // 3, j // 3]).all()


def test_pictures_beyond_the_limit_of_pillow_are_refused():
    with pytest.raises(InputError) as error:
        check_picture_size("a.jpg", 3000, 4000, 4)
    assert (
        str(error.value) == "--scale 4 would make a picture of 16000 x 12000 pixels of 'a.jpg'; use a smaller --scale"
    )
    check_picture_size("a.jpg", 3000, 4000, 3)
    check_picture_size("a.jpg", 30000, 40000, 1)
