"""Summaries of metrics that run methods again: medians, shares below a half, variances and overlaps of different images."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SAMPLES, TINY
from xplain.core.array_store import ArrayStore
from xplain.core.run_store import map_digest
from xplain.reports.repeated_maps import compare_images, describe_repeats
from xplain.reports.statistics import estimate_median, split_variance, wilson_interval

METHOD = {"method": "saliency", "params": {}, "score": "logit", "method_version": 1, "deviations": "none"}
STABILITY = {"metric": "stability-draws", "params": {"similarity": "top10"}}


def test_median_and_quartiles():
    values = np.array([1.0, 2.0, 3.0, 4.0, 1e9, math.nan])
    estimate = estimate_median(values)
    assert (estimate["median"], estimate["lower_quartile"], estimate["upper_quartile"], estimate["n"]) == (3, 2, 4, 5)
    assert 1 <= estimate["low"] < 3 < estimate["high"] <= 1e9
    rng = np.random.default_rng(1)
    drawn = rng.normal(size=900)
    width = estimate_median(drawn)["high"] - estimate_median(drawn)["low"]
    assert width == pytest.approx(2 * 1.96 * math.sqrt(math.pi / 2 / 900), rel=0.25)  # of normal values
    assert math.isnan(estimate_median(np.array([]))["median"])


@pytest.mark.parametrize(
    ("count", "n", "expected"), [(0, 10, (0, 0.2775)), (5, 10, (0.2366, 0.7634)), (10, 10, (0.7225, 1))]
)
def test_wilson_interval(count, n, expected):
    """Values of the published formula."""
    assert wilson_interval(count, n) == pytest.approx(expected, abs=1e-4)


def test_variance_between_and_within_images():
    """Images with the variance 0.04, repeats with 0.01; without differences of images nothing is left between them."""
    rng = np.random.default_rng(0)
    repeats = rng.normal(0, 0.1, size=(4000, 4))
    between, within = split_variance(rng.normal(0, 0.2, size=(4000, 1)) + repeats)
    assert (between, within) == (pytest.approx(0.04, rel=0.1), pytest.approx(0.01, rel=0.05))
    assert split_variance(np.array([[0.0, 1.0], [1.0, 0.0]])) == (0, 0.5)
    assert split_variance(np.array([[0.2, 0.2], [0.6, 0.6]])) == (pytest.approx(0.08), 0)


def test_row_of_stability():
    values = np.array([0.2, 0.4, 0.6, 0.9, math.nan])
    curves = np.array([[0.1, 0.3], [0.4, 0.4], [0.5, 0.7], [0.9, 0.9]])
    entry = describe_repeats(STABILITY, values, curves)["stability"]
    low, high = wilson_interval(2, 4)
    assert entry["unstable"] == {"share": 0.5, "low": low, "high": high}
    assert entry["variance"] == dict(zip(("images", "repeats"), split_variance(curves), strict=True)) | {"count": 2}
    assert describe_repeats({"metric": "stability-draws", "params": {"similarity": "spearman"}}, values, curves) == {}
    assert (
        describe_repeats({"metric": "ris", "params": {}, "average": "median"}, values, None)["median"]["median"] == 0.5
    )


def test_overlap_of_different_images(tmp_path):
    """Equal maps overlap completely, disjoint ones not at all, and random ones by a tenth; no image is compared with itself."""
    store = ArrayStore(tmp_path / "maps", "attribution")
    rng = np.random.default_rng(0)
    kinds = {
        "equal": [np.arange(100.0).reshape(1, 10, 10)] * 4,
        "disjoint": [np.roll(np.arange(100.0), 10 * k).reshape(1, 10, 10) for k in range(4)],
        "random": [rng.random((3, 40, 40)) for _ in range(40)],
    }
    overlaps = {}
    for label, maps in kinds.items():
        keys = [f"{label}-{k}.jpg" for k in range(len(maps))]
        for key, values in zip(keys, maps, strict=True):
            store.save(key, label, map_digest(METHOD), values, {})
        overlaps[label] = compare_images(tmp_path, METHOD, label, keys)
    assert (overlaps["equal"]["mean"], overlaps["equal"]["n"]) == (1, 4)
    assert overlaps["disjoint"]["mean"] == 0
    assert overlaps["random"]["mean"] == pytest.approx(0.1, abs=0.01)
    assert compare_images(tmp_path, METHOD, "equal", ["equal-0.jpg"]) is None


def test_evaluate_reports_medians_and_overlaps(xp):
    """``center`` has the same map for every image, ``random`` another one."""
    metrics = ("-M", "stability-draws:repeats=2", "-M", "stability-noise:repeats=2", "-M", "ris:samples=3")
    options = ("-a", "random", "-a", "center", "--save-maps", "--json", "-o", "run")
    ran = xp("evaluate", SAMPLES, *TINY, *metrics, *options)
    summary = ran.records[0]
    rows = {(row["metric"].split(":")[0], row["method"]): row for row in summary["rows"]}
    assert rows["stability-draws", "center"]["stability"]["between_images"]["mean"] == 1
    assert rows["stability-draws", "random"]["stability"]["between_images"]["mean"] == pytest.approx(0.1, abs=0.06)
    assert rows["stability-draws", "random"]["stability"]["between_images"]["n"] == 4
    assert rows["stability-draws", "random"]["stability"]["unstable"]["share"] == 1
    assert rows["stability-draws", "random"]["stability"]["variance"]["count"] == 2
    assert rows["stability-noise", "center"]["stability"]["unstable"]["share"] == 0
    median = rows["ris", "center"]["median"]
    assert (median["median"], median["n"]) == (0, 4)
    text = Path("run/summary.md").read_text()
    assert "ris:samples=3 of center: median 0 (95% CI 0 to 0), quartiles 0 and 0, n = 4." in text
    assert "compare medians of metrics with heavy tails rather than means." in text
    line = next(line for line in text.splitlines() if line.startswith("stability-draws:repeats=2 of center"))
    assert line == (
        "stability-draws:repeats=2 of center: below 0.5 for 0.0% of the images (0.0% to 49.0%); variance 0 between images and 0 "
        "between the 2 repeats of an image; maps of different images overlap by 1.0000 (n = 4)."
    )
    assert "maps of different images overlap by 1.0000 (n = 4)" in Path("run/report.html").read_text()
    assert json.loads(Path("run/summary.json").read_text())["rows"] == summary["rows"]
