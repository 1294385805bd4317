"""``xplain list``: the methods, metrics, models, protocols and classes there are."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer

from xplain.cli import _options as common
from xplain.cli._completion import complete_model
from xplain.cli._console import put
from xplain.cli._groups import option, with_groups
from xplain.cli._options import Loading, Talking
from xplain.core.files import to_json

Things = Literal["methods", "metrics", "models", "protocols", "classes"]


@with_groups
def list_things(
    things: Annotated[Things, typer.Argument(help="What to list.")],
    search: Annotated[str, option("--search", help="Only rows that contain this text.")] = "",
    model: Annotated[
        str | None,
        option(
            "--model",
            "-m",
            help="With methods: which fit this model, and why not; with classes: its classes.",
            autocompletion=complete_model,
        ),
    ] = None,
    loading: Loading = Loading(),
    talking: Talking = Talking(),
) -> int:
    """List methods, metrics, models, protocols or classes.

    A table on a terminal, tab-separated columns elsewhere, and with --json all that is known of each.

    \b
    Examples:
      xplain list methods
      xplain list metrics --json
      xplain list classes --search cat
      xplain list models --search resnet
      xplain list methods --model resnet50
    """
    from xplain.pipelines import catalog

    compute = loading.compute(model or common.EMBEDDED)
    kind = "fits" if things == "methods" and model is not None else things
    rows = {
        "methods": catalog.list_methods,
        "fits": lambda: catalog.list_fits(compute),
        "metrics": catalog.list_metrics,
        "models": catalog.list_models,
        "protocols": catalog.list_protocols,
        "classes": lambda: catalog.list_classes(compute),
    }[kind]()
    rows = [row for row in rows if search.lower() in to_json(row).lower()]
    if talking.as_json:
        put(*(to_json(row) for row in rows))
    elif sys.stdout.isatty():
        _print_table(rows, catalog.COLUMNS[kind])
    else:
        put(*("\t".join(_plain(row[key]) for key in catalog.COLUMNS[kind]) for row in rows))
    return 0


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _print_table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """These columns of the rows as a table as wide as the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for key in columns:
        table.add_column(key, overflow="fold")
    for row in rows:
        table.add_row(*(_plain(row[key]) for key in columns))
    Console().print(table)
