"""Pictures: reduction, clipping, colors, and records in files."""

from __future__ import annotations

import io
import json
import zipfile
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from tests.helpers import hostile_inputs as hostile
from xplain.core.errors import InputError
from xplain.core.files import write_file
from xplain.core.options import RenderOptions, Sign
from xplain.reports import render

RAMP = np.arange(101, dtype=np.float64).reshape(1, 1, 101)
PHOTO = np.full((1, 101, 3), 200, dtype=np.uint8)


def test_reduce_channels_by_name():
    values = np.array([[[1.0, -2.0]], [[3.0, -5.0]], [[-1.0, 1.0]]])
    expected = {"sum": [3, -6], "mean": [1, -2], "abs-sum": [5, 8], "max": [3, 5]}
    for how, row in expected.items():
        np.testing.assert_allclose(render.reduce_channels(values, how), [row])


def test_normalize_clips_at_percentiles():
    shown = render.normalize(RAMP, RenderOptions(clip=(80, 99)))[0]
    assert (shown[:81] == 0).all()
    assert shown[99] == shown[100] == 1
    assert shown[90] == pytest.approx(10 / 19)


def test_normalize_by_sign():
    values = RAMP - 50
    assert render.normalize(values, RenderOptions((0, 100), "positive"))[0, [0, 50, 100]].tolist() == [0, 0, 1]
    assert render.normalize(values, RenderOptions((0, 100), "negative"))[0, [0, 50, 100]].tolist() == [1, 0, 0]
    assert render.normalize(values, RenderOptions((0, 100), "absolute"))[0, [0, 50, 100]].tolist() == [1, 0, 1]
    assert render.normalize(values, RenderOptions((0, 100), "signed"))[0, [0, 25, 50, 75, 100]].tolist() == [
        -1,
        -0.5,
        0,
        0.5,
        1,
    ]


@pytest.mark.parametrize("sign", get_args(Sign))
@pytest.mark.filterwarnings("error")
def test_normalize_map_without_contrast(sign):
    for values in (np.zeros((3, 4, 4)), np.full((3, 4, 4), 7.0), -np.ones((1, 4, 4))):
        assert not render.normalize(values, RenderOptions(sign=sign)).any()


@pytest.mark.filterwarnings("error")
def test_normalize_single_pixel_without_clip():
    values = np.zeros((1, 4, 4))
    values[0, 1, 2] = 5
    shown = render.normalize(values, RenderOptions(clip=(0, 100)))
    assert (shown[1, 2], shown.sum()) == (1, 1)


@pytest.mark.parametrize("sign", ["positive", "absolute", "signed"])
@pytest.mark.filterwarnings("error")
def test_normalize_single_pixel_equal_percentiles(sign):
    values = np.zeros((1, 40, 40))
    values[0, 1, 2] = 5
    shown = render.normalize(values, RenderOptions(sign=sign))
    assert (shown[1, 2], shown.sum()) == (1, 1)
    assert render.render_warnings(values, RenderOptions(sign=sign)) == [
        "only one pixel of the map is nonzero",
        "the two clip percentiles have the same value, so only larger values are visible",
    ]


EMPTY = "the visualization is blank, because the clipped map is constant"


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        (RAMP, RenderOptions(), []),
        (np.zeros((3, 4, 4)), RenderOptions(), [EMPTY]),  # the attribution has a warning of its own
        (np.full((3, 4, 4), 7.0), RenderOptions(), ["the map is constant", EMPTY]),
        (-1 - RAMP, RenderOptions(), ["the map has no positive values", EMPTY]),
        (-1 - RAMP, RenderOptions(sign="negative"), []),
        (1 + RAMP, RenderOptions(sign="negative"), ["the map has no negative values", EMPTY]),
        (-1 - RAMP, RenderOptions(sign="signed"), []),
        (np.minimum(RAMP, 50), RenderOptions(), [EMPTY]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_render_warnings(values, options, expected):
    assert render.render_warnings(values, options) == expected
    assert render.normalize(values, options).any() == (EMPTY not in expected)


def test_keep_top_pixels_on_gray():
    photo = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    values = np.zeros((1, 10, 10))
    values[0, 3, :9] = -np.arange(1, 10)
    values[0, 7, 7] = 1
    pixels = render.keep_top_pixels(photo, values, RenderOptions())
    kept = [(7, 7), *((0, k) for k in range(9))]  # one above zero, then the first zeros
    for index in np.ndindex(10, 10):
        assert pixels[index].tolist() == (photo[index].tolist() if index in kept else [128] * 3)
    lowest = render.keep_top_pixels(photo, values, RenderOptions(sign="negative"))
    assert (lowest[3, :9] == photo[3, :9]).all()
    assert (lowest[0, 0] == photo[0, 0]).all()


def test_signed_colormap_is_centered():
    options = RenderOptions((0, 100), "signed")
    colors = render.apply_colormap(np.array([[-1.0, 0.0, 1.0]]), options)[0].astype(int)
    assert colors[1].min() >= 240
    assert colors[0, 2] > colors[0, 0]
    assert colors[2, 0] > colors[2, 2]


def test_overlay_without_heat_shows_image():
    none = render.overlay(PHOTO, np.zeros((1, 101)), RenderOptions())
    np.testing.assert_array_equal(none, np.full_like(PHOTO, 150))
    full = render.overlay(PHOTO, np.ones((1, 101)), RenderOptions(opacity=1))
    np.testing.assert_array_equal(full, render.apply_colormap(np.ones((1, 101)), RenderOptions()))


def test_mask_multiplies_image():
    shown = render.normalize(RAMP, RenderOptions((0, 100)))
    np.testing.assert_array_equal(render.mask(PHOTO, shown)[0, :, 0], (200 * shown[0]).round())


@pytest.mark.parametrize("kind", ["overlay", "heatmap", "masked", "figure"])
@pytest.mark.filterwarnings("error")
def test_draw_embeds_record(kind, tmp_path):
    rng = np.random.default_rng(0)
    record = {"method": "agi", "params": {"steps": 3}, "target": {"name": "$é<猫>", "index": 1}, "prediction": [
        {"index": 1, "name": "$é<猫>", "probability": 0.7}, {"index": 0, "name": None, "probability": 0.3}]}  # fmt: skip
    photo = rng.integers(0, 255, (16, 20, 3), dtype=np.uint8)
    content = render.draw(kind, photo, rng.normal(size=(3, 16, 20)), RenderOptions(), record)
    (tmp_path / "a.png").write_bytes(content)
    assert render.read_record(tmp_path / "a.png") == record
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (20, 16) or kind == "figure"


def test_encode_raw_keeps_bytes(tmp_path):
    values = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)
    (tmp_path / "a.npz").write_bytes(render.encode_raw(np.zeros((3, 4, 5)), values, {"a": "ü"}))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as content:
        assert content["attribution"].tobytes() == values.tobytes()
        assert json.loads(str(content["record"])) == {"a": "ü"}


@pytest.mark.parametrize("content", [b"", b"not a png", b"\x89PNG\r\n\x1a\n", hostile.make_bomb()])
def test_read_record_of_foreign_png(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    assert render.read_record(tmp_path / "a.png") is None


@pytest.mark.parametrize(
    ("kind", "shape"), [("<U9", ()), ("<U536870911", (512,)), ("<f8", (2**60 - 1,)), ("<f8", (-1,)), ("|V-1", ())]
)
def test_read_record_of_hostile_npz(kind, shape, tmp_path):
    header = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode() + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("record.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert render.read_record(tmp_path / "a.npz") is None


def test_failed_write_keeps_old_file(tmp_path, monkeypatch):
    def raise_disk_full(self, target):
        raise OSError(28, "No space left on device")

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr("pathlib.Path.replace", raise_disk_full)
    with pytest.raises(
        InputError, match=r"cannot write .*a\.png': No space left on device; .*free disk space, then run"
    ):
        write_file(tmp_path / "a.png", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"old")]
