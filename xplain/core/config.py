"""Configuration of the commands: one frozen dataclass per command, made of option groups."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from xplain.core.errors import UsageError
from xplain.core.options import (
    ComputeOptions,
    ModelOptions,
    PictureOptions,
    PixelOptions,
    RenderOptions,
)
from xplain.core.stability import StabilityLevel
from xplain.core.types import Interval, ScoreKind

SIMILAR = "similar:"  # in --target, before the path of a reference image
EXTERNAL_MAPS = "external-maps"  # instead of a method's name, in the records of maps that another program made
PerClassOrder = Literal["random", "first"]


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
                raise UsageError(f"invalid parameter {part!r} in {text!r}", "use NAME:key=value,key=value")
            pairs.append((key.strip().replace("-", "_"), value.strip()))
        keys = [key for key, _ in pairs]
        repeated = sorted(key for key in keys if keys.count(key) > 1)
        if repeated:
            raise UsageError(f"parameter {repeated[0]!r} is set more than once in {text!r}", "set it only once")
        if not name.strip():
            raise UsageError(f"{text!r} does not start with a name", "use NAME:key=value,key=value")
        return cls(name.strip(), tuple(pairs))


@dataclass(frozen=True)
class MapFolder:
    """A folder of maps that another program made, and their name in tables: ``NAME=DIR``."""

    name: str
    folder: str

    @classmethod
    def parse(cls, text: str) -> MapFolder:
        """Parse ``captum=maps/ig``. Raises UsageError if a part is missing or the name is not made of letters, digits and _.+-"""
        name, _, folder = text.partition("=")
        if not name.strip() or not folder.strip():
            raise UsageError(f"cannot read --maps {text!r}", "write NAME=DIR")
        name = name.strip()
        if not name[0].isalnum() or not all(char.isalnum() or char in "_.+-" for char in name):
            raise UsageError(
                f"invalid name {name!r} in --maps {text!r}", "use letters, digits and _ . + -, after a letter or digit"
            )
        return cls(name, os.path.expanduser(folder.strip()))  # noqa: PTH111  (never raises)


@dataclass(frozen=True)
class ExplainConfig:
    """Configuration of ``xplain explain``.

    output: output directory, or None to write one PNG to stdout.
    null: whether the paths in ``files_from`` end with NUL bytes.
    stability: how often each method runs again, to find out how much of its map stays.
    """

    model: ModelOptions
    compute: ComputeOptions
    inputs: tuple[str, ...]
    methods: tuple[Choice, ...]
    output: Path | None
    files_from: str | None = None
    null: bool = False
    target: str = "auto"
    against: str | None = None
    score: ScoreKind | None = None
    layer: str | None = None
    layout: str | None = None
    saves: tuple[str, ...] = ("overlay",)
    render: RenderOptions = field(default_factory=RenderOptions)
    picture: PictureOptions = field(default_factory=PictureOptions)
    overwrite: bool = False
    fail_fast: bool = False
    pixels: PixelOptions = field(default_factory=PixelOptions)
    stability: StabilityLevel = "quick"


@dataclass(frozen=True)
class EvaluateConfig:
    """Configuration of ``xplain evaluate`` for one model. shard: (index, count).

    maps: directories of maps of other programs, which are evaluated like methods.
    per_class_order: how ``per_class`` selects images; None uses the order of an existing run, or random in a new one.
    default_output: the default run directory, next to which runs of other recipes are written; None if the user chose ``output``.
    """

    model: ModelOptions
    compute: ComputeOptions
    dataset: str
    methods: tuple[Choice, ...]
    metrics: tuple[Choice, ...]
    output: Path
    protocol: str | None = None
    target: str = "auto"
    score: ScoreKind | None = None
    layer: str | None = None
    layout: str | None = None
    limit: int | None = None
    per_class: int | None = None
    per_class_order: PerClassOrder | None = None
    labels: str | None = None
    shard: tuple[int, int] = (0, 1)
    fail_fast: bool = False
    interval: Interval = "percentile"
    save_maps: bool = False
    save_curves: bool = False
    maps: tuple[MapFolder, ...] = ()
    pixels: PixelOptions = field(default_factory=PixelOptions)
    default_output: Path | None = None


@dataclass(frozen=True)
class BenchConfig:
    """Configuration of ``xplain bench``. models: names of the models, which share the other fields of ``model``."""

    model: ModelOptions
    compute: ComputeOptions
    models: tuple[str, ...]
    methods: tuple[Choice, ...]
    metrics: tuple[Choice, ...]
    inputs: tuple[str, ...] = ()
    images: int = 8
    repeats: int = 5
    peer: bool = False
    layer: str | None = None
    layout: str | None = None
    pixels: PixelOptions = field(default_factory=PixelOptions)


@dataclass(frozen=True)
class CompareConfig:
    """Configuration of ``xplain compare`` for images.

    models: names of the models, which share the other fields of ``model``.
    against: contrast classes; each adds a column for every method.
    measured: whether metrics are computed.
    formats: figure formats in addition to PNG.
    null: whether the paths in ``files_from`` end with NUL bytes.
    any_folder: write another comparison than that in ``output`` into a folder beside it, instead of refusing.
    stability: as in ``ExplainConfig``.
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
    null: bool = False
    target: str = "auto"
    against: tuple[str, ...] = ()
    score: ScoreKind | None = None
    layer: str | None = None
    layout: str | None = None
    shows: tuple[str, ...] = ("overlay",)
    formats: tuple[str, ...] = ()
    render: RenderOptions = field(default_factory=RenderOptions)
    overwrite: bool = False
    fail_fast: bool = False
    any_folder: bool = False
    pixels: PixelOptions = field(default_factory=PixelOptions)
    stability: StabilityLevel = "quick"
