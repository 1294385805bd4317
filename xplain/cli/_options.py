"""The options that several commands share. Each can also be set by XPLAIN_<OPTION>, and in a --config file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import xplain
from xplain.cli._completion import complete_method, complete_metric, complete_model, complete_protocol
from xplain.cli._console import silence_notes
from xplain.cli._groups import option
from xplain.cli._values import ValueType, expand_home, refuse_value, value_types
from xplain.core.config import read_config_file
from xplain.core.types import ScoreKind

NONE: list[str] = []  # the default of options that can be repeated


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"xplain {xplain.__version__}")
        raise typer.Exit


def _use_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of a configuration file the defaults of the command that is being parsed.

    Raises UsageError that names file, key and value for a value that the option does not accept.
    """
    if path is None:
        return None
    path = Path(expand_home(path))
    names = {
        flag[2:].replace("-", "_"): str(parameter.name)
        for parameter in context.command.params
        for flag in parameter.opts
        if flag.startswith("--") and flag not in ("--version", "--config")
    }
    commands = context.parent.command.list_commands(context.parent) if context.parent else ()  # type: ignore[attr-defined]
    values = read_config_file(path, str(context.info_name), names, commands)
    types = value_types(context)
    context.default_map = {
        names[key]: _convert_value(path, key, value, types[names[key]])
        for key, value in values.items()
        if value != []  # an empty list is the same as no value
    }
    return path


def _convert_value(path: Path, key: str, value: Any, accepted: ValueType) -> Any:
    """Return a value of a configuration file as the type of its option. Raises UsageError."""
    converted = accepted.convert(value)
    if converted is None:
        raise refuse_value(f"{key.replace('_', '-')!r} in {path}", value, accepted)
    return converted


def _be_quiet(quiet: bool) -> bool:
    if quiet:
        silence_notes()
    return quiet


_MODEL = "efficientnet-lite0 (no download), a torchvision name, timm:NAME or python:module:factory"
Model = Annotated[str, option("--model", "-m", help=f"{_MODEL}.", autocompletion=complete_model)]
Models = Annotated[list[str], option("--model", "-m", help=f"{_MODEL}; repeatable.", autocompletion=complete_model)]
Methods = Annotated[
    list[str],
    option(
        "--method",
        "-a",
        help="NAME[:key=value,...]; repeatable. See xplain list methods.",
        autocompletion=complete_method,
    ),
]
Metrics = Annotated[
    list[str],
    option(
        "--metric",
        "-M",
        help="NAME[:key=value,...]; repeatable. Default: insertion and deletion.",
        autocompletion=complete_metric,
    ),
]
Protocol = Annotated[
    str | None,
    option(
        "--protocol",
        help="A preset of metrics: xplain, rise, agi, mfaba, neflag or dga.",
        autocompletion=complete_protocol,
    ),
]
Target = Annotated[
    str, option("--target", help="auto (top class), label (from the folder), a class index, wnid or name, or top:K.")
]
Score = Annotated[ScoreKind | None, option("--score", help="The scalar that is explained; default: the method's own.")]
Layer = Annotated[
    str | None, option("--layer", help="Target layer of layer-based methods; default: the last spatial layer.")
]
FilesFrom = Annotated[str | None, option("--files-from", help="A file of image paths, one per line; - for stdin.")]
Version = Annotated[
    bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
]


@dataclass(frozen=True)
class OutputOptions:
    """What a command prints, and the file that its options come from."""

    as_json: Annotated[bool, option("--json", help="Print one JSON record per line on stdout.")] = False
    quiet: Annotated[bool, option("--quiet", "-q", help="Print errors only.", callback=_be_quiet)] = False
    no_progress: Annotated[bool, option("--no-progress", help="Do not show a progress bar.")] = False
    config: Annotated[
        Path | None, option("--config", help="A TOML file of options.", is_eager=True, callback=_use_config)
    ] = None
    version: Version = False

    @property
    def show_progress(self) -> bool:
        """Whether progress is shown."""
        return not (self.quiet or self.no_progress)
