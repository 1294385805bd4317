"""``xplain list``: list methods, metrics, models, protocols, classes, layers or mechanisms of known truth."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import typer

from xplain.cli._completion import complete_model
from xplain.cli._console import print_json, print_lines
from xplain.cli._groups import option, with_groups
from xplain.cli._options import OutputOptions
from xplain.cli._progress import show_progress
from xplain.core.errors import ExitCode, UsageError
from xplain.core.files import to_json
from xplain.core.options import EMBEDDED, ModelOptions
from xplain.pipelines.progress import OnProgress, ignore_progress

Kind = Literal["methods", "metrics", "models", "protocols", "classes", "layers", "known"]


@with_groups
def list_things(
    kind: Annotated[
        Kind,
        typer.Argument(
            metavar="KIND",
            help="Kind of entries: methods, metrics, models, protocols, classes, layers or known (mechanisms).",
        ),
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Methods or metrics: show their pages (definition, parameters, cost, properties, paper).",
        ),
    ] = None,
    search: Annotated[str, option("--search", help="Show only entries that contain this text.")] = "",
    model: Annotated[
        str | None,
        option(
            "--model",
            "-m",
            help='With "methods", check which methods support this model; with "classes" or "layers", list those of this model.',
            autocompletion=complete_model,
        ),
    ] = None,
    model_options: ModelOptions = ModelOptions(),
    out: OutputOptions = OutputOptions(),
) -> int:
    """List methods, metrics, models, protocols, classes, layers, or the mechanisms of known truth.

    Prints a table to a terminal and tab-separated columns otherwise. With --json, prints all fields. With the name of a method or
    metric, prints its page.

    \b
    Examples:
      xplain list methods
      xplain list methods neflag agi
      xplain list metrics --json
      xplain list classes --search cat
      xplain list models --search resnet
      xplain list methods --model resnet50
      xplain list layers --model resnet50
      xplain list known
    """
    from xplain.pipelines import catalog

    options = replace(model_options, name=model or EMBEDDED)
    if names:
        return _show_entries(kind, names, model, as_json=out.as_json)
    shown = "fits" if kind == "methods" and model is not None else kind
    with show_progress(out.show_progress and shown == "fits", "methods") as on_progress:
        listed = _list_rows(shown, options, on_progress)
    rows = [row for row in listed if search.lower() in to_json(row).lower()]
    if out.as_json:
        print_json(*rows)
    elif sys.stdout.isatty():
        _print_table(rows, catalog.TABLE_COLUMNS[shown])
    else:
        print_lines(*("\t".join(_to_text(row[key]) for key in catalog.COLUMNS[shown]) for row in rows))
    return ExitCode.OK


def _show_entries(kind: str, names: Sequence[str], model: str | None, *, as_json: bool) -> int:
    """Print the pages of methods or metrics, or their fields."""
    from xplain.pipelines import catalog
    from xplain.reports.reference_page import WIDTH, make_page

    specs = list(dict.fromkeys(catalog.find_entry(kind, name) for name in names))
    if model is not None:
        raise UsageError("--model cannot be combined with a name", f"use list {kind} --model {model}")
    if as_json:
        rows = {row["name"]: row for row in _list_rows(kind, ModelOptions(), ignore_progress)}
        print_json(*(rows[spec.name] for spec in specs))
    else:
        width = min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)
        print_lines("\n\n".join(make_page(spec).to_text(width).removesuffix("\n") for spec in specs))
    return ExitCode.OK


def _list_rows(kind: str, options: ModelOptions, on_progress: OnProgress) -> list[dict[str, Any]]:
    from xplain.pipelines import catalog

    match kind:
        case "fits":
            return catalog.list_fits(options, on_progress)
        case "methods":
            return catalog.list_methods()
        case "metrics":
            return catalog.list_metrics()
        case "models":
            return catalog.list_models()
        case "protocols":
            return catalog.list_protocols()
        case "known":
            return catalog.list_known()
        case "layers":
            return catalog.list_model_layers(options)
        case _:
            return catalog.list_classes(options)


def _to_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _print_table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Print the given columns as a table that fits the terminal width."""
    from rich.console import Console
    from rich.table import Table

    from xplain.pipelines.catalog import HEADINGS

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for key in columns:
        table.add_column(HEADINGS.get(key, key), overflow="fold")
    for row in rows:
        table.add_row(*(_to_text(row[key]) for key in columns))
    Console().print(table)
