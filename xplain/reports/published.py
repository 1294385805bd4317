"""A paper's values, read from the [published] table of a configuration file and shown next to a run's results.

They change no result: they are not in the fingerprint, and the run directory does not store them.
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

TABLE_KEYS = ("source", "figures", "unknown", "notes")
REQUIRED_KEYS = ("source", "figures")
FIGURE_KEYS = ("model", "method", "metric", "value")
Key = tuple[str, str, str]  # model, and method and metric with all their parameters


@dataclass(frozen=True)
class PublishedValue:
    """One number of a paper's table. model: a model's name, or a description if xplain cannot run it."""

    model: str
    method: Choice
    metric: Choice
    value: float


@dataclass(frozen=True)
class Published:
    """A paper's table.

    name: stem of the file's name.
    source: the paper and its table.
    protocol: the protocol that sets the metrics' defaults.
    unknown: settings that the paper does not state.
    notes: where the run differs from the paper or its program, and other remarks.
    file: the path, for errors.
    """

    name: str
    source: str
    values: tuple[PublishedValue, ...]
    protocol: str | None = None
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    file: str = ""

    @property
    def models(self) -> list[str]:
        """The distinct models, in the table's order."""
        return list(dict.fromkeys(published.model for published in self.values))


def read_published(path: Path | None) -> Published | None:
    """Read the [published] table of a TOML file; None if there is no file or no table.

    Raises UsageError if the table is malformed, and InputError if the file cannot be read.
    """
    if path is None:
        return None
    content = read_toml(path)
    table = content.get(PUBLISHED)
    if table is None:
        return None
    where = f"[{PUBLISHED}] in {path}"
    _check_keys(table, TABLE_KEYS, REQUIRED_KEYS, where)
    _check_types(table, where)
    return Published(
        path.stem,
        table["source"],
        tuple(_read_value(figure, where) for figure in table["figures"]),
        {**content, **content.get("evaluate", {})}.get("protocol"),
        tuple(table.get("unknown", ())),
        tuple(table.get("notes", ())),
        str(path),
    )


def _check_types(table: Mapping[str, Any], where: str) -> None:
    if not isinstance(table["source"], str):
        raise UsageError(
            f"source in {where}, {table['source']!r}, is not a string", "set it to the paper and the table"
        )
    for key in ("unknown", "notes"):
        if not _is_list_of(table.get(key, []), str):
            raise UsageError(f"{key} in {where}, {table[key]!r}, is not a list of strings", f'write {key} = ["..."]')
    if not _is_list_of(table["figures"], Mapping):
        raise UsageError(
            f"figures in {where}, {table['figures']!r}, is not a list of tables",
            "write figures = [{model = ..., value = ...}]",
        )


def _read_value(figure: Mapping[str, Any], where: str) -> PublishedValue:
    _check_keys(figure, FIGURE_KEYS, FIGURE_KEYS, f"a figure of {where}")
    model, method, metric, value = (figure[key] for key in FIGURE_KEYS)
    if not _is_list_of([model, method, metric], str):
        text = f"model, method and metric of a figure of {where}, {[model, method, metric]!r}, are not all strings"
        raise UsageError(text, "write them in quotes")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"value {value!r} of a figure of {where} is not a number", "write it as the paper prints it")
    try:
        return PublishedValue(model, Choice.parse(method), Choice.parse(metric), float(value))
    except UsageError as error:
        raise UsageError(f"a figure of {where}: {error}") from None


def _check_keys(table: Any, known: Sequence[str], required: Sequence[str], where: str) -> None:
    if not isinstance(table, Mapping):
        raise UsageError(f"{where} is not a table", f"set {', '.join(required)} in it")
    for key in table:
        if key not in known:
            hint = did_you_mean(key, known, f"the keys are {', '.join(known)}")
            raise UsageError(f"unknown key {key!r} in {where}", hint)
    for key in required:
        if key not in table:
            raise UsageError(f"{where} has no {key}", f"set {', '.join(required)} in it")


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(element, kind) for element in value)


def resolve_values(published: Published) -> dict[Key, float]:
    """Return the values by model, method and metric, with all parameters at their defaults or as given.

    Raises UsageError for an unknown method, metric or parameter, and for two values of the same key.
    """
    values: dict[Key, float] = {}
    for entry in published.values:
        try:
            key = _resolve_key(published, entry)
        except UsageError as error:
            raise UsageError(f"a figure of [{PUBLISHED}] in {published.file or published.name}: {error}") from None
        if key in values:
            raise UsageError(f"{published.name} has two figures for {' '.join(key)}", "remove one of them")
        values[key] = entry.value
    return values


def _resolve_key(published: Published, entry: PublishedValue) -> Key:
    (metric,) = choose_metrics(published.protocol, (entry.metric,))
    method_key = _choice_key(METHODS.get(entry.method.name), entry.method)
    return entry.model, method_key, _choice_key(METRICS.get(metric.name), metric)


def add_published(summary: Mapping[str, Any], published: Published) -> dict[str, Any]:
    """Return the summary with the paper's table as ``published``, and ``published`` in every row.

    A row's value is None if the paper has no value for its model, method and metric.
    """
    run, values = summary["run"], resolve_values(published)
    model = _model_name(summary)
    rows = []
    for row in summary["rows"]:
        method, metric = run["methods"][row["method"]], run["metrics"][row["metric"]]
        key = (model, _key(method["method"], method["params"]), _key(metric["metric"], metric["params"]))
        rows.append({**row, "published": values.get(key)})
    table = {
        "table": published.name,
        "source": published.source,
        "models": published.models,
        "unknown": list(published.unknown),
        "notes": list(published.notes),
    }
    return {**summary, "published": table, "rows": rows}


def format_published(value: float | None) -> str:
    """Return a paper's value, with at least four digits and not rounded; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value == round(value, 4) else f"{value:g}"


def published_notes(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return texts by heading: the source of the published values, what the paper does not state, and notes."""
    if "published" not in summary:
        return {}
    table, model = summary["published"], _model_name(summary)
    models = f"its models: {', '.join(table['models'])}"
    if model not in table["models"]:
        models += f"; {model or 'this run'} is not among them, so no value can be compared"
    notes = {
        "Published": [table["source"], models],
        "Not in the paper": table["unknown"],
        "Notes": table["notes"],
    }
    return {heading: texts for heading, texts in notes.items() if texts}


def _model_name(summary: Mapping[str, Any]) -> str:
    """Return the name of the explained model; empty for a run that only trains its own networks."""
    model = summary["run"]["fingerprint"]["model"]
    return model["name"] if model else ""


def _choice_key(spec: Spec, choice: Choice) -> str:
    return _key(spec.name, spec.resolve(dict(choice.params)))


def _key(name: str, settings: Mapping[str, Any]) -> str:
    """Return the same text for the same name and parameters, in whatever order they are given."""
    return f"{name} {json.dumps(settings, sort_keys=True)}"
