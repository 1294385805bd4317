"""The help of commands: options in panels, with readable types, and the environment variables on one line at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import typer
from typer.core import TyperCommand

from xplain.cli._values import ValueType, value_types
from xplain.core.parameters import Bounds

PANELS = {  # the options in the order of the help; those that no command has are ignored
    "Input": "--files-from --null --labels --limit --per-class --per-class-order --shard --maps --search "
    "--input-bands --axes --range --clip-range --images",
    "Target": "--target --against --score",
    "Method and metric": "--method --metric --protocol --layer --layout --stability --interval --no-metrics",
    "Model": "--model --weights --classes --image-size --size --offline --mean --std --activation --logits --threshold --prompt --template",
    "Compute": "--device --engine --precision --batch-size --seed --threads --repeats --peer",
    "Output": "--output --save --show --format --on --scale --clip --sign --reduce --cmap --opacity --bands --save-maps --save-curves "
    "--overwrite --fail-fast --json --quiet --no-progress",
    "General": "--config --version --help",
}
PANEL_OF = {flag: panel for panel, flags in PANELS.items() for flag in flags.split()}
LAST_PANEL = "Other"
METAVARS = {
    "--against": "CLASS[,CLASS]",
    "--bands": "N[,N,N]",
    "--batch-size": "N|auto",
    "--classes": "FILE",
    "--clip": "LOW,HIGH",
    "--cmap": "NAME",
    "--config": "FILE",
    "--device": "DEVICE",
    "--files-from": "FILE",
    "--format": "FORMAT",
    "--input-bands": "N[,N]",
    "--labels": "FILE",
    "--layer": "NAME",
    "--layout": "LAYOUT",
    "--logits": "NAME|INDEX",
    "--maps": "NAME=DIR",
    "--mean": "X[,X]",
    "--method": "METHOD",
    "--metric": "METRIC",
    "--model": "MODEL",
    "--output": "DIR",
    "--protocol": "PROTOCOL",
    "--range": "LOW,HIGH",
    "--save": "KIND",
    "--shard": "I/N",
    "--show": "KIND",
    "--std": "X[,X]",
    "--target": "CLASS",
    "--threads": "N|auto",
    "--weights": "FILE|random",
}
TYPE_METAVARS = {int: "N", float: "X", str: "TEXT"}
ENVIRONMENT = """Order of precedence: command line, environment variables, configuration file (--config).
Environment variables: XPLAIN_<OPTION>, such as XPLAIN_MODEL or XPLAIN_BATCH_SIZE."""


class PanelCommand(TyperCommand):
    """A command whose help groups the options by topic."""

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]  # of Typer's own click
        """Write the arguments, and the options panel by panel."""
        types = value_types(ctx)
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        options = [param for param in self.get_params(ctx) if param.param_type_name == "option"]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(
                    [(param.metavar or str(param.name).upper(), _describe(param)) for param in arguments]
                )
        for panel in (*PANELS, LAST_PANEL):
            members = [param for param in options if panel_of(param) == panel]
            if members:
                with formatter.section(panel):
                    formatter.write_dl([_option_record(param, types) for param in sort_options(members)])


def long_flag(param: Any) -> str:
    """Return ``--batch-size``."""
    return str(max(param.opts, key=len))


def panel_of(param: Any) -> str:
    """Return the panel of an option."""
    return PANEL_OF.get(long_flag(param), LAST_PANEL)


def sort_options(params: Iterable[Any]) -> list[Any]:
    """Return options in the order of ``PANELS``."""
    order = list(PANEL_OF)
    return sorted(params, key=lambda param: order.index(long_flag(param)) if long_flag(param) in order else len(order))


def _option_record(param: Any, types: Mapping[str, ValueType]) -> tuple[str, str]:
    """Return ``-a, --method METHOD`` and the help with the default value."""
    names = ", ".join(sorted(param.opts, key=len))
    accepted = types.get(str(param.name))
    if not param.is_flag:
        names += f" {describe_metavar(param, accepted)}"
    return names, _describe(param, None if accepted is None else accepted.bounds)


def describe_metavar(param: Any, accepted: ValueType | None) -> str:
    """Return what stands for the value of an option: its choices, or a word such as ``FILE`` or ``N``."""
    if accepted is not None and accepted.choices:
        return "|".join(accepted.choices)
    if param.metavar:
        return str(param.metavar)
    kind = str if accepted is None else accepted.kind
    return METAVARS.get(long_flag(param)) or TYPE_METAVARS.get(kind, "PATH")


def _describe(param: Any, bounds: Bounds | None = None) -> str:
    """Return the help of a parameter, followed by its limits and its default value in brackets."""
    notes = []
    if bounds is not None and str(bounds):
        notes.append(str(bounds).replace(">=", "at least").replace("<=", "at most"))
    default = param.default
    if isinstance(default, list | tuple):
        default = ", ".join(map(str, default))
    if default not in (None, False, "", True) or (isinstance(default, int | float) and not isinstance(default, bool)):
        notes.append(f"default: {default}")
    text = param.help or ""
    return f"{text} [{'; '.join(notes)}]" if notes else text
