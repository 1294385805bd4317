"""The options that commands share. Each can also be set by XPLAIN_<OPTION>, and in a --config file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import xplain
from xplain.config import Compute, parse_batch_size, read_config_file
from xplain.errors import UsageError
from xplain.types import Precision


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"xplain {xplain.__version__}")
        raise typer.Exit


def _use_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of a configuration file the defaults of the command that is being parsed."""
    if path is not None:
        names = {
            name[2:].replace("-", "_"): each.name
            for each in context.command.params
            for name in each.opts
            if name.startswith("--") and name not in ("--version", "--config")
        }
        commands = context.parent.command.list_commands(context.parent) if context.parent else ()  # type: ignore[attr-defined]
        values = read_config_file(path, str(context.info_name), names, commands)
        many = {each.name for each in context.command.params if getattr(each, "multiple", False)}
        context.default_map = {
            str(names[key]): [value] if names[key] in many and isinstance(value, str) else value
            for key, value in values.items()
        }
    return path


def option(*names: str, help: str, **more: Any) -> Any:
    """A typer option whose environment variable is named after its long form."""
    long = next(name for name in names if name.startswith("--"))
    return typer.Option(*names, help=help, envvar=f"XPLAIN_{long[2:].replace('-', '_').upper()}", **more)


COMMON = "Common options"
_MODEL = "efficientnet-lite0 (no download), a torchvision name, timm:NAME or python:module:factory"
Model = Annotated[str, option("--model", "-m", help=f"{_MODEL}.")]
Models = Annotated[list[str], option("--model", "-m", help=f"{_MODEL}; repeatable.")]
Weights = Annotated[
    Path | None,
    option("--weights", help="A .pt, .pth or .safetensors file; nothing in it is executed. random: untrained."),
]
Classes = Annotated[Path | None, option("--classes", help="Class names: one a line, or CSV index,wnid,name.")]
ImageSize = Annotated[
    int | None, option("--image-size", help="Side of the input in pixels, instead of the model's own.", min=1)
]
Device = Annotated[str, option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
PrecisionOption = Annotated[Precision, option("--precision", help="fp32, tf32 or bf16 (faster on GPUs, less exact).")]
BatchSize = Annotated[str, option("--batch-size", "-b", help="Rows a model call: auto, or a number.")]
Seed = Annotated[int, option("--seed", help="Seed of all random draws.")]
Json = Annotated[bool, option("--json", help="One JSON record a line on stdout.")]
Quiet = Annotated[bool, option("--quiet", "-q", help="No notes on stderr; errors stay.")]
NoProgress = Annotated[bool, option("--no-progress", help="No progress display.")]
Config = Annotated[
    Path | None,
    option("--config", help="A TOML file of options.", is_eager=True, callback=_use_config),
]
Version = Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)]


def make_compute(
    model: str,
    weights: Path | None,
    classes: Path | None,
    device: str,
    precision: Precision,
    batch_size: str,
    seed: int,
    image_size: int | None = None,
) -> Compute:
    """The common options as a Compute. Raises UsageError."""
    if seed < 0:
        raise UsageError(f"seed {seed} is negative", "give a whole number from 0")
    return Compute(model, weights, classes, device, precision, parse_batch_size(batch_size), seed, image_size)
