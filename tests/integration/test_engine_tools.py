"""The tools that measure the error of bf16 and the break-even rows of OpenVINO, on small values and a small network."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch

import xplain
from tests.helpers.engines import needs_openvino
from tests.oracle.helpers import SmallNetwork
from tests.tools import bf16_error, engine_break_even
from tests.tools.bf16_error import compare_values, count_kept_orders, read_values
from tests.tools.engine_break_even import find_break_even
from xplain.oracle import engine_choice
from xplain.reports.statistics import paired_difference

EXACT = {
    ("insertion", "saliency"): {"a": 0.5, "b": 0.25, "c": 0.75},
    ("insertion", "random"): {"a": 0.25, "b": 0.5, "c": 0.75},
    ("road", "saliency"): {"a": 0.5, "b": np.nan, "c": 0.25},
}
ROUGH = {
    ("insertion", "saliency"): {"c": 0.75, "b": 0.25, "a": 0.5625},
    ("insertion", "random"): {"a": 0.25, "b": 0.1875, "c": 0.75},
    ("road", "saliency"): {"a": 0.25, "b": np.nan, "c": 0.25},
}


def test_differences_are_paired_by_image():
    rows = {(metric, method): cells for metric, method, *cells in compare_values(EXACT, ROUGH)}
    assert list(rows) == [
        ("insertion", "all"),
        ("insertion", "saliency"),
        ("insertion", "random"),
        ("road", "all"),
        ("road", "saliency"),
    ]
    pooled = paired_difference(np.array([0.40625, 0.21875, 0.75]), np.array([0.375, 0.375, 0.75]))
    interval = f"{pooled.low:+.4f} to {pooled.high:+.4f}"
    assert rows["insertion", "all"] == ["3", "0.5000", "0.4583", "-0.0417", interval, "0.3125"]
    assert rows["insertion", "saliency"][:4] == ["3", "0.5000", "0.5208", "+0.0208"]
    assert rows["insertion", "random"][-1] == "0.3125"
    assert rows["road", "saliency"][:4] == ["2", "0.3750", "0.2500", "-0.1250"]  # b is undefined


def test_orders_without_ties_are_counted():
    assert count_kept_orders(EXACT, ROUGH) == (1, 2)  # a stays, b turns round, c is tied


@pytest.mark.parametrize(("slow", "fast", "rows"), [(10.0, 20.0, 100.0), (20.0, 20.0, np.inf), (20.0, 10.0, np.inf)])
def test_break_even(slow, fast, rows):
    assert find_break_even(5.0, slow, fast) == pytest.approx(rows)


def test_runs_in_both_precisions_are_compared(xp, photos, monkeypatch, tmp_path, capsys):
    def run(command, **_):
        assert xp(*command[3:]).code == 0

    monkeypatch.setattr(bf16_error.subprocess, "run", run)
    monkeypatch.setattr(bf16_error, "MODEL", ("-m", "python:tests.helpers.factories:single"))
    output = tmp_path / "out"
    arguments = [
        str(photos),
        "-o",
        str(output),
        "--images",
        "2",
        "--engine",
        "torch",
        "--methods",
        "saliency",
        "random",
    ]
    bf16_error.main([*arguments, "--metrics", "deletion:steps=4"])
    exact, rough = (read_values(output / precision) for precision in ("fp32", "bf16"))
    assert set(exact) == set(rough) == {("deletion:steps=4", "saliency"), ("deletion:steps=4", "random")}
    differences = [abs(exact[key][image] - rough[key][image]) for key in exact for image in exact[key]]
    assert len(differences) == 4
    assert 0 < max(differences) < 0.1
    assert f"{max(differences):.4f}" in capsys.readouterr().out


@needs_openvino
def test_start_and_rates_of_the_engine_are_measured(monkeypatch, capsys):
    torch.manual_seed(0)
    classifier = xplain.load_classifier(SmallNetwork().eval(), device="cpu")
    options = argparse.Namespace(precision="fp32", rows=2, rounds=2, seconds=0.0)
    row = dict(
        zip(engine_break_even.COLUMNS, engine_break_even.measure(classifier, options, gradients=True), strict=True)
    )
    assert row["passes"] == "gradients"
    conversion, compilation, start = (float(row[name]) for name in ("conversion s", "compilation s", "start s"))
    assert 0 < conversion + compilation <= start + 0.1
    assert float(row["start s, stored"]) <= start
    assert float(row["PyTorch rows/s"].split()[0]) > 0
    assert row["auto uses"] == str(engine_choice.GRADIENT_ROWS)
