"""Options shared by several commands. Each can also be set with XPLAIN_<OPTION> or in a --config file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import xplain
from xplain.cli._completion import (
    complete_method,
    complete_metric,
    complete_model,
    complete_protocol,
    complete_score,
)
from xplain.cli._console import silence_notes
from xplain.cli._groups import option
from xplain.cli._values import ValueType, expand_home, refuse_value, value_types
from xplain.core.config_file import read_config_file
from xplain.core.parameters import TextFormat
from xplain.core.scores import SCORE_FORMAT, parse_score
from xplain.core.stability import StabilityLevel

NONE: list[str] = []  # the default of options that can be repeated


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"xplain {xplain.__version__}")
        raise typer.Exit


def _use_config(context: typer.Context, path: Path | None) -> Path | None:
    """Use the values of a configuration file as defaults for the command being parsed.

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


MODEL_HELP = (
    "Model: efficientnet-lite0 (built in), a torchvision name such as resnet50, timm:NAME, hf:REPOSITORY[@REVISION] or hf:FOLDER (Hugging "
    "Face), clip:ARCHITECTURE[/TAG] or clip:FOLDER (open_clip), python:PACKAGE.MODULE:FACTORY, script:FILE (TorchScript), "
    "export:FILE (torch.export) or onnx:FILE"
)
Model = Annotated[str, option("--model", "-m", help=f"{MODEL_HELP}.", autocompletion=complete_model)]
Models = Annotated[list[str], option("--model", "-m", help=f"{MODEL_HELP}; repeatable.", autocompletion=complete_model)]
Methods = Annotated[
    list[str],
    option(
        "--method",
        "-a",
        help="Attribution method, NAME[:key=value,...]; repeatable; hyphens can be omitted (gradcam++); score=S sets its score; key=a|b|c "
        '(quote it) runs the method once per value. See "xplain list methods".',
        autocompletion=complete_method,
    ),
]
Metrics = Annotated[
    list[str],
    option(
        "--metric",
        "-M",
        help='Metric, NAME[:key=value,...]; repeatable (default: insertion and deletion). See "xplain list metrics".',
        autocompletion=complete_metric,
    ),
]
Protocol = Annotated[
    str | None,
    option(
        "--protocol",
        help='Predefined set of metrics: xplain, rise, agi, mfaba, neflag or dga. See "xplain list protocols".',
        autocompletion=complete_protocol,
    ),
]
Target = Annotated[
    str,
    option(
        "--target",
        help="Class to explain: auto (predicted class), label (class of the image's folder), a class index, WordNet ID or name, "
        "top:K (K most probable classes), or similar:IMAGE (cosine similarity of the model's output to that of an image; "
        "models without a classification head return their embedding).",
    ),
]
Score = Annotated[
    str | None,
    option(
        "--score",
        help=f"Model output to explain: {SCORE_FORMAT} (default: set by the method). contrast is the target's logit minus G times the mean "
        "of the M logits nearest to it, or of those of --against (default: 0.6 and 3).",
        parser=parse_score,
        metavar="SCORE",
        autocompletion=complete_score,
    ),
    TextFormat(f"{SCORE_FORMAT}, with G >= 0 and M >= 1", parse_score),
]
Layer = Annotated[
    str | None,
    option(
        "--layer",
        help="Layer used by layer-based methods (default: the last layer with a spatial output), or several, such as layer3,layer4, whose "
        "maps are averaged.",
    ),
]
Layout = Annotated[
    str | None,
    option(
        "--layout",
        help="Layout of the layer's output: HxW or HxW+PREFIX for tokens (14x14+1: 196 patches after a class token), channels-first "
        "or channels-last (default: determined from the modules and from how the layer responds to changes of the image).",
    ),
]
Stability = Annotated[
    StabilityLevel,
    option(
        "--stability",
        help="How much of each map stays, as a share of its highest tenth, when the method runs again with other random draws, in other "
        "arithmetic and under noise of 1/255. quick at most doubles the rows through the model, and measures what fits; full takes about "
        "ten times the rows; off does not measure it.",
    ),
]
FilesFrom = Annotated[
    str | None, option("--files-from", help="Text file with one image path per line, or - to read from stdin.")
]
Null = Annotated[
    bool, option("--null", "-0", help="Paths in --files-from end with NUL bytes, as find -print0 writes them.")
]
Version = Annotated[
    bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
]


@dataclass(frozen=True)
class OutputOptions:
    """Output options and the configuration file."""

    as_json: Annotated[bool, option("--json", help="Print one JSON record per line to stdout.")] = False
    quiet: Annotated[bool, option("--quiet", "-q", help="Print errors only.", callback=_be_quiet)] = False
    no_progress: Annotated[bool, option("--no-progress", help="Hide the progress bar.")] = False
    config: Annotated[
        Path | None, option("--config", help="TOML file with option values.", is_eager=True, callback=_use_config)
    ] = None
    version: Version = False

    @property
    def show_progress(self) -> bool:
        """Whether to show progress."""
        return not (self.quiet or self.no_progress)
