"""What the user asked for, parsed and checked before anything heavy is loaded."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xplain.core.errors import InputError, UsageError, did_you_mean
from xplain.core.types import Interval, Precision, ScoreKind

DIGITS = 20  # of a whole number; int() refuses thousands
PUBLISHED = "published"  # a table of a paper's figures, which evaluate prints beside its own
Sign = Literal["positive", "negative", "absolute", "signed"]
Reduce = Literal["sum", "mean", "abs-sum", "max"]


@dataclass(frozen=True)
class Choice:
    """A method or metric with its parameters as written: ``NAME[:key=value[,key=value]]``."""

    name: str
    params: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Choice:
        """Read ``agi:steps=10,classes=5``. Raises UsageError when a parameter is not ``key=value``."""
        name, _, rest = text.partition(":")
        pairs: list[tuple[str, str]] = []
        for part in filter(None, (part.strip() for part in rest.split(","))):
            key, equals, value = part.partition("=")
            if not equals or not key.strip() or not value.strip():
                raise UsageError(f"cannot read {part!r} in {text!r}", "write NAME:key=value,key=value")
            pairs.append((key.strip().replace("-", "_"), value.strip()))
        repeated = {key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1}
        if repeated:
            raise UsageError(f"parameter {min(repeated)!r} is given twice in {text!r}", "give it once")
        if not name.strip():
            raise UsageError(f"no name in {text!r}", "write NAME:key=value,key=value")
        return cls(name.strip(), tuple(pairs))


@dataclass(frozen=True)
class RenderOptions:
    """How a map is drawn. clip: percentiles that become the ends of the colour map. opacity: of the brightest colour."""

    clip: tuple[float, float] = (80.0, 99.0)
    sign: Sign = "positive"
    reduce: Reduce = "sum"
    cmap: str = "auto"
    opacity: float = 0.8

    @property
    def colours(self) -> str:
        """The colour map's name: inferno for magnitudes, a diverging one for signed maps."""
        if self.cmap != "auto":
            return self.cmap
        return "RdBu_r" if self.sign == "signed" else "inferno"


@dataclass(frozen=True)
class Compute:
    """Which model runs where."""

    model: str = "efficientnet-lite0"
    weights: Path | None = None
    classes: Path | None = None
    device: str = "auto"
    precision: Precision = "fp32"
    batch_size: int | None = None  # None: auto
    seed: int = 0
    image_size: int | None = None  # None: the model's own
    offline: bool = False  # download nothing


@dataclass(frozen=True)
class ExplainConfig:
    """One run of ``xplain explain``."""

    compute: Compute
    inputs: tuple[str, ...]
    methods: tuple[Choice, ...]
    output: Path | None  # None: standard output
    files_from: str | None = None
    target: str = "auto"
    against: str | None = None
    score: ScoreKind | None = None
    layer: str | None = None
    saves: tuple[str, ...] = ("overlay",)
    look: RenderOptions = field(default_factory=RenderOptions)
    overwrite: bool = False
    fail_fast: bool = False


@dataclass(frozen=True)
class EvaluateConfig:
    """One run of ``xplain evaluate``."""

    compute: Compute
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
    """One run of ``xplain bench``; ``compute.model`` is not used."""

    compute: Compute
    models: tuple[str, ...]
    methods: tuple[Choice, ...]
    metrics: tuple[Choice, ...]
    inputs: tuple[str, ...] = ()
    images: int = 8
    repeats: int = 5
    peer: bool = False


@dataclass(frozen=True)
class CompareConfig:
    """One run of ``xplain compare`` on images. compute.model stands for each of ``models`` in turn."""

    compute: Compute
    models: tuple[str, ...]
    inputs: tuple[str, ...]
    methods: tuple[Choice, ...]
    output: Path
    metrics: tuple[Choice, ...] = ()
    protocol: str | None = None
    measured: bool = True
    files_from: str | None = None
    target: str = "auto"
    against: tuple[str, ...] = ()  # each makes a column of every method
    score: ScoreKind | None = None
    layer: str | None = None
    shows: tuple[str, ...] = ("overlay",)
    formats: tuple[str, ...] = ()  # besides PNG
    look: RenderOptions = field(default_factory=RenderOptions)
    overwrite: bool = False
    fail_fast: bool = False


def parse_count(text: str) -> int | None:
    """A whole number from 0; None for other text, and for more digits than any count has."""
    return int(text) if text.isdecimal() and len(text) < DIGITS else None


def parse_shard(text: str) -> tuple[int, int]:
    """``I/N`` with 0 <= I < N."""
    index, slash, count = text.partition("/")
    found = parse_count(index), parse_count(count)
    if not slash or found[0] is None or found[1] is None or not found[0] < found[1]:
        raise UsageError(f"cannot read the shard {text!r}", "write I/N with I from 0 to N-1")
    return found[0], found[1]


def parse_batch_size(text: str) -> int | None:
    """``auto`` (None) or a whole number of rows a call, at least 1."""
    if text == "auto":
        return None
    rows = parse_count(text)
    if not rows:
        raise UsageError(f"batch size {text!r} is not a number of rows", "write auto or a whole number from 1")
    return rows


def parse_clip(text: str) -> tuple[float, float]:
    """``LOW,HIGH`` percentiles with 0 <= LOW < HIGH <= 100."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"cannot read clip {text!r}", "write LOW,HIGH in percent, such as 80,99") from None
    if not 0 <= low < high <= 100:
        raise UsageError(f"clip {text!r} is not 0 <= LOW < HIGH <= 100", "write percentiles such as 80,99")
    return low, high


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds. Raises InputError when it cannot be read."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # a TOMLDecodeError is a ValueError
        raise InputError(f"cannot read the configuration {path}: {error}", "give a TOML file") from None


def read_config_file(path: Path, command: str, options: Collection[str], commands: Collection[str]) -> dict[str, Any]:
    """Option values for ``command`` from a TOML file.

    Options stand at the top level (they then hold for every command, which must know them) or in a table named
    after a command, which wins; evaluate also knows a table of published figures (``xplain.reports.published`` reads it).
    Raises InputError when the file cannot be read, and UsageError for a name that is no option of ``command`` and a table
    that is named after no command.
    """
    content = read_toml(path)
    if command == "evaluate":
        content.pop(PUBLISHED, None)
    tables = {key: value for key, value in content.items() if isinstance(value, Mapping)}
    for name in tables:
        if name not in commands:
            hint = "it is for evaluate" if name == PUBLISHED else did_you_mean(name, commands, "name a command")
            raise UsageError(f"unknown table [{name}] in {path}", hint)
    merged = {key: value for key, value in content.items() if key not in tables} | dict(tables.get(command, {}))
    values = {key.replace("-", "_"): value for key, value in merged.items()}
    for name in values:
        if name not in options:
            raise UsageError(f"unknown option {name!r} in {path}", did_you_mean(name, options, "see --help"))
    return values
