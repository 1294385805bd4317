"""``xplain explain --on original`` and ``--scale``: sizes, records, file names and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import SAMPLES, TINY
from xplain.core.options import RenderOptions
from xplain.reports.render import overlay, read_record


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_original_shows_the_whole_photograph(xp):
    ran = xp("explain", SAMPLES / "cat.jpg", *TINY, "-a", "saliency", "--on", "original", "--save", "overlay", "--json")
    (record,) = ran.records
    size = record["preprocessing"]["size"][0]
    side = 300 / record["preprocessing"]["resize"] * size  # of the crop in the photograph of 451 x 300
    drawn = record["render"]
    assert (drawn["on"], drawn["scale"], drawn["width"], drawn["height"]) == ("original", 1, 451, 300)
    assert drawn["crop"]["height"] == round(side, 3)
    assert abs(drawn["crop"]["left"] + drawn["crop"]["width"] / 2 - 451 / 2) < 451 / size
    picture = pixels(record["files"]["overlay"])
    photograph = np.asarray(Image.open(SAMPLES / "cat.jpg").convert("RGB"))
    dark = overlay(photograph, np.zeros((300, 451)), RenderOptions())
    left = round(drawn["crop"]["left"])
    np.testing.assert_array_equal(picture[:, : left - 2], dark[:, : left - 2])
    assert (picture[:, left:-left] != dark[:, left:-left]).any()
    assert read_record(Path(record["files"]["overlay"]))["render"] == drawn


def test_scaled_pictures_have_their_own_names(xp):
    command = ("explain", SAMPLES / "cat.jpg", *TINY, "-a", "saliency", "--save", "heatmap")
    (plain,) = xp(*command, "--json").records
    assert (plain["render"]["on"], plain["render"]["scale"]) == ("input", 1)
    (scaled,) = xp(*command, "--scale", "3", "--json").records
    assert (
        scaled["files"]["heatmap"] == "xplain-out/cat.saliency.python-tests.helpers.factories-tiny.scale=3.heatmap.png"
    )
    small = pixels(plain["files"]["heatmap"])
    np.testing.assert_array_equal(pixels(scaled["files"]["heatmap"]), small.repeat(3, axis=0).repeat(3, axis=1))
    assert xp(*command, "--scale", "3", "--json").records == [scaled]
    assert scaled["fingerprint"] != plain["fingerprint"]


def test_images_of_other_formats_are_drawn_whole(xp):
    array = np.linspace(0, 1, 60 * 90 * 3, dtype=np.float32).reshape(60, 90, 3)
    np.save("a.npy", array)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray((255 * array).astype(np.uint8)).save("b.jpg", exif=exif)
    ran = xp("explain", "a.npy", "b.jpg", *TINY, "-a", "saliency", "--on", "original", "--scale", "2", "--json")
    assert [pixels(record["files"]["overlay"]).shape for record in ran.records] == [(120, 180, 3), (180, 120, 3)]


def test_options_without_effect_are_refused(xp):
    command = ("explain", SAMPLES / "cat.jpg", *TINY, "-a", "saliency", "--save")
    ran = xp(*command, "raw", "--on", "original")
    assert ran.code == 2
    expected = "xplain: error: --on original does not apply to --save raw; use overlay or heatmap or masked or figure\n"
    assert ran.err == expected
    ran = xp(*command, "figure", "--scale", "2")
    assert (ran.code, ran.err) == (
        2, "xplain: error: --scale does not apply to --save figure; use overlay or heatmap or masked\n",
    )  # fmt: skip
    assert xp(*command, "overlay", "--scale", "65").code == 2
    assert not Path("xplain-out").exists()


def test_too_large_pictures_are_failures(xp, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 451 * 300 * 2 - 1)  # twice as many are refused
    ran = xp("explain", SAMPLES / "cat.jpg", *TINY, "-a", "saliency", "--on", "original", "--scale", "2")
    assert ran.code == 3
    assert "would make a picture of 902 x 600 pixels" in ran.err


def test_file_that_changes_meanwhile_is_a_failure(xp, monkeypatch):
    monkeypatch.setattr("xplain.pipelines.original_images.sha256", lambda content: "other")
    ran = xp("explain", SAMPLES / "cat.jpg", *TINY, "-a", "saliency", "--on", "original")
    assert ran.code == 3
    assert "changed while it was explained; run the same command again" in ran.err
