"""A paper's values, read from the [published] table of a configuration file and shown next to a run's results.

They change no result: they are not in the fingerprint, and the run directory does not store them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xplain.core.config import Choice
from xplain.core.config_file import PUBLISHED, PUBLISHED_COMMANDS, read_toml
from xplain.core.errors import UsageError, did_you_mean
from xplain.core.option_values import parse_count
from xplain.core.protocols import choose_metrics
from xplain.core.registry import METHODS, METRICS, Spec
from xplain.reports.paper_settings import PaperSettings, find_differences

TABLE_KEYS = ("source", "figures", "settings", "unknown", "notes")
REQUIRED_KEYS = ("source", "figures")
FIGURE_KEYS = ("model", "method", "metric", "value")
SETTING_KEYS = ("dataset", "images", "hardware")
SPEED = "images/s"  # the metric of published values that bench shows
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
    settings: of the table, from which a run can differ.
    unknown: settings that the paper does not state.
    notes: where every run differs from the paper or its program, and other remarks.
    file: the path, for errors.
    """

    name: str
    source: str
    values: tuple[PublishedValue, ...]
    protocol: str | None = None
    settings: PaperSettings = field(default_factory=PaperSettings)
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    file: str = ""

    @property
    def models(self) -> list[str]:
        """The distinct models, in the table's order."""
        return list(dict.fromkeys(published.model for published in self.values))


def read_published(path: Path | None) -> Published | None:
    """Read the [published] table of a TOML file. Return None if there is no file or no table.

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
    values = tuple(_read_value(figure, where) for figure in table["figures"])
    options = _read_options(content)
    return Published(
        path.stem,
        table["source"],
        values,
        options.get("protocol"),
        _read_settings(table.get("settings", {}), options, values, where),
        tuple(table.get("unknown", ())),
        tuple(table.get("notes", ())),
        str(path),
    )


def _read_options(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a file for the command that shows its published values, with dashes in their names."""
    table: Mapping[str, Any] = next((content[command] for command in PUBLISHED_COMMANDS if command in content), {})
    return {key.replace("_", "-"): value for key, value in {**content, **table}.items()}


def _check_types(table: Mapping[str, Any], where: str) -> None:
    if not isinstance(table["source"], str):
        text = f"source in {where}, {table['source']!r}, must be a string"
        raise UsageError(text, "set it to the paper and table")
    for key in ("unknown", "notes"):
        if not _is_list_of(table.get(key, []), str):
            raise UsageError(f"{key} in {where}, {table[key]!r}, must be a list of strings", f'use {key} = ["..."]')
    if not _is_list_of(table["figures"], Mapping):
        raise UsageError(
            f"figures in {where}, {table['figures']!r}, must be a list of tables",
            "use figures = [{model = ..., method = ..., metric = ..., value = ...}]",
        )


def _read_settings(
    stated: Any, options: Mapping[str, Any], values: Sequence[PublishedValue], where: str
) -> PaperSettings:
    """Return the settings of a table: those that it states, and the options of its command. values: name the models."""
    _check_keys(stated, SETTING_KEYS, (), f"settings of {where}")
    for key in stated:
        kind = int if key == "images" else str
        if not isinstance(stated[key], kind) or isinstance(stated[key], bool):
            text = f"{key} in the settings of {where}, {stated[key]!r}, must be {_describe_kind(kind)}"
            raise UsageError(text, 'use settings = {dataset = "...", images = 1000}')
    models = [value.model for value in values] or options.get("model", [])
    return PaperSettings(
        models=tuple(dict.fromkeys([models] if isinstance(models, str) else models)),
        image_size=parse_count(str(options.get("image-size", ""))),
        target=options.get("target", "auto"),
        score=options.get("score"),
        **stated,
    )


def _describe_kind(kind: type) -> str:
    return "an integer" if kind is int else "a string"


def _read_value(figure: Mapping[str, Any], where: str) -> PublishedValue:
    _check_keys(figure, FIGURE_KEYS, FIGURE_KEYS, f"an entry of figures in {where}")
    names = [figure["model"], figure["method"], figure["metric"]]
    value = figure["value"]
    if not _is_list_of(names, str):
        text = f"model, method and metric in the figures of {where}, {names!r}, must be strings"
        raise UsageError(text, "put them in quotes")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(
            f"value {value!r} in the figures of {where} must be a number", "use the number printed in the paper"
        )
    model, method, metric = names
    try:
        return PublishedValue(model, Choice.parse(method), Choice.parse(metric), float(value))
    except UsageError as error:
        raise UsageError(f"a figure of {where}: {error}") from None


def _check_keys(table: Any, known: Sequence[str], required: Sequence[str], where: str) -> None:
    if not isinstance(table, Mapping):
        raise UsageError(f"{where} must be a table", f"set {', '.join(required)} in it")
    for key in table:
        if key not in known:
            hint = did_you_mean(key, known, f"choose from {', '.join(known)}")
            raise UsageError(f"unknown key {key!r} in {where}", hint)
    for key in required:
        if key not in table:
            raise UsageError(f"{where} has no {key}", f"set {key}")


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(element, kind) for element in value)


def resolve_values(published: Published) -> dict[Key, float]:
    """Return the values by model, method and metric, with all parameters at their defaults or as given.

    Raises UsageError for an unknown method, metric or parameter, and for two values of the same key.
    """
    if any(entry.metric == Choice(SPEED) for entry in published.values):
        text = f"{published.file or published.name} holds published speeds, which evaluate does not measure"
        raise UsageError(text, "use it with xplain bench")
    values: dict[Key, float] = {}
    for entry in published.values:
        try:
            key = _resolve_key(published, entry)
        except UsageError as error:
            raise UsageError(f"a figure of [{PUBLISHED}] in {published.file or published.name}: {error}") from None
        if key in values:
            raise UsageError(f"{published.name} has two values for {' '.join(key)}", "remove one of them")
        values[key] = entry.value
    return values


def _resolve_key(published: Published, entry: PublishedValue) -> Key:
    (metric,) = choose_metrics(published.protocol, (entry.metric,))
    method_key = choice_key(METHODS.get(entry.method.name), entry.method)
    return entry.model, method_key, choice_key(METRICS.get(metric.name), metric)


def add_published(summary: Mapping[str, Any], published: Published) -> dict[str, Any]:
    """Return the summary with the paper's table as ``published``, and ``published`` in every row.

    A row's value is None if the paper has no value for its model, method and metric.
    """
    run, values = summary["run"], resolve_values(published)
    model = _model_name(summary)
    rows = []
    for row in summary["rows"]:
        method, metric = run["methods"][row["method"]], run["metrics"][row["metric"]]
        key = (
            model,
            settings_key(method["method"], method["params"]),
            settings_key(metric["metric"], metric["params"]),
        )
        rows.append({**row, "published": values.get(key)})
    table = {
        "table": published.name,
        "source": published.source,
        "models": published.models,
        "unknown": list(published.unknown),
        "notes": list(published.notes),
        "differences": find_differences(published.settings, summary),
    }
    return {**summary, "published": table, "rows": rows}


def has_published(summary: Mapping[str, Any]) -> bool:
    """Return whether a summary stands next to a table with published values; tables without them hold settings only."""
    return bool(summary.get("published", {}).get("models"))


def format_published(value: float | None) -> str:
    """Return a paper's value, with at least four digits and not rounded; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value == round(value, 4) else f"{value:g}"


def published_notes(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the notes on published values by heading: source, settings that the paper does not specify, and remarks."""
    if "published" not in summary:
        return {}
    table, model = summary["published"], _model_name(summary)
    models = f"models in the table: {', '.join(table['models'])}"
    if model not in table["models"]:
        models += f"; {model or 'this run'} is not one of them, so no published value is shown"
    order = order_notes(table.get("order", []), "images")
    return table_notes(table, [models] if table["models"] else [], order, "images")


def order_notes(entries: Sequence[Mapping[str, Any]], samples: str) -> list[str]:
    """Return one text per entry of ``describe_order_agreement``. samples: what n counts."""
    notes = []
    for entry in entries:
        interval = "no interval" if entry["low"] is None else f"{entry['low']:.2f} to {entry['high']:.2f}"
        notes.append(
            f"{entry['metric']}: τ = {entry['tau']:.2f} ({interval}), methods: {entry['methods']}, {samples}: {entry['n']}"
        )
    return notes


def table_notes(
    table: Mapping[str, Any], models: Sequence[str], order: Sequence[str], samples: str
) -> dict[str, list[str]]:
    """Return the notes on a table by heading, without empty ones.

    models: note on its models. order: notes on the agreement with its order of methods, which resamples ``samples``.
    """
    notes = {
        f"Agreement with the published order (Kendall's tau-b, 95% bootstrap interval over {samples})": [*order],
        "Published values" if table["models"] else "Published table, without values": [table["source"], *models],
        "Not specified in the paper": table["unknown"],
        "Notes": table["notes"],
    }
    return {heading: texts for heading, texts in notes.items() if texts}


def _model_name(summary: Mapping[str, Any]) -> str:
    """Return the name of the explained model; empty for a run that only trains its own networks."""
    model = summary["run"]["fingerprint"]["model"]
    return model["name"] if model else ""


def choice_key(spec: Spec, choice: Choice) -> str:
    """Return the key of a method or metric with all its parameters, of which those not given have their defaults."""
    return settings_key(spec.name, spec.describe_settings(spec.resolve(dict(choice.params))))


def settings_key(name: str, settings: Mapping[str, Any]) -> str:
    """Return the same text for the same name and parameters, in whatever order they are given."""
    return f"{name} {json.dumps(settings, sort_keys=True)}"
