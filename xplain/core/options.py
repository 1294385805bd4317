"""Options that several commands share, as frozen dataclasses: model, compute, pixels, rendering and pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from xplain.core.option_values import (
    parse_bands,
    parse_batch_size,
    parse_channel_values,
    parse_clip,
    parse_range,
    parse_shown_bands,
    parse_threads,
)
from xplain.core.types import ActivationName, EngineName, Precision

EMBEDDED = "efficientnet-lite0"  # the default model, which needs no download
Sign = Literal["positive", "negative", "absolute", "signed"]
Reduce = Literal["sum", "mean", "abs-sum", "max"]
Axes = Literal["auto", "hwc", "chw"]
Canvas = Literal["input", "original"]
MAX_SCALE = 64  # of pictures


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
        Option(
            "--precision",
            "Floating-point precision; tf32 and bf16 are faster on GPUs, and bf16 in OpenVINO on some CPUs, but less accurate.",
        ),
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
            "What computes the model on the CPU: torch, openvino (pip install 'xplain-vision[openvino]'; PyTorch computes what it cannot, "
            "such as gradients in bf16) or auto (openvino if it is installed and the planned work repays the conversion). Numbers agree up "
            "to rounding.",
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
