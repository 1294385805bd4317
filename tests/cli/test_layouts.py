"""``--layer`` and ``--layout`` of the commands that run methods."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import SAMPLES
from xplain.core.config import Choice
from xplain.core.errors import UsageError
from xplain.pipelines.benchmark_case import list_specs

CAT = SAMPLES / "cat.jpg"
TOKENS = ("-m", "python:tests.helpers.factories:scrambled", "--device", "cpu", "-a", "grad-cam")
OPTIONS = ("--layer", "norm", "--layout", "6x8")


def test_explain_refuses_unknown_order_and_takes_a_layout(xp):
    refused = xp("explain", CAT, *TOKENS, "-o", "auto")
    assert refused.code == 3
    assert "its 48 tokens follow no known order; choose another layer with --layer NAME" in refused.err
    ran = xp("explain", CAT, *TOKENS, *OPTIONS, "--save", "raw", "--json", "-o", "stated")
    assert ran.code == 0, ran.err
    (record,) = ran.records
    assert record["params"] == {"layer": "norm", "layout": "6x8"}
    assert np.load(record["files"]["raw"])["attribution"].shape == (1, 48, 64)


def test_explain_averages_layers_for_a_contrast(xp):
    """The record has both layers and the contrast classes; another command line of the same meaning has the same map."""
    model = ("-m", "python:tests.helpers.factories:tiny", "--device", "cpu", "--save", "raw", "--json")
    score = ("--score", "contrast:gamma=0.5,classes=2")
    first = xp("explain", CAT, *model, "-a", "grad-cam", "--layer", "conv1,conv2", *score, "-o", "first")
    assert first.code == 0, first.err
    (record,) = first.records
    assert (record["params"], record["score"]) == ({"layer": "conv1,conv2"}, "contrast:gamma=0.5,classes=2")
    assert record["details"] == {"layer": "conv1+conv2"}
    assert len({entry["index"] for entry in (record["target"], *record["against"])}) == 3
    method = "grad-cam:layer=conv1+conv2,score=contrast:classes=2+gamma=0.5"
    (other,) = xp("explain", CAT, *model, "-a", method, "-o", "second").records
    assert other["against"] == record["against"]
    maps = [np.load(entry["files"]["raw"])["attribution"] for entry in (record, other)]
    assert np.array_equal(*maps)


def test_layout_must_fit_the_layer(xp):
    ran = xp("explain", CAT, *TOKENS, "--layer", "norm", "--layout", "6x8+1")
    assert ran.code == 2
    assert "the output (1, 48, 12) of layer 'norm' does not have the layout 6x8+1" in ran.err


def test_layout_must_be_readable(xp):
    ran = xp("explain", CAT, *TOKENS, "--layout", "six")
    assert ran.code == 2
    assert "HxW or HxW+PREFIX such as 14x14+1" in ran.err
    assert "--layout 6x8 is not supported by saliency" in xp("explain", CAT, "-a", "saliency", "--layout", "6x8").err


def test_evaluate_takes_layer_and_layout(xp, tmp_path):
    ran = xp("evaluate", CAT.parent, *TOKENS, *OPTIONS, "-M", "deletion:steps=2", "--limit", "1", "-o", "run")
    assert ran.code == 0, ran.err
    methods = json.loads((tmp_path / "run" / "run.json").read_text())["methods"]
    assert methods["grad-cam"]["params"] == {"layer": "norm", "layout": "6x8"}
    assert methods["random"]["params"] == {}


def test_compare_takes_layer_and_layout(xp):
    ran = xp("compare", CAT, "--no-metrics", "-o", "figures", *TOKENS, *OPTIONS)
    assert ran.code == 0, ran.err
    refused = xp("compare", CAT, "--no-metrics", "-o", "refused", *TOKENS)
    assert "its 48 tokens follow no known order" in refused.err


def test_bench_takes_layer_and_layout(monkeypatch, xp):
    given = []
    monkeypatch.setattr("xplain.pipelines.benchmark.bench", lambda config, *_: given.append(config) or [])
    assert xp("bench", *TOKENS, *OPTIONS).code == 0
    ((choice, spec),) = list_specs(given[0])
    assert (choice, spec.name) == (Choice("grad-cam", (("layer", "norm"), ("layout", "6x8"))), "grad-cam")
    with pytest.raises(UsageError, match="--layer norm is not supported by saliency"):
        list(list_specs(replace(given[0], methods=(Choice("saliency"),))))
