"""``xplain explain --stability``: records, the warning, file names and exit codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import SAMPLES, TINY

CAT = SAMPLES / "cat.jpg"


def test_explain_records_stability(xp, photos, method_calls):
    """One warning for the run, exit code 0, and files beside those without stability, which are found again."""
    plain = xp("explain", CAT, *TINY, "-a", "rise:masks=2", "--json", "--stability", "off")
    assert "stability" not in plain.records[0]
    ran = xp("explain", CAT, photos, *TINY, "-a", "rise:masks=2", "--stability", "full", "--json")
    assert ran.code == 0
    figures = [record["stability"]["figure"] for record in ran.records]
    assert len(figures) == 4
    assert all(0 < figure < 0.5 for figure in figures)
    lowest = min(figures)
    record = ran.records[figures.index(lowest)]
    warnings = [line for line in ran.err.splitlines() if "stability of" in line]
    assert len(warnings) == 1
    assert warnings[0].endswith(
        f"stability of 4 maps: 4 unstable (below 0.5; lowest {lowest:.2f} (draws): {record['input']}: rise)"
    )
    assert Path("xplain-out/cat.rise_masks=2.python-tests.helpers.factories-tiny.stability=full.overlay.png").is_file()
    method_calls.sizes.clear()
    again = xp("explain", CAT, photos, *TINY, "-a", "rise:masks=2", "--stability", "full", "--json")
    assert again.records == ran.records
    assert not method_calls.sizes


def test_stable_map_has_no_warning(xp):
    ran = xp("explain", CAT, *TINY, "-a", "center", "--json")
    record = ran.records[0]["stability"]
    assert (ran.code, record["level"], record["figure"], record["look"]) == (0, "quick", 1, "sum, positive")
    assert "warning: " not in ran.err
    drawn = xp("explain", CAT, *TINY, "-a", "center", "--sign", "negative", "--reduce", "max", "--json")
    assert drawn.records[0]["stability"]["look"] == "max, negative"


def test_default_at_most_doubles_the_rows(xp):
    """The rows of the repeats are at most those of the method, of its checks and of the prediction."""
    for method in ("sm", "ig:steps=7", "neflag:samples=4", "lime:samples=20", "random", "occlusion", "grad-cam"):
        record = xp("explain", CAT, *TINY, "-a", method, "--json").records[0]
        assert record["stability"]["level"] == "quick"
        checks = 2 if method.startswith("ig") else 0
        assert record["stability"]["rows"] <= record["cost"]["forwards"] + checks + 1, method
        assert record["stability"]["figure"] is not None


def test_picture_of_stability(xp):
    """Outlines enclose the pixels that the record counts."""
    ran = xp("explain", CAT, *TINY, "-a", "neflag:samples=3", "--save", "stability", "--stability", "full", "--json")
    record = ran.records[0]
    with Image.open(record["files"]["stability"]) as opened:
        picture = np.asarray(opened)
    side = 32
    factor = 896 // side
    assert picture.shape == (side * factor + 66, side * factor, 3)
    cells = picture[: side * factor].reshape(side, factor, side, factor, 3)
    corners = cells[:, 0, :, 0]
    always = round(record["stability"]["marks"]["always"] * side**2)
    assert 0 < always < 102
    is_white = (cells == 255).all(axis=-1).any(axis=(1, 3))
    assert is_white.sum() <= always
    assert (corners == 255).all(axis=-1).sum() > 0
    refused = xp("explain", CAT, *TINY, "--save", "stability", "--stability", "off")
    assert (refused.code, refused.err) == (
        2,
        "xplain: error: --save stability requires the stability of the map; use --stability quick or full\n",
    )


def test_compare_has_a_line_of_stability(xp):
    ran = xp("compare", CAT, *TINY, "-a", "rise:masks=2", "-a", "center", "--no-metrics", "--json")
    (record,) = ran.records
    figures = [cell["stability"]["figure"] for cell in record["rows"][0]["cells"]]
    assert figures[1] == 1
    assert 0 < figures[0] < 0.5
    means = [column["stability"] for column in record["means"]]
    assert means == [{"mean": figures[0], "n": 1, "unstable": 1}, {"mean": 1.0, "n": 1, "unstable": 0}]
    page = Path("xplain-compare/compare.html").read_text()
    assert f'"stability":"stability {figures[0]:.2f} (draws {figures[0]:.2f}, noise 1.00; chance 0.10)"' in page
    assert (
        f"stability of 2 maps: 1 unstable (below 0.5; lowest {figures[0]:.2f} (draws): {CAT}: rise:masks=2)" in ran.err
    )
    off = xp(
        "compare", CAT, *TINY, "-a", "rise:masks=2", "-a", "center", "--no-metrics", "--stability", "off", "--json"
    )
    assert "stability" not in off.records[0]["means"][0]
    assert "stability" not in off.records[0]["rows"][0]["cells"][0]


def test_unknown_stability_is_refused(xp):
    ran = xp("explain", CAT, "--stability", "some")
    assert ran.code == 2
    assert "--stability" in ran.err
