"""Sweeps of a parameter on the command line: names, records, plots of runs and of compared runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_compare_runs import DELETION, scores, write_run
from tests.conftest import SAMPLES, TINY

CAT = SAMPLES / "cat.jpg"


def test_explain_writes_a_file_per_value(xp):
    ran = xp("explain", CAT, *TINY, "-a", "neflag:radius=0.05|0.1,samples=2", "--json")
    assert ran.code == 0
    assert [record["params"]["radius"] for record in ran.records] == [0.05, 0.1]
    assert sorted(path.name for path in Path("xplain-out").iterdir()) == [
        "cat.neflag_radius=0.05,samples=2.overlay.png",
        "cat.neflag_radius=0.1,samples=2.overlay.png",
    ]


def test_evaluate_plots_the_metric_against_the_parameter(xp, photos):
    arguments = ("evaluate", photos, *TINY, "-M", "deletion:steps=3", "-o", "run")
    ran = xp(*arguments, "-a", "ig:steps=2|4|8", "--json")
    assert ran.code == 0
    (summary,) = ran.records
    labels = [f"integrated-gradients:steps={steps}" for steps in (2, 4, 8)]
    assert [row["method"] for row in summary["rows"]] == [*labels, "random"]
    curve = {"fixed": "", "values": ["2", "4", "8"], "methods": labels}
    sweep = {"method": "integrated-gradients", "parameter": "steps", "curves": [curve]}
    file = "sweep.deletion_steps=3.png"
    assert summary["sweeps"] == [{"metric": "deletion:steps=3", "file": file, "sweeps": [sweep]}]
    assert Path("run", file).read_bytes().startswith(b"\x89PNG")
    assert f'<a href="{file}"><img' in Path("run/report.html").read_text()
    assert f"Plots of the means against a parameter: {file}\n" in Path("run/summary.md").read_text()
    assert xp(*arguments, "-a", "ig:steps=2", "-a", "ig:steps=4", "-a", "ig:steps=8", "--json").records == [summary]


def test_compared_runs_share_the_curve_of_a_parameter(xp):
    metrics = {"deletion": DELETION}
    write_run("a", {("n:r=0.1", "deletion"): scores(1)}, metrics)
    write_run("b", {("n:r=0.2", "deletion"): scores(2)}, metrics)
    write_run("other", {("n:r=0.2", "deletion"): scores(2)}, metrics, model="net2")
    ran = xp("compare", "a", "b", "--save", "pdf", "-o", "out", "--json")
    assert ran.code == 0
    (record,) = ran.records
    (entry,) = record["sweeps"]
    (sweep,) = entry["sweeps"]
    assert sweep["curves"] == [{"fixed": "", "values": ["0.1", "0.2"], "methods": ["n:r=0.1", "n:r=0.2"]}]
    names = {path.name for path in Path("out").iterdir()}
    assert names == {Path(name).name for name in record["files"]}
    assert {"sweep.deletion.png", "sweep.deletion.pdf"} <= names
    assert '<a href="sweep.deletion.png"><img' in Path("out/compare.html").read_text()
    assert json.loads(Path("out/compare.json").read_text()) == record
    assert "sweeps" not in xp("compare", "a", "other", "-o", "out2", "--json").records[0]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("ig:steps=2|no", "integrated-gradients: invalid value steps=no; use an integer >= 1 or auto"),
        ("ig:steps=2|", "a value is missing in '2|' of 'ig:steps=2|'; use key=value|value"),
        ("ig:steps=2|2", "method 'integrated-gradients:steps=2' is specified more than once; remove the duplicate"),
    ],
)
def test_invalid_sweeps_are_refused(xp, method, message):
    ran = xp("explain", CAT, *TINY, "-a", method)
    assert (ran.code, ran.err) == (2, f"xplain: error: {message}\n")


def test_error_names_the_file_of_a_swept_value(xp):
    Path("c.toml").write_text('method = "ig:steps=2|no"')
    ran = xp("explain", CAT, *TINY, "--config", "c.toml")
    assert ran.err.startswith("xplain: error: method in c.toml: integrated-gradients: invalid value steps=no; use")


def test_attribute_refuses_a_sweep():
    import torch

    import xplain
    from tests.helpers.factories import tiny
    from xplain.core.errors import UsageError

    classifier = xplain.load_classifier(tiny())
    with pytest.raises(UsageError) as error:
        xplain.attribute(classifier, torch.rand(1, 3, 32, 32), "ig:steps=2|4")
    assert str(error.value) == "'ig:steps=2|4' stands for 2 methods; pass one of the texts of xplain.parse_methods"
