"""Pictures: reduction, clipping, colours, and files that are whole or not there."""

from __future__ import annotations

import io
import json
import zipfile
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from tests.helpers import hostile_inputs as hostile
from xplain.core.config import RenderOptions, Sign
from xplain.core.errors import InputError
from xplain.core.files import write_file
from xplain.reports import render

RAMP = np.arange(101, dtype=np.float64).reshape(1, 1, 101)
PHOTO = np.full((1, 101, 3), 200, dtype=np.uint8)


def test_channels_are_reduced_as_named():
    values = np.array([[[1.0, -2.0]], [[3.0, -5.0]], [[-1.0, 1.0]]])
    expected = {"sum": [3, -6], "mean": [1, -2], "abs-sum": [5, 8], "max": [3, 5]}
    for how, row in expected.items():
        np.testing.assert_allclose(render.reduce_channels(values, how), [row])


def test_percentiles_become_the_ends_of_the_scale():
    shown = render.heat(RAMP, RenderOptions(clip=(80, 99)))[0]
    assert (shown[:81] == 0).all()
    assert shown[99] == shown[100] == 1
    assert shown[90] == pytest.approx(10 / 19)


def test_signs_choose_what_is_shown():
    values = RAMP - 50
    assert render.heat(values, RenderOptions((0, 100), "positive"))[0, [0, 50, 100]].tolist() == [0, 0, 1]
    assert render.heat(values, RenderOptions((0, 100), "negative"))[0, [0, 50, 100]].tolist() == [1, 0, 0]
    assert render.heat(values, RenderOptions((0, 100), "absolute"))[0, [0, 50, 100]].tolist() == [1, 0, 1]
    assert render.heat(values, RenderOptions((0, 100), "signed"))[0, [0, 25, 50, 75, 100]].tolist() == [
        -1,
        -0.5,
        0,
        0.5,
        1,
    ]


@pytest.mark.parametrize("sign", get_args(Sign))
@pytest.mark.filterwarnings("error")
def test_maps_without_contrast_are_empty_and_silent(sign):
    for values in (np.zeros((3, 4, 4)), np.full((3, 4, 4), 7.0), -np.ones((1, 4, 4))):
        assert not render.heat(values, RenderOptions(sign=sign)).any()


@pytest.mark.filterwarnings("error")
def test_one_pixel_that_stands_out_is_drawn_when_the_clip_admits_it():
    values = np.zeros((1, 4, 4))
    values[0, 1, 2] = 5
    shown = render.heat(values, RenderOptions(clip=(0, 100)))
    assert (shown[1, 2], shown.sum()) == (1, 1)


@pytest.mark.parametrize("sign", ["positive", "absolute", "signed"])
@pytest.mark.filterwarnings("error")
def test_a_single_pixel_is_drawn_though_the_percentiles_agree(sign):
    values = np.zeros((1, 40, 40))
    values[0, 1, 2] = 5
    shown = render.heat(values, RenderOptions(sign=sign))
    assert (shown[1, 2], shown.sum()) == (1, 1)
    assert render.remarks(values, RenderOptions(sign=sign)) == [
        "a single pixel of the map is not zero",
        "the percentiles of the clip agree: only what lies above them is drawn",
    ]


EMPTY = "the picture is empty: the clipped map has no contrast"


@pytest.mark.parametrize(
    ("values", "look", "expected"),
    [
        (RAMP, RenderOptions(), []),
        (np.zeros((3, 4, 4)), RenderOptions(), ["the map is constant", EMPTY]),
        (np.full((3, 4, 4), 7.0), RenderOptions(), ["the map is constant", EMPTY]),
        (-1 - RAMP, RenderOptions(), ["the map has no positive value", EMPTY]),
        (-1 - RAMP, RenderOptions(sign="negative"), []),
        (1 + RAMP, RenderOptions(sign="negative"), ["the map has no negative value", EMPTY]),
        (-1 - RAMP, RenderOptions(sign="signed"), []),
        (np.minimum(RAMP, 50), RenderOptions(), [EMPTY]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_odd_maps_are_said_to_be(values, look, expected):
    assert render.remarks(values, look) == expected
    assert render.heat(values, look).any() == (EMPTY not in expected)


def test_the_top_tenth_is_the_image_and_the_rest_is_grey():
    photo = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    values = np.zeros((1, 10, 10))
    values[0, 3, :9] = -np.arange(1, 10)
    values[0, 7, 7] = 1
    found = render.top(photo, values, RenderOptions())
    kept = [(7, 7), *((0, k) for k in range(9))]  # one above zero, then the first zeros
    for place in np.ndindex(10, 10):
        assert found[place].tolist() == (photo[place].tolist() if place in kept else [128] * 3)
    lowest = render.top(photo, values, RenderOptions(sign="negative"))
    assert (lowest[3, :9] == photo[3, :9]).all()
    assert (lowest[0, 0] == photo[0, 0]).all()


def test_signed_maps_diverge_around_exactly_zero():
    look = RenderOptions((0, 100), "signed")
    colours = render.colour(np.array([[-1.0, 0.0, 1.0]]), look)[0].astype(int)
    assert colours[1].min() >= 240
    assert colours[0, 2] > colours[0, 0]
    assert colours[2, 0] > colours[2, 2]


def test_the_image_shows_where_there_is_no_heat():
    none = render.overlay(PHOTO, np.zeros((1, 101)), RenderOptions())
    np.testing.assert_array_equal(none, np.full_like(PHOTO, 150))
    full = render.overlay(PHOTO, np.ones((1, 101)), RenderOptions(opacity=1))
    np.testing.assert_array_equal(full, render.colour(np.ones((1, 101)), RenderOptions()))


def test_masked_is_image_times_heat():
    shown = render.heat(RAMP, RenderOptions((0, 100)))
    np.testing.assert_array_equal(render.masked(PHOTO, shown)[0, :, 0], (200 * shown[0]).round())


@pytest.mark.parametrize("kind", ["overlay", "heatmap", "masked", "figure"])
@pytest.mark.filterwarnings("error")
def test_a_picture_carries_its_record(kind, tmp_path):
    rng = np.random.default_rng(0)
    record = {"method": "agi", "params": {"steps": 3}, "target": {"name": "$é<猫>", "index": 1}, "prediction": [
        {"index": 1, "name": "$é<猫>", "probability": 0.7}, {"index": 0, "name": None, "probability": 0.3}]}  # fmt: skip
    photo = rng.integers(0, 255, (16, 20, 3), dtype=np.uint8)
    content = render.draw(kind, photo, rng.normal(size=(3, 16, 20)), RenderOptions(), record)
    (tmp_path / "a.png").write_bytes(content)
    assert render.read_record(tmp_path / "a.png") == record
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (20, 16) or kind == "figure"


def test_raw_values_survive_to_the_byte(tmp_path):
    values = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)
    (tmp_path / "a.npz").write_bytes(render.encode_raw(np.zeros((3, 4, 5)), values, {"a": "ü"}))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as content:
        assert content["attribution"].tobytes() == values.tobytes()
        assert json.loads(str(content["record"])) == {"a": "ü"}


@pytest.mark.parametrize("content", [b"", b"not a png", b"\x89PNG\r\n\x1a\n", hostile.make_bomb()])
def test_files_of_others_have_no_record(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    assert render.read_record(tmp_path / "a.png") is None


@pytest.mark.parametrize(
    ("kind", "shape"), [("<U9", ()), ("<U536870911", (512,)), ("<f8", (2**60 - 1,)), ("<f8", (-1,)), ("|V-1", ())]
)
def test_arrays_that_claim_what_they_do_not_hold_have_no_record(kind, shape, tmp_path):
    header = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode() + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("record.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert render.read_record(tmp_path / "a.npz") is None


def test_a_failed_write_leaves_neither_part_nor_file(tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(InputError, match=r"cannot write .*a\.png': No space left on device; free disk space, then run"):
        write_file(tmp_path / "a.png", b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.png", b"old")]
