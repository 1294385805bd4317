"""The configuration of each command: option groups, one frozen dataclass per command, and the TOML reader."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from xplain.core.errors import InputError, UsageError, did_you_mean
from xplain.core.types import Interval, Precision, ScoreKind

EMBEDDED = "efficientnet-lite0"  # the default model, which needs no download
MAX_DIGITS = 20  # of a whole number; int() rejects strings of thousands of digits
PUBLISHED = "published"  # the TOML table with the figures of a paper, which evaluate prints next to its own
Sign = Literal["positive", "negative", "absolute", "signed"]
Reduce = Literal["sum", "mean", "abs-sum", "max"]


@dataclass(frozen=True)
class Choice:
    """A method or metric and its parameters as the user wrote them: ``NAME[:key=value[,key=value]]``."""

    name: str
    params: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Choice:
        """Parse ``agi:steps=10,classes=5``. Raises UsageError if a parameter is not ``key=value``."""
        name, _, rest = text.partition(":")
        pairs: list[tuple[str, str]] = []
        parts = [part.strip() for part in rest.split(",")]
        for part in filter(None, parts):
            key, equals, value = part.partition("=")
            if not equals or not key.strip() or not value.strip():
                raise UsageError(f"cannot read {part!r} in {text!r}", "write NAME:key=value,key=value")
            pairs.append((key.strip().replace("-", "_"), value.strip()))
        keys = [key for key, _ in pairs]
        repeated = sorted(key for key in keys if keys.count(key) > 1)
        if repeated:
            raise UsageError(f"parameter {repeated[0]!r} is repeated in {text!r}", "set it once")
        if not name.strip():
            raise UsageError(f"missing name in {text!r}", "write NAME:key=value,key=value")
        return cls(name.strip(), tuple(pairs))


def parse_count(text: str) -> int | None:
    """Return a whole number >= 0, or None for any other text and for numbers of more than MAX_DIGITS digits."""
    return int(text) if text.isdecimal() and len(text) < MAX_DIGITS else None


def parse_shard(text: str) -> tuple[int, int]:
    """Parse ``I/N`` with 0 <= I < N. Raises UsageError."""
    index_text, slash, count_text = text.partition("/")
    index, count = parse_count(index_text), parse_count(count_text)
    if not slash or index is None or count is None or index >= count:
        raise UsageError(f"cannot parse the shard {text!r}", "write I/N with I from 0 to N-1")
    return index, count


def parse_batch_size(text: str) -> int | None:
    """Return the number of rows per call, or None for ``auto``. Raises UsageError."""
    if text == "auto":
        return None
    rows = parse_count(text)
    if not rows:
        raise UsageError(f"invalid batch size {text!r}", "use auto or a whole number >= 1")
    return rows


def parse_clip(text: str) -> tuple[float, float]:
    """Parse ``LOW,HIGH`` percentiles with 0 <= LOW < HIGH <= 100. Raises UsageError."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"cannot parse the clip {text!r}", "write LOW,HIGH in percent, such as 80,99") from None
    if not 0 <= low < high <= 100:
        raise UsageError(f"clip {text!r} is not 0 <= LOW < HIGH <= 100", "use percentiles such as 80,99")
    return low, high


@dataclass(frozen=True)
class Option:
    """The command-line option of a field: ``field: Annotated[type, Option(...)] = default``.

    flags: the long name, then the short one, separated by a space. parse: converts the text on the command line to the field's type;
    ``text_default`` is the default in that notation. low, high: bounds of a number.
    """

    flags: str
    help: str
    parse: Callable[[str], Any] | None = None
    text_default: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ModelOptions:
    """The model to load and where it runs; the fields are the parameters of ``load_classifier``. name: set by each command."""

    name: str = EMBEDDED
    weights: Annotated[
        Path | None,
        Option("--weights", "A .pt, .pth or .safetensors file; nothing in it is executed. random: untrained weights."),
    ] = None
    classes: Annotated[
        Path | None, Option("--classes", "Class names: one per line, or CSV with the columns index,wnid,name.")
    ] = None
    image_size: Annotated[
        int | None, Option("--image-size", "Side of the input in pixels; default: the model's own.", low=1)
    ] = None
    device: Annotated[str, Option("--device", "auto, cpu, cuda, cuda:N or mps.")] = "auto"
    offline: Annotated[bool, Option("--offline", "Download nothing; use weights that are already on disk.")] = False


@dataclass(frozen=True)
class ComputeOptions:
    """The arithmetic and the random seed of a run. batch_size: rows per model call, None for automatic."""

    precision: Annotated[Precision, Option("--precision", "fp32, tf32 or bf16 (faster on GPUs, less exact).")] = "fp32"
    batch_size: Annotated[
        int | None,
        Option("--batch-size -b", "Rows per model call: auto, or a number.", parse_batch_size, "auto"),
    ] = None
    seed: Annotated[int, Option("--seed", "Seed of all random draws.", low=0)] = 0


@dataclass(frozen=True)
class RenderOptions:
    """How attributions are drawn. clip: percentiles mapped to the ends of the colormap. opacity: of the brightest color, 0 to 1."""

    clip: Annotated[
        tuple[float, float],
        Option("--clip", "LOW,HIGH percentiles mapped to the ends of the colormap.", parse_clip, "80,99"),
    ] = (80.0, 99.0)
    sign: Annotated[Sign, Option("--sign", "Which part of the attribution is drawn.")] = "positive"
    reduce: Annotated[Reduce, Option("--reduce", "How channels are reduced to one value per pixel.")] = "sum"
    cmap: Annotated[str, Option("--cmap", "A matplotlib colormap; auto: inferno, or RdBu_r for --sign signed.")] = (
        "auto"
    )
    opacity: Annotated[float, Option("--opacity", "Opacity of the colors, 0 to 1.", low=0, high=1)] = 0.8

    @property
    def colormap(self) -> str:
        """The name of the colormap: inferno for magnitudes, a diverging one for signed attributions."""
        if self.cmap != "auto":
            return self.cmap
        return "RdBu_r" if self.sign == "signed" else "inferno"


@dataclass(frozen=True)
class ExplainConfig:
    """One run of ``xplain explain``. output: None writes one PNG to standard output."""

    model: ModelOptions
    compute: ComputeOptions
    inputs: tuple[str, ...]
    methods: tuple[Choice, ...]
    output: Path | None
    files_from: str | None = None
    target: str = "auto"
    against: str | None = None
    score: ScoreKind | None = None
    layer: str | None = None
    saves: tuple[str, ...] = ("overlay",)
    render: RenderOptions = field(default_factory=RenderOptions)
    overwrite: bool = False
    fail_fast: bool = False


@dataclass(frozen=True)
class EvaluateConfig:
    """One run of ``xplain evaluate`` for one model. shard: (index, count)."""

    model: ModelOptions
    compute: ComputeOptions
    dataset: str
    methods: tuple[Choice, ...]
    metrics: tuple[Choice, ...]
    output: Path
    protocol: str | None = None
    target: str = "auto"
    score: ScoreKind | None = None
    limit: int | None = None
    per_class: int | None = None
    labels: str | None = None
    shard: tuple[int, int] = (0, 1)
    fail_fast: bool = False
    interval: Interval = "percentile"
    save_maps: bool = False
    save_curves: bool = False


@dataclass(frozen=True)
class BenchConfig:
    """One run of ``xplain bench``. models: measured one after the other with the other fields of ``model``."""

    model: ModelOptions
    compute: ComputeOptions
    models: tuple[str, ...]
    methods: tuple[Choice, ...]
    metrics: tuple[Choice, ...]
    inputs: tuple[str, ...] = ()
    images: int = 8
    repeats: int = 5
    peer: bool = False


@dataclass(frozen=True)
class CompareConfig:
    """One run of ``xplain compare`` on images.

    models: compared one after the other with the other fields of ``model``. against: each makes a column of every method.
    measured: whether metrics are computed. formats: of figures, besides PNG. any_folder: write another comparison than that in
    ``output`` into a folder beside it, instead of refusing.
    """

    model: ModelOptions
    compute: ComputeOptions
    models: tuple[str, ...]
    inputs: tuple[str, ...]
    methods: tuple[Choice, ...]
    output: Path
    metrics: tuple[Choice, ...] = ()
    protocol: str | None = None
    measured: bool = True
    files_from: str | None = None
    target: str = "auto"
    against: tuple[str, ...] = ()
    score: ScoreKind | None = None
    layer: str | None = None
    shows: tuple[str, ...] = ("overlay",)
    formats: tuple[str, ...] = ()
    render: RenderOptions = field(default_factory=RenderOptions)
    overwrite: bool = False
    fail_fast: bool = False
    any_folder: bool = False


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises InputError if it cannot be read."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # a TOMLDecodeError is a ValueError
        raise InputError(f"cannot read the configuration {path}: {error}", "use a TOML file") from None


def read_config_file(path: Path, command: str, options: Collection[str], commands: Collection[str]) -> dict[str, Any]:
    """Return the option values of ``command`` in a TOML file.

    Options at the top level apply to every command and must be options of ``command``; a table named after a command takes
    precedence. evaluate also accepts a table of published figures, which ``xplain.reports.published`` reads.
    Raises InputError if the file cannot be read, UsageError for a name that is not an option of ``command`` and for a table
    that is not named after a command.
    """
    content = read_toml(path)
    if command == "evaluate":
        content.pop(PUBLISHED, None)
    tables = {
        key: value
        for key, value in content.items()
        if isinstance(value, Mapping) and key.replace("-", "_") not in options
    }
    for name in tables:
        if name not in commands:
            hint = did_you_mean(name, commands, "name the table after a command")
            raise UsageError(
                f"unknown table [{name}] in {path}", "only evaluate uses it" if name == PUBLISHED else hint
            )
    merged = {key: value for key, value in content.items() if key not in tables} | dict(tables.get(command, {}))
    values = {key.replace("-", "_"): value for key, value in merged.items()}
    for name in values:
        if name not in options:
            known = [option.replace("_", "-") for option in options]
            raise UsageError(f"unknown option {name!r} in {path}", did_you_mean(name, known, "see --help"))
    return values
