"""The result of ``xplain.evaluate``: a summary, and the values of every image."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from xplain.core.errors import Failure, UsageError
from xplain.reports.evaluation_report import evaluation_table, format_control_difference, interval_name
from xplain.reports.tables import format_interval, format_number, with_arrow

if TYPE_CHECKING:
    import pandas

ITEM_COLUMNS = ("label", "predicted", "probability")


class Evaluation:
    """The values of methods and metrics for every image. ``print`` shows a table, as does a notebook.

    failures: images that could not be evaluated, and their errors.
    """

    def __init__(
        self, summary: Mapping[str, Any], records: Iterable[Mapping[str, Any]], failures: Sequence[Failure]
    ) -> None:
        self._summary = dict(summary)
        self._rows = _make_rows(summary, records)
        self.failures = list(failures)

    def summary(self) -> dict[str, Any]:
        """Return the content of ``summary.json`` of a run: means with intervals, paired differences, accuracy, settings and versions.

        ``rows`` has an entry per method and metric. Its ``control`` is the paired difference to the control ``random``, and its ``verdict``
        is ``better`` or ``worse`` than the control if the interval of that difference does not contain zero, else ``not better``.
        """
        return copy.deepcopy(self._summary)

    @property
    def methods(self) -> list[str]:
        """The labels of the methods."""
        return list(self._summary["run"]["methods"])

    @property
    def metrics(self) -> list[str]:
        """The labels of the metrics."""
        return list(self._summary["run"]["metrics"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One entry per image, method and metric: image, method, metric, value, undefined, target, label, predicted, probability.

        value: None if it is undefined, with the reason in ``undefined``. target, label, predicted: class indices.
        """
        return [dict(row) for row in self._rows]

    def mean(self, method: str, metric: str) -> float | None:
        """Return the mean over the images with a defined value; None if there is none. Raises KeyError for an unknown pair."""
        for row in self._summary["rows"]:
            if (row["method"], row["metric"]) == (method, metric):
                mean: float | None = row["mean"]
                return mean
        raise KeyError((method, metric))

    def to_pandas(self) -> pandas.DataFrame:
        """Return ``rows`` as a table of pandas. Undefined values are NaN. Raises UsageError if pandas is not installed."""
        try:
            import pandas as pd
        except ImportError:
            raise UsageError("to_pandas requires pandas", "run: pip install pandas") from None
        columns = ["image", "method", "metric", "value", "undefined", "target", *ITEM_COLUMNS]
        frame = pd.DataFrame(self._rows, columns=columns)
        return frame.astype({"value": "float64", "target": "Int64", "label": "Int64", "predicted": "Int64"})

    def __str__(self) -> str:
        return evaluation_table(self._summary)

    def __repr__(self) -> str:
        items = self._summary["items"]
        failed = f", {items['failed']} failed" if items["failed"] else ""
        lines = [f"Evaluation({items['evaluated']} images{failed})"]
        for row in self._summary["rows"]:
            lines.append(f"  {row['metric']}  {row['method']}  {format_number(row['mean'])} ({format_interval(row)})")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        metrics = self._summary["run"]["metrics"]
        names = ("metric", "method", "mean", interval_name(self._summary), "n", "minus random")
        head = "".join(f"<th>{escape(text)}</th>" for text in names)
        body = []
        for row in self._summary["rows"]:
            cells = [with_arrow(row["metric"], metrics[row["metric"]]), row["method"], format_number(row["mean"])]
            cells += [format_interval(row), str(row["n"]), format_control_difference(row)]
            body.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _make_rows(summary: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the values of the images in the order of their names, methods and metrics."""
    items: dict[str, Mapping[str, Any]] = {}
    values: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for record in records:
        if record["mark"] == "item":
            items[record["key"]] = record
        elif "metric" in record:
            values[record["key"], record["method"], record["metric"]] = record
    run = summary["run"]
    rows = []
    for key in sorted(items):
        described = {name: items[key].get(name) for name in ITEM_COLUMNS}
        for method in run["methods"]:
            for metric in run["metrics"]:
                value = values.get((key, method, metric))
                if value is not None:
                    shown = {name: value[name] for name in ("method", "metric", "value", "undefined", "target")}
                    rows.append({"image": key, **shown, **described})
    return rows
