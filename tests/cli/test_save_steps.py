"""``xplain explain --save steps``: figure and data of the distilled sequence of DGA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import xplain
from tests.conftest import SAMPLES, TINY
from xplain.reports.render import read_record
from xplain.reports.steps_figure import choose_steps

CAT = SAMPLES / "cat.jpg"
ARGUMENTS = ("explain", CAT, *TINY, "-a", "dga:steps=9", "-o", "out")
PNG, NPZ = Path("out/cat.dga.steps.png"), Path("out/cat.dga.steps.npz")


@pytest.mark.filterwarnings("ignore::UserWarning")  # notes
def test_steps_are_written_as_figure_and_data(xp):
    assert xp(*ARGUMENTS).code == 0  # the overlay, whose settings are the same
    ran = xp(*ARGUMENTS, "--save", "steps", "--save", "overlay", "--json")
    assert ran.code == 0, ran.err
    (record,) = ran.records
    assert record["files"] == {"steps": str(PNG), "overlay": "out/cat.dga.overlay.png", "steps-data": str(NPZ)}
    assert "sequence" not in record["params"]
    assert read_record(PNG)["fingerprint"] == read_record(NPZ)["fingerprint"] == record["fingerprint"]
    classifier = xplain.load_classifier(TINY[1], device="cpu")
    image = xplain.read_image(CAT, preprocessing=classifier.preprocessing)[None]
    expected = xplain.attribute(classifier, image, "dga", steps=9, sequence=True)
    with np.load(NPZ) as data:
        assert set(data.files) == {"inputs", "maps", "scores", "kept_wc", "kept_epc", "attribution", "record"}
        assert data["inputs"].shape == data["maps"].shape == (10, 3, 32, 32)
        for name in ("inputs", "maps", "scores", "kept_wc", "kept_epc"):
            stored = torch.from_numpy(data[name])
            torch.testing.assert_close(stored, expected.details[name][0].float(), rtol=1e-4, atol=1e-6)
        positive = np.maximum(data["maps"], 0).sum(axis=0)
        np.testing.assert_allclose(positive, data["attribution"], rtol=1e-4, atol=1e-6)
    with Image.open(PNG) as picture:
        assert picture.size[0] == 1900  # 8 columns of 1.15 inches and the labels
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    curve = (np.abs(pixels - (0x00, 0x72, 0xB2)).sum(axis=2) < 12).any(axis=0)
    assert np.flatnonzero(curve).min() < 300 < 600 < np.flatnonzero(curve).max() < 950  # the score, on the left half
    before = PNG.stat().st_ino
    assert xp(*ARGUMENTS, "--save", "steps").lines == [str(PNG), str(NPZ)]
    assert PNG.stat().st_ino == before


def test_shown_steps_are_evenly_spaced():
    assert choose_steps(31) == [0, 4, 9, 13, 17, 21, 26, 30]
    assert choose_steps(3) == [0, 1, 2]
    assert choose_steps(8) == list(range(8))
    assert choose_steps(9)[-1] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-a", "ig"), "--save steps: integrated-gradients has no sequence of inputs to show; use dga"),
        (("-a", "dga", "-a", "sm"), "--save steps: saliency has no sequence of inputs to show; use dga"),
        (
            ("-a", "dga", "-o", "-"),
            "--output - writes a single PNG; pass one image, one method and one --save value other than raw and steps",
        ),
    ],
)
def test_steps_are_refused_in_one_line(xp, options, message):
    ran = xp("explain", CAT, *TINY, "--save", "steps", *options)
    assert (ran.code, ran.err) == (2, f"xplain: error: {message}\n")
