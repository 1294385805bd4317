"""Configuration of the commands: option groups, one frozen dataclass per command and the TOML reader."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from xplain.core.errors import InputError, UsageError, did_you_mean
from xplain.core.option_values import (
    parse_bands,
    parse_batch_size,
    parse_channel_values,
    parse_clip,
    parse_range,
    parse_shown_bands,
    parse_threads,
)
from xplain.core.stability import StabilityLevel
from xplain.core.text_files import decode_text
from xplain.core.types import ActivationName, EngineName, Interval, Precision, ScoreKind

EMBEDDED = "efficientnet-lite0"  # the default model, which needs no download
SIMILAR = "similar:"  # in --target, before the path of a reference image
EXTERNAL_MAPS = "external-maps"  # instead of a method's name, in the records of maps that another program made
PUBLISHED = "published"  # the TOML table with the values of a paper
PUBLISHED_COMMANDS = ("evaluate", "bench")  # which print them next to their own
Sign = Literal["positive", "negative", "absolute", "signed"]
Reduce = Literal["sum", "mean", "abs-sum", "max"]
PerClassOrder = Literal["random", "first"]
Axes = Literal["auto", "hwc", "chw"]
Canvas = Literal["input", "original"]
MAX_SCALE = 64  # of pictures


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
class Option:
    """Command-line option of a dataclass field, declared as ``field: Annotated[type, Option(...)] = default``.

    flags: long name and optional short name, separated by a space.
    parse: function that converts the command-line text to the type of the field.
    text_default: default value as command-line text.
    low, high: bounds of a number.
    """

    flags: str
    help: str
    parse: Callable[[str], Any] | None = None
    text_default: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ModelOptions:
    """The model to load and where it runs; the fields are the parameters of ``load_classifier``.

    name: set by each command. prompt, template: several texts, ``prompts`` and ``templates`` of ``load_classifier``.
    """

    name: str = EMBEDDED
    weights: Annotated[
        Path | None,
        Option(
            "--weights",
            'Weights file (.pt, .pth or .safetensors), loaded without executing code, or "random" for untrained weights.',
        ),
    ] = None
    classes: Annotated[
        Path | None,
        Option(
            "--classes",
            "File with class names: one name per line, or CSV with the columns index, wnid (WordNet ID) and name.",
        ),
    ] = None
    image_size: Annotated[
        int | None,
        Option(
            "--image-size", "Height and width of the model input in pixels (default: the model's native size).", low=1
        ),
    ] = None
    device: Annotated[str, Option("--device", "Device to run on: auto, cpu, cuda, cuda:N or mps.")] = "auto"
    offline: Annotated[
        bool, Option("--offline", "Do not download anything; use only weights that are already on disk.")
    ] = False
    mean: Annotated[
        tuple[float, ...] | None,
        Option(
            "--mean",
            "Mean of the model input per channel, subtracted from pixels in [0, 1]; for onnx:, python:, script: and export:.",
            parse_channel_values,
        ),
    ] = None
    std: Annotated[
        tuple[float, ...] | None,
        Option(
            "--std",
            "Standard deviation of the model input per channel, by which pixels are divided after --mean.",
            parse_channel_values,
        ),
    ] = None
    activation: Annotated[
        ActivationName,
        Option(
            "--activation",
            "What turns the outputs into probabilities: softmax (exclusive classes), sigmoid (independent labels, or one output), none "
            "(values) or auto (detected).",
        ),
    ] = "auto"
    logits: Annotated[
        str | None, Option("--logits", "Name or index of the logits in the output of a model with several outputs.")
    ] = None
    threshold: Annotated[
        float | None,
        Option(
            "--threshold",
            "Probability from which a label of a sigmoid model counts as present (default: 0.5); with --activation none, a value.",
        ),
    ] = None
    prompt: Annotated[
        tuple[str, ...],
        Option(
            "--prompt",
            "Text of a class for CLIP and SigLIP models; repeatable. XPLAIN_PROMPT holds one text per line.",
        ),
    ] = ()
    template: Annotated[
        tuple[str, ...],
        Option(
            "--template",
            'Text with {} for each name in --classes, for CLIP and SigLIP models (default: "a photo of a {}."); repeatable, to '
            "average the features of several texts.",
        ),
    ] = ()


@dataclass(frozen=True)
class PixelOptions:
    """How the pixels of arrays and TIFF files become model input, and which bands pictures show.

    bands: numbers of the bands that pictures show, starting at 1; empty for the first three.
    input_bands: numbers of the bands of a file that the model receives, in this order; empty for all.
    axes: order of the axes of an array; auto finds the axis with as many entries as the model has channels.
    range: the stored values that become 0 and 1; None for the full range of unsigned integers, and 0 to 1 of floats.
    clip_range: clip values outside ``range`` instead of refusing them.
    """

    bands: Annotated[
        tuple[int, ...],
        Option(
            "--bands",
            "Bands that pictures show as red, green and blue, such as 3,2,1, or one band in gray (default: the first three).",
            parse_shown_bands,
        ),
    ] = ()
    input_bands: Annotated[
        tuple[int, ...],
        Option(
            "--input-bands", "Bands of each image that the model receives, in this order (default: all).", parse_bands
        ),
    ] = ()
    axes: Annotated[
        Axes,
        Option("--axes", "Order of the axes of .npy and .npz images: height, width, channels (hwc) or chw."),
    ] = "auto"
    range: Annotated[
        tuple[float, float] | None,
        Option(
            "--range",
            "Pixel values LOW,HIGH that become 0 and 1, such as 0,4095 (default: all values of unsigned integers; 0,1 for floats).",
            parse_range,
        ),
    ] = None
    clip_range: Annotated[
        bool, Option("--clip-range", "Clip pixel values outside --range instead of refusing the image.")
    ] = False


@dataclass(frozen=True)
class ComputeOptions:
    """The arithmetic, the random seed and the threads of a run. batch_size, threads: None for automatic."""

    precision: Annotated[
        Precision,
        Option("--precision", "Floating-point precision; tf32 and bf16 are faster on GPUs but less accurate."),
    ] = "fp32"
    batch_size: Annotated[
        int | None,
        Option(
            "--batch-size -b",
            "Maximum batch size per forward pass: auto or a positive integer.",
            parse_batch_size,
            "auto",
        ),
    ] = None
    seed: Annotated[int, Option("--seed", "Random seed.", low=0)] = 0
    threads: Annotated[
        int | None,
        Option(
            "--threads",
            "CPU threads: auto (PyTorch's choice, at most the CPU quota of the container) or a positive integer.",
            parse_threads,
            "auto",
        ),
    ] = None
    engine: Annotated[
        EngineName,
        Option(
            "--engine",
            "What computes the model on the CPU in fp32: torch, openvino (pip install 'xplain-vision[openvino]'; PyTorch computes what it "
            "cannot) or auto (openvino if it is installed and the planned work repays the conversion). Numbers agree up to rounding.",
        ),
    ] = "auto"


@dataclass(frozen=True)
class RenderOptions:
    """Rendering options.

    clip: percentiles that are mapped to the ends of the colormap.
    opacity: opacity of the brightest color, from 0 to 1.
    """

    clip: Annotated[
        tuple[float, float],
        Option(
            "--clip",
            "Percentiles LOW,HIGH of the attributions that are mapped to the ends of the colormap.",
            parse_clip,
            "80,99",
        ),
    ] = (80.0, 99.0)
    sign: Annotated[Sign, Option("--sign", "Sign of the attributions to show.")] = "positive"
    reduce: Annotated[Reduce, Option("--reduce", "How to reduce the channels to one value per pixel.")] = "sum"
    cmap: Annotated[
        str, Option("--cmap", "Matplotlib colormap; auto selects RdBu_r for --sign signed and inferno otherwise.")
    ] = "auto"
    opacity: Annotated[float, Option("--opacity", "Opacity of the overlay, from 0 to 1.", low=0, high=1)] = 0.8

    @property
    def colormap(self) -> str:
        """The name of the colormap: inferno for magnitudes, a diverging one for signed attributions."""
        if self.cmap != "auto":
            return self.cmap
        return "RdBu_r" if self.sign == "signed" else "inferno"


@dataclass(frozen=True)
class PictureOptions:
    """What is drawn on, and how large. on: the model input, or the whole image at its own size. scale: side of a pixel in the PNG."""

    on: Annotated[
        Canvas,
        Option(
            "--on",
            "Draw on the model input, or on the whole original image at its own size, with the crop of the model outlined.",
        ),
    ] = "input"
    scale: Annotated[
        int,
        Option(
            "--scale",
            "Enlarge overlay, heatmap and masked pictures: each pixel becomes a square of N x N pixels.",
            low=1,
            high=MAX_SCALE,
        ),
    ] = 1


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


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises InputError if it cannot be read."""
    try:
        return tomllib.loads(decode_text(path.read_bytes()))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot read the configuration file {str(path)!r}: {reason}", "check the path") from None
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError is a ValueError
        raise InputError(
            f"cannot read the configuration file {str(path)!r}: {error}", "check that it is valid TOML"
        ) from None


def read_config_file(path: Path, command: str, options: Collection[str], commands: Collection[str]) -> dict[str, Any]:
    """Return the option values of ``command`` in a TOML file.

    Options at the top level apply to every command and must be options of ``command``; a table named after a command takes
    precedence. evaluate and bench also accept a table of published values, which ``xplain.reports.published`` reads.
    Raises InputError if the file cannot be read, UsageError for a name that is not an option of ``command`` and for a table
    that is not named after a command.
    """
    content = read_toml(path)
    if command in PUBLISHED_COMMANDS:
        content.pop(PUBLISHED, None)
    tables = {
        key: value
        for key, value in content.items()
        if isinstance(value, Mapping) and key.replace("-", "_") not in options
    }
    for name in tables:
        if name not in commands:
            hint = did_you_mean(name, commands, "use the name of a command as the table name")
            if name == PUBLISHED:
                hint = f"use it only with {' and '.join(PUBLISHED_COMMANDS)}"
            raise UsageError(f"unknown table [{name}] in {path}", hint)
    merged = {key: value for key, value in content.items() if key not in tables} | dict(tables.get(command, {}))
    values = {key.replace("-", "_"): value for key, value in merged.items()}
    for name in values:
        if name not in options:
            known = [option.replace("_", "-") for option in options]
            raise UsageError(f"unknown option {name!r} in {path}", did_you_mean(name, known, "see --help"))
    return values
