"""The options that commands share. Each can also be set by XPLAIN_<OPTION>, and in a --config file."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import xplain
from xplain.cli._completion import complete_method, complete_metric, complete_model, complete_protocol
from xplain.cli._groups import option
from xplain.core.config import Compute, Reduce, RenderOptions, Sign, parse_batch_size, parse_clip, read_config_file
from xplain.core.errors import ModelNote, UsageError
from xplain.core.types import Precision, ScoreKind


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
            if value != []  # none of what may be repeated is as good as not given
        }
    return path


def _hush(quiet: bool) -> bool:
    if quiet:
        warnings.simplefilter("ignore", ModelNote)  # until the command ends; see show_notes
    return quiet


_MODEL = "efficientnet-lite0 (no download), a torchvision name, timm:NAME or python:module:factory"
Model = Annotated[str, option("--model", "-m", help=f"{_MODEL}.", autocompletion=complete_model)]
Models = Annotated[list[str], option("--model", "-m", help=f"{_MODEL}; repeatable.", autocompletion=complete_model)]
EMBEDDED = Compute.model  # what runs where no --model is given

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
        help="NAME[:key=value,...]; repeatable. Default: insertion, deletion.",
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
Score = Annotated[ScoreKind | None, option("--score", help="The scalar explained; default: the method's own.")]
Layer = Annotated[
    str | None, option("--layer", help="Layer for methods that look at one; default: the last spatial one.")
]
FilesFrom = Annotated[str | None, option("--files-from", help="A file of paths, one a line; - for stdin.")]
Version = Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)]


@dataclass(frozen=True)
class Drawing:
    """How maps are drawn, of the commands that draw some."""

    clip: Annotated[str, option("--clip", help="LOW,HIGH percentiles that become the ends of the colours.")] = "80,99"
    sign: Annotated[Sign, option("--sign", help="Which part is drawn.")] = "positive"
    reduce: Annotated[Reduce, option("--reduce", help="Channels to one value a pixel.")] = "sum"
    cmap: Annotated[str, option("--cmap", help="A matplotlib colour map; auto: inferno, or RdBu_r for signed.")] = (
        "auto"
    )
    opacity: Annotated[float, option("--opacity", help="Of the colours on the image, 0 to 1.", min=0, max=1)] = 0.8

    @property
    def look(self) -> RenderOptions:
        """The same, checked. Raises UsageError."""
        return RenderOptions(parse_clip(self.clip), self.sign, self.reduce, self.cmap, self.opacity)


@dataclass(frozen=True)
class Running:
    """How a model is run, of the commands that compute something by it."""

    precision: Annotated[Precision, option("--precision", help="fp32, tf32 or bf16 (faster on GPUs, less exact).")] = (
        "fp32"
    )
    batch_size: Annotated[str, option("--batch-size", "-b", help="Rows a model call: auto, or a number.")] = "auto"
    seed: Annotated[int, option("--seed", help="Seed of all random draws.")] = 0


@dataclass(frozen=True)
class Loading:
    """What a model is made of and where it runs, of every command that loads one."""

    weights: Annotated[
        Path | None,
        option("--weights", help="A .pt, .pth or .safetensors file; nothing in it is executed. random: untrained."),
    ] = None
    classes: Annotated[Path | None, option("--classes", help="Class names: one a line, or CSV index,wnid,name.")] = None
    image_size: Annotated[
        int | None, option("--image-size", help="Side of the input in pixels, instead of the model's own.", min=1)
    ] = None
    device: Annotated[str, option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto"
    offline: Annotated[bool, option("--offline", help="Download nothing: use the weights that are there.")] = False

    def compute(self, model: str, running: Running = Running()) -> Compute:
        """Both as a request. Raises UsageError."""
        if running.seed < 0:
            raise UsageError(f"seed {running.seed} is negative", "give a whole number from 0")
        return Compute(
            model=model,
            weights=self.weights,
            classes=self.classes,
            device=self.device,
            precision=running.precision,
            batch_size=parse_batch_size(running.batch_size),
            seed=running.seed,
            image_size=self.image_size,
            offline=self.offline,
        )


@dataclass(frozen=True)
class Talking:
    """What a command says, and where else its options come from."""

    as_json: Annotated[bool, option("--json", help="One JSON record a line on stdout.")] = False
    quiet: Annotated[bool, option("--quiet", "-q", help="No notes on stderr; errors stay.", callback=_hush)] = False
    no_progress: Annotated[bool, option("--no-progress", help="No progress display.")] = False
    config: Annotated[
        Path | None, option("--config", help="A TOML file of options.", is_eager=True, callback=_use_config)
    ] = None
    version: Version = False

    @property
    def watch(self) -> bool:
        """Whether progress is wanted."""
        return not (self.quiet or self.no_progress)
