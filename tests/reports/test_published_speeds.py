"""A paper's speeds next to those of a benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import xplain.pipelines.catalog  # noqa: F401  (registers methods and metrics)
from xplain.core.config import Choice
from xplain.core.errors import UsageError
from xplain.core.options import ModelOptions
from xplain.core.registry import METHODS
from xplain.reports.benchmark_report import benchmark_table
from xplain.reports.paper_settings import PaperSettings
from xplain.reports.published import Published, PublishedValue
from xplain.reports.published_speeds import PublishedSpeeds, add_published_speeds

SPEED = Choice("images/s")
VALUES = {"saliency": 90.0, "smoothgrad:samples=5": 20.0, "ig": 10.0, "agi": 0.5}
RATE = {"median": 2.0, "low": 1.0, "high": 3.0}
ENVIRONMENT = {
    "kind": "environment", "gpu": None, "cpu": "chip", "cores": 2, "threads": 1, "precision": "fp32", "repeats": 3
}  # fmt: skip
CEILING = {
    "kind": "ceiling", "model": {"name": "net", "weights": {"source": "random"}}, "size": [32, 32],
    "prepared": {}, "plain": {},
}  # fmt: skip


def make_table(values=VALUES, metric=SPEED) -> Published:
    entries = tuple(PublishedValue("net", Choice.parse(method), metric, value) for method, value in values.items())
    settings = PaperSettings(models=("net", "other"), hardware="RTX 3090")
    return Published("mfaba-3", "A paper, Table 3", entries, settings=settings, notes=("one note",), file="t.toml")


def make_run(method: str, seconds: list[float], images: int = 8, program: str = "xplain") -> dict:
    choice = Choice.parse(method)
    spec = METHODS.get(choice.name)
    empty = (
        "gradient_rows_per_second",
        "forward_rows_per_second",
        "efficiency",
        "forwards",
        "backwards",
        "rows_a_call",
    )
    return {
        "kind": "run", "model": "net", "method": spec.name, "label": method, "images": images, "program": program,
        "params": spec.resolve(dict(choice.params)), "rows_asked": None, "images_per_second": RATE, "seconds": seconds,
        "peak_memory_mib": None, "xplain_is_faster_by": None, "error": None, **dict.fromkeys(empty),
    }  # fmt: skip


RUNS = [
    make_run("saliency", [0.1, 0.2], 1),
    make_run("saliency", [0.1, 0.2, 0.1]),
    make_run("saliency", [0.1, 0.2, 0.1], program="captum"),
    make_run("smoothgrad:samples=5", [2.0, 2.5, 2.0]),
    make_run("integrated-gradients:steps=50", [1.0, 3.0, 1.0]),
    make_run("agi", [9.0, 9.5, 9.1]),
]
SPEEDS = PublishedSpeeds.of(make_table(), ModelOptions(weights=Path("random")), 8)


def test_only_own_runs_on_all_images_have_published_speeds():
    records = add_published_speeds([ENVIRONMENT, CEILING, *RUNS], SPEEDS)
    assert [record.get("published") for record in records[2:-1]] == [None, 90.0, None, 20.0, 10.0, 0.5]
    assert "published" not in records[0]
    assert add_published_speeds(RUNS, None) == RUNS


def test_table_record():
    """Over the rounds, smoothgrad and ig exchange places: τ is 2/3 in rounds 1 and 3, and 1 in round 2."""
    table = SPEEDS.describe([ENVIRONMENT, CEILING, *RUNS])
    assert (table["kind"], table["source"], table["models"]) == ("published", "A paper, Table 3", ["net"])
    assert table["differences"] == {"net": ["weights untrained (table: trained)", "hardware chip (table: RTX 3090)"]}
    (order,) = table["order"]
    assert order["tau"] == pytest.approx(2 / 3)
    assert (order["metric"], order["methods"], order["n"]) == ("net, images/s", 4, 3)
    assert [order["low"], order["high"]] == pytest.approx([2 / 3, 1.0])
    assert json.loads(json.dumps(table)) == table
    assert SPEEDS.describe([ENVIRONMENT, CEILING, *RUNS[:4]])["order"] == []


def test_report_shows_speeds_and_notes():
    records = add_published_speeds([ENVIRONMENT, CEILING, *RUNS], SPEEDS)
    text = benchmark_table(records)
    lines = text.splitlines()
    assert "| method | images | implementation | images/s | published images/s | gradient rows/s |" in text
    assert "| smoothgrad:samples=5 | 8 | xplain | 2 (1 to 3) | 20.0000 |" in text
    assert (
        "**Warning:** net: this run differs from the published table in weights untrained (table: trained); "
        "hardware chip (table: RTX 3090)."
    ) in lines
    assert (
        lines[lines.index("Published values:") - 2] == "- net, images/s: τ = 0.67 (0.67 to 1.00), methods: 4, rounds: 3"
    )
    assert lines[-6:] == [
        "Published values:", "- A paper, Table 3", "- models in the table: net", "", "Notes:", "- one note"
    ]  # fmt: skip
    assert "published" not in benchmark_table([ENVIRONMENT, CEILING, *RUNS])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            make_table(metric=Choice("deletion")),
            "a figure of [published] in t.toml is of deletion, which bench does not measure; use it with xplain evaluate",
        ),
        (make_table({"agii": 1.0}), "a figure of [published] in t.toml: unknown method 'agii'; did you mean 'agi'?"),
        (make_table({"ig": 1.0, "ig:steps=50": 2.0}), "mfaba-3 has two values for net integrated-gradients"),
    ],
)  # fmt: skip
def test_invalid_tables_are_refused(table, message):
    with pytest.raises(UsageError) as caught:
        PublishedSpeeds.of(table, ModelOptions(), 8)
    assert str(caught.value).startswith(message)
