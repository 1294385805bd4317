"""From the records of a run to what is printed: summary, Markdown, CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from xplain.files import write_file, write_json
from xplain.page import make_page
from xplain.statistics import Floats, estimate, paired_difference
from xplain.store import read_run

COLUMNS = (
    "method",
    "metric",
    "mean",
    "std",
    "low",
    "high",
    "n",
    "undefined",
    "difference",
    "difference_low",
    "difference_high",
)


def summarise(description: Mapping[str, Any], records: Sequence[Mapping[str, Any]], failed: int) -> dict[str, Any]:
    """Means with intervals for every method and metric, paired differences to the first method, and the model's top-1.

    A value is undefined where its record says why; undefined values are counted by reason and stay out of the means.
    """
    items = [record for record in records if record["mark"] == "item"]
    labelled = [record for record in items if record["label"] is not None]
    rows = []
    first = next(iter(description["methods"]))
    for metric in description["metrics"]:
        reference = _values(records, first, metric)
        for method in description["methods"]:
            rows.append(_row(records, method, metric, {} if method == first else reference))
    return {
        "schema": description["schema"],
        "run": {key: value for key, value in description.items() if key != "schema"},
        "items": {"evaluated": len(items), "failed": failed, "of": description["dataset"]["items"]},
        "top1": _share([record["label"] == record["predicted"] for record in labelled]),
        "rows": rows,
    }


def _values(records: Sequence[Mapping[str, Any]], method: str, metric: str) -> dict[str, float]:
    """Value by item, NaN where undefined."""
    return {
        record["key"]: math.nan if record["value"] is None else record["value"]
        for record in records
        if record.get("method") == method and record.get("metric") == metric
    }


def _row(
    records: Sequence[Mapping[str, Any]], method: str, metric: str, reference: Mapping[str, float]
) -> dict[str, Any]:
    found = _values(records, method, metric)
    mine = [record for record in records if record.get("method") == method and record.get("metric") == metric]
    curves = [record["curve"] for record in mine if record["curve"] is not None]
    both = [key for key in found if key in reference]
    difference = paired_difference(_array(found, both), _array(reference, both)) if both else None
    return {
        "method": method,
        "metric": metric,
        **_finite(asdict(estimate(_array(found, list(found))))),
        "undefined": dict(Counter(record["undefined"] for record in mine if record["undefined"])),
        "difference": None if difference is None else _finite(asdict(difference)),
        "curve": np.mean(curves, axis=0).round(6).tolist() if curves else None,
        "seconds": float(np.mean([record["cost"]["seconds"] for record in mine])) if mine else None,
    }


def _array(values: Mapping[str, float], keys: Sequence[str]) -> Floats:
    return np.array([values[key] for key in keys], dtype=np.float64)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """NaN as None, which JSON can hold."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }


def _share(right: Sequence[bool]) -> float | None:
    return sum(right) / len(right) if right else None


def flat_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The summary's rows with the columns of COLUMNS."""
    rows = []
    for row in summary["rows"]:
        difference = row["difference"] or {"mean": None, "low": None, "high": None}
        extra = {
            "undefined": sum(row["undefined"].values()),
            "difference": difference["mean"],
            "difference_low": difference["low"],
            "difference_high": difference["high"],
        }
        rows.append({key: {**row, **extra}[key] for key in COLUMNS})
    return rows


def to_csv(summary: Mapping[str, Any]) -> str:
    """Comma-separated rows under a header; empty where there is no number."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat_rows(summary))
    return stream.getvalue()


def to_markdown(summary: Mapping[str, Any]) -> str:
    """A table with intervals, and what was evaluated."""
    run, items = summary["run"], summary["items"]
    first = next(iter(run["methods"]))
    lines = [
        f"{items['evaluated']} images of {run['dataset']['location']}, {run['fingerprint']['model']['name']}, "
        + f"protocol {run['protocol'] or 'xplain'}, target {run['fingerprint']['target']}"
        + ("" if summary["top1"] is None else f"; the model's top-1 here is {summary['top1']:.3f}")
        + (f"; {items['failed']} failed" if items["failed"] else ""),
        "",
        f"| metric | method | mean | 95 % interval | n | undefined | difference to {first} |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in summary["rows"]:
        arrow = "↑" if run["metrics"][row["metric"]]["better"] == "higher" else "↓"
        undefined = ", ".join(f"{count} {reason}" for reason, count in row["undefined"].items()) or "0"
        lines.append(
            f"| {row['metric']} {arrow} | {row['method']} | {_number(row['mean'])} | {_interval(row)} | {row['n']} | {undefined} "
            f"| {_with_interval(row['difference'])} |"
        )
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _interval(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"


def _with_interval(difference: Mapping[str, Any] | None) -> str:
    if difference is None or difference["mean"] is None:
        return ""
    return (
        f"{difference['mean']:+.4f} ({_interval(difference)})"
        if difference["low"] is not None
        else f"{difference['mean']:+.4f}"
    )


def summarise_run(folder: Path, failed: int) -> dict[str, Any]:
    """The summary of all records in a run directory."""
    return summarise(*read_run(folder), failed)


def write_report(folder: Path, summary: Mapping[str, Any]) -> None:
    """``summary.json``, ``summary.csv``, ``summary.md`` and ``report.html``, by rename."""
    provenance = json.dumps(
        {key: value for key, value in summary["run"].items() if key != "metrics"}, indent=1, ensure_ascii=False
    )
    page = make_page(summary, sorted(folder.joinpath("gallery").glob("*.png")), provenance)
    write_file(folder / "report.html", page.encode())
    write_json(folder / "summary.json", summary)
    write_file(folder / "summary.csv", to_csv(summary).encode())
    write_file(folder / "summary.md", to_markdown(summary).encode())
