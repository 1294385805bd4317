"""``xplain explain --stability``: records, the warning, file names and exit codes."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import SAMPLES, TINY

CAT = SAMPLES / "cat.jpg"


def test_explain_records_stability(xp, photos, method_calls):
    """One warning for the run, exit code 0, and files beside those without stability, which are found again."""
    plain = xp("explain", CAT, *TINY, "-a", "random", "--json")
    assert "stability" not in plain.records[0]
    ran = xp("explain", CAT, photos, *TINY, "-a", "random", "--stability", "full", "--json")
    assert ran.code == 0
    figures = [record["stability"]["figure"] for record in ran.records]
    assert len(figures) == 4
    assert all(0 < figure < 0.3 for figure in figures)
    lowest = min(figures)
    record = ran.records[figures.index(lowest)]
    warnings = [line for line in ran.err.splitlines() if "stability of" in line]
    assert len(warnings) == 1
    assert warnings[0].endswith(
        f"stability of 4 maps: 4 unstable (below 0.5; lowest {lowest:.2f} (draws): {record['input']}: random)"
    )
    assert Path("xplain-out/cat.random.python-tests.helpers.factories-tiny.stability=full.overlay.png").is_file()
    method_calls.sizes.clear()
    again = xp("explain", CAT, photos, *TINY, "-a", "random", "--stability", "full", "--json")
    assert again.records == ran.records
    assert not method_calls.sizes


def test_stable_map_has_no_warning(xp):
    ran = xp("explain", CAT, *TINY, "-a", "center", "--stability", "quick", "--json")
    assert (ran.code, ran.records[0]["stability"]["figure"]) == (0, 1)
    assert "warning: " not in ran.err


def test_unknown_stability_is_refused(xp):
    ran = xp("explain", CAT, "--stability", "some")
    assert ran.code == 2
    assert "--stability" in ran.err
