"""Tests of xplain.reports.sweeps and sweep_plot."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from xplain.reports.sweep_plot import draw_metric_sweeps
from xplain.reports.sweeps import MethodMean, find_sweeps, name_sweep_file


def mean(label, value=0.5, group="", name=None):
    low, high = (None, None) if value is None else (value - 0.1, value + 0.1)
    return MethodMean(label, name or label, group, {"mean": value, "low": low, "high": high, "n": 3})


def describe(*labels):
    return [sweep.describe() for sweep in find_sweeps([mean(label) for label in labels])]


def test_methods_that_differ_in_one_value_form_a_sweep_in_order_of_the_numbers():
    labels = ["n:radius=0.2", "n:radius=1e-2", "random", "n", "n:radius=0.1,steps=2", "other:radius=3"]
    curve = {"fixed": "", "values": ["1e-2", "0.2"], "methods": ["n:radius=1e-2", "n:radius=0.2"]}
    assert describe(*labels) == [{"method": "n", "parameter": "radius", "curves": [curve]}]


def test_grid_has_a_curve_per_value_of_the_other_parameter():
    sweeps = describe("n:r=1,s=a", "n:r=1,s=b", "n:r=2,s=a", "n:s=b,r=2", "n:r=3,s=b")
    assert [(sweep["parameter"], [curve["fixed"] for curve in sweep["curves"]]) for sweep in sweeps] == [
        ("r", ["s=a", "s=b"]),
        ("s", ["r=1", "r=2"]),
    ]
    assert sweeps[0]["curves"][1]["methods"] == ["n:r=1,s=b", "n:s=b,r=2", "n:r=3,s=b"]


def test_values_that_are_not_numbers_keep_the_order_of_the_methods():
    (sweep,) = describe("n:v=sign", "n:v=9", "n:v=lemma")
    assert sweep["curves"][0]["values"] == ["sign", "9", "lemma"]


def test_methods_of_different_groups_are_not_joined():
    means = [mean("n:r=1", group="a"), mean("n:r=2", group="b"), mean("n:r=2", group="a", name="n:r=2 @ a")]
    (sweep,) = find_sweeps(means)
    (curve,) = sweep.curves
    assert (curve.fixed, [entry.name for entry in curve.means]) == ("a", ["n:r=1", "n:r=2 @ a"])
    assert find_sweeps(means[:2]) == []


@pytest.mark.parametrize("label", ["a:b", "a:=1", ":", "", "a:b=1,b=2"])
def test_labels_that_are_no_methods_are_ignored(label):
    assert describe(label, "n:r=1") == []


def test_names_of_plots_are_safe_and_distinct():
    assert name_sweep_file("deletion") == "sweep.deletion"
    assert name_sweep_file("deletion:steps=14") == "sweep.deletion_steps=14"
    names = {name_sweep_file(f"p:boxes={path}") for path in ("a/b.csv", "a_b.csv", "é" * 200)}
    assert len(names) == 3
    assert all("/" not in name and len(name) < 110 for name in names)


def colored_columns(png, color):
    """Return the columns of a PNG with pixels of a color."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    return np.flatnonzero((np.abs(pixels - color).sum(axis=2) < 12).any(axis=0))


def test_plot_spreads_large_ranges_and_shows_the_control():
    description = {"better": "higher"}
    means = [mean("n:r=0.001", 0.2), mean("n:r=1", 0.4), mean("n:r=0.03", None), mean("$_n:r=2"), mean("random", 0.3)]
    (name, png), *others = draw_metric_sweeps({"m": description, "k": description}, {"m": means}, ("png",)).items()
    assert (name, others) == ("sweep.m.png", [])
    blue = colored_columns(png, (0x00, 0x72, 0xB2))
    gray = colored_columns(png, (0x77, 0x77, 0x77))
    assert blue.min() > gray.min()
    assert len(gray) > 100


def test_plot_of_a_grid_names_curves_and_values():
    means = [mean(f"n:r={r},s={s}", 0.2 + r) for r in (1, 2) for s in (1, 50)]
    files = draw_metric_sweeps({"m": {"better": "lower"}}, {"m": means}, ("png", "svg"))
    assert set(files) == {"sweep.m.png", "sweep.m.svg"}
    text = files["sweep.m.svg"].decode()
    assert text.count("<!-- s=50 -->") == 1
    assert text.count("<!-- 50 -->") == 1  # the tick
