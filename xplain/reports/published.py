"""A paper's figures, read from the [published] table of a configuration file and put beside a run's own.

They change no number: a run with and without them has the same fingerprint, and they are not kept in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xplain.core.config import PUBLISHED, Choice, read_toml
from xplain.core.errors import UsageError, did_you_mean
from xplain.core.protocols import choose_metrics
from xplain.core.registry import METHODS, METRICS, Spec

KEYS = ("source", "figures", "unknown", "notes")
PARTS = ("model", "method", "metric", "value")
Key = tuple[str, str, str]  # model; method and metric, each with all its parameters


@dataclass(frozen=True)
class Figure:
    """One number of a table. model: as the table's run names it, or in words where it cannot be run."""

    model: str
    method: Choice
    metric: Choice
    value: float


@dataclass(frozen=True)
class Published:
    """name: the file's. protocol: under which the metrics are to be read. unknown: settings that the paper leaves open.

    notes: where the run departs from the paper or its program, and what else its reader should know.
    """

    name: str
    source: str
    figures: tuple[Figure, ...]
    protocol: str | None = None
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def models(self) -> list[str]:
        """Each model once, in the table's order."""
        return list(dict.fromkeys(figure.model for figure in self.figures))


def read_published(path: Path | None) -> Published | None:
    """The [published] table of a configuration file, None where there is none. Raises UsageError, InputError."""
    content = read_toml(path) if path is not None else {}
    table = content.get(PUBLISHED)
    if table is None:
        return None
    where = f"[{PUBLISHED}] in {path}"
    _check_keys(table, KEYS, ("source", "figures"), where)
    if not isinstance(table["source"], str):
        raise UsageError(f"source in {where} is not a text", "name the paper and the table")
    for key in ("unknown", "notes"):
        if not _is_list_of(table.get(key, []), str):
            raise UsageError(f"{key} in {where} is not a list of texts", f'write {key} = ["..."]')
    if not _is_list_of(table["figures"], Mapping):
        raise UsageError(f"figures in {where} is not a list of tables", "write figures = [{model = ..., value = ...}]")
    figures = tuple(_read_figure(each, where) for each in table["figures"])
    protocol = {**content, **content.get("evaluate", {})}.get("protocol")
    name = path.stem if path is not None else ""
    return Published(name, table["source"], figures, protocol, *(tuple(table.get(k, ())) for k in ("unknown", "notes")))


def _read_figure(table: Mapping[str, Any], where: str) -> Figure:
    _check_keys(table, PARTS, PARTS, f"a figure of {where}")
    model, method, metric, value = (table[part] for part in PARTS)
    if not _is_list_of([model, method, metric], str):
        raise UsageError(f"model, method and metric of a figure of {where} are not all texts", "write them in quotes")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"value {value!r} of a figure of {where} is not a number", "write it as the paper prints it")
    return Figure(model, Choice.parse(method), Choice.parse(metric), float(value))


def _check_keys(table: Any, known: Sequence[str], needed: Sequence[str], where: str) -> None:
    if not isinstance(table, Mapping):
        raise UsageError(f"{where} is not a table", f"give it {', '.join(needed)}")
    for key in table:
        if key not in known:
            raise UsageError(f"unknown key {key!r} in {where}", did_you_mean(key, known, f"it has {', '.join(known)}"))
    if missing := [key for key in needed if key not in table]:
        raise UsageError(f"{where} has no {missing[0]}", f"give it {', '.join(needed)}")


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(each, kind) for each in value)


def find_figures(published: Published) -> dict[Key, float]:
    """Value by model, method and metric. Raises UsageError for a method, metric or parameter that there is not."""
    found: dict[Key, float] = {}
    for figure in published.figures:
        method, (metric,) = figure.method, choose_metrics(published.protocol, (figure.metric,))
        key = (figure.model, _of_choice(METHODS.get(method.name), method), _of_choice(METRICS.get(metric.name), metric))
        if key in found:
            raise UsageError(f"{published.name} has two figures for {' '.join(key)}", "give each once")
        found[key] = figure.value
    return found


def put_beside(summary: Mapping[str, Any], published: Published) -> dict[str, Any]:
    """The summary with ``published`` in every row (None where the paper has no figure), and what is known of the table."""
    run, figures = summary["run"], find_figures(published)
    model = _model_of(summary)

    def value(row: Mapping[str, Any]) -> float | None:
        method, metric = run["methods"][row["method"]], run["metrics"][row["metric"]]
        key = (model, _key(method["method"], method["params"]), _key(metric["metric"], metric["params"]))
        return figures.get(key)

    about = {
        "table": published.name,
        "source": published.source,
        "models": published.models,
        "unknown": list(published.unknown),
        "notes": list(published.notes),
    }
    return {**summary, "published": about, "rows": [{**row, "published": value(row)} for row in summary["rows"]]}


def published_number(value: float | None) -> str:
    """A paper's figure, not rounded; a dash where it has none."""
    return "-" if value is None else f"{value:.4f}" if value == round(value, 4) else f"{value:g}"


def about_published(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """Texts by heading: where the figures beside a run come from, what the paper leaves open, and what else to know."""
    if "published" not in summary:
        return {}
    about, model = summary["published"], _model_of(summary)
    models = f"its models: {', '.join(about['models'])}"
    other = "" if model in about["models"] else f"; {model} is none of them, so there is no figure to compare with"
    found = {
        "Published": [about["source"], models + other],
        "Not in the paper": about["unknown"],
        "Notes": about["notes"],
    }
    return {title: texts for title, texts in found.items() if texts}


def _model_of(summary: Mapping[str, Any]) -> str:
    """The name of the model explained; empty in a run that only trains networks of its own."""
    model = summary["run"]["fingerprint"]["model"]
    return model["name"] if model else ""


def _of_choice(spec: Spec, choice: Choice) -> str:
    return _key(spec.name, spec.resolve(dict(choice.params)))


def _key(name: str, settings: Mapping[str, Any]) -> str:
    """The same text for the same name and parameters, however they were written."""
    return f"{name} {json.dumps(settings, sort_keys=True)}"
