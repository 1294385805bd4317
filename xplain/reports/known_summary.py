"""Summarize a run on known truth: the profile of each method, and the grade of each metric."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xplain.core.errors import InputError
from xplain.core.run_store import read_run
from xplain.reports.known_marks import method_mark, metric_mark
from xplain.reports.known_methods import MethodResults
from xplain.reports.known_metrics import GradeResults


def summarize_known(folder: Path, mechanisms: Mapping[str, str], images: int) -> dict[str, Any]:
    """Return the summary of a run directory. Ignores records of methods and metrics whose settings or definitions have changed.

    mechanisms: kinds of the mechanisms to summarize, by name. images: of each mechanism.
    Raises InputError if a record is invalid.
    """
    run, records = read_run(folder)
    marks = {method_mark(method) for method in run["methods"].values()}
    marks |= {metric_mark(metric) for metric in run["metrics"].values()}
    methods, grades = MethodResults(), GradeResults()
    seen = set()
    for record in records:
        name, _, index = record["key"].partition("/")
        if name not in mechanisms or record["mark"] not in marks or not index.isdecimal() or int(index) >= images:
            continue
        try:
            (methods if "method" in record else grades).add(record)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"the record of {record['key']!r} is invalid ({type(error).__name__}: {error})",
                "delete its line and run evaluate again",
            ) from None
        seen.add(record["key"])
    return {
        "run": run,
        "mechanisms": dict(mechanisms),
        "images": images,
        "items": len(seen),
        "methods": methods.summarize(_present(run["methods"], methods), mechanisms),
        "metrics": grades.summarize(run["metrics"]),
    }


def _present(described: Mapping[str, Any], results: MethodResults) -> dict[str, Any]:
    """Return the methods that have results."""
    return {label: method for label, method in described.items() if results.scores[label] or results.refused[label]}
