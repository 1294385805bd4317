"""Load a model as requested and predict; keep freed memory and skip change detection while a command runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from xplain.core.allocator import retain_freed_memory
from xplain.core.config import SIMILAR
from xplain.core.errors import MODEL_ERRORS, UsageError, XplainError
from xplain.core.options import ComputeOptions, ModelOptions, PixelOptions
from xplain.core.types import Cost
from xplain.data.bands import PixelFormat
from xplain.data.images import read_image
from xplain.models import Classifier, load_classifier, similarity
from xplain.models.arithmetic import reproducible_arithmetic
from xplain.models.assumed_input import note_size
from xplain.models.optimize import freeze_version
from xplain.models.scalar_outputs import with_scalar_output
from xplain.oracle.engines import Engine, use_engine
from xplain.oracle.layers import predict_with_layers
from xplain.oracle.oracle import Oracle
from xplain.oracle.shared_forward import SharedForward

NO_OPTIONS = PixelOptions()


def load_model(options: ModelOptions, pixels: PixelOptions = NO_OPTIONS, target: str = "auto") -> Classifier:
    """Load the classifier that the options name, on its device, with the preprocessing for these pixels.

    target: the value of ``--target``. For ``similar:IMAGE``, the only output of the classifier is the cosine similarity of the model's
    output to that of the image.
    Raises as ``load_classifier``, and UsageError for bands that do not fit the channels of the model.
    """
    values = dict(vars(options))
    prompts, templates = values.pop("prompt"), values.pop("template")
    headless = target.startswith(SIMILAR)
    classifier = load_classifier(**values, prompts=prompts, templates=templates, headless=headless)
    note_size(classifier)
    _set_pixel_format(classifier, pixels)
    if headless:
        return _compare_with(classifier, Path(target.removeprefix(SIMILAR)))
    return classifier


def _compare_with(classifier: Classifier, path: Path) -> Classifier:
    """Return a classifier whose only output is the similarity to an image. Raises InputError if the file cannot be used."""
    image = read_image(path, preprocessing=classifier.preprocessing)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    label = f"similarity to {path.name}"
    return with_scalar_output(classifier, similarity(classifier, image), label=label, references={path.name: digest})


def _set_pixel_format(classifier: Classifier, options: PixelOptions) -> None:
    """Set how image files are read. Raises UsageError for bands that do not fit the channels of the model."""
    channels = classifier.input_channels
    if any(band > channels for band in options.bands):
        raise UsageError(
            f"--bands {_join(options.bands)} names band {max(options.bands)}, but the input of {classifier.name} has {channels}",
            f"use numbers from 1 to {channels}",
        )
    if options.input_bands and len(options.input_bands) != channels and (channels, len(options.input_bands)) != (3, 1):
        raise UsageError(
            f"--input-bands {_join(options.input_bands)} has {len(options.input_bands)} bands, but {classifier.name} takes {channels}",
            f"choose {channels} bands",
        )
    if options.clip_range and options.range is None:
        raise UsageError("--clip-range requires --range", "add --range LOW,HIGH")
    pixels = PixelFormat(channels, options.input_bands, options.axes, options.range, options.clip_range)
    classifier.preprocessing = replace(classifier.preprocessing, pixels=pixels)


def _join(bands: Sequence[int]) -> str:
    return ",".join(map(str, bands))


@contextmanager
def inference_session(classifier: Classifier, engine: Engine | None = None) -> Iterator[None]:
    """Keep freed memory, compute reproducibly, and skip change detection while the block runs; the classifier must not change meanwhile.

    engine: computes the rows of the classifier instead of PyTorch.
    """
    with (
        retain_freed_memory(),
        reproducible_arithmetic(classifier.device),
        freeze_version(classifier),
        use_engine(classifier, engine),
    ):
        yield


def predict(classifier: Classifier, images: Tensor, compute: ComputeOptions) -> tuple[Tensor, Cost]:
    """Return the logits (B, classes) of images (B, C, H, W), and their cost, counted as checks."""
    oracle = Oracle(classifier, batch_size=compute.batch_size, precision=compute.precision)
    return oracle.logits(images, check=True), oracle.cost


def predict_and_share(
    classifier: Classifier,
    images: Tensor,
    compute: ComputeOptions,
    starts_with: str,
    *,
    layer: str = "auto",
    layout: str = "auto",
) -> tuple[Tensor, Cost, SharedForward | None]:
    """Return what ``predict`` does, and the forward pass for a method that starts at the images.

    starts_with, layer, layout: of the method, see ``MethodSpec``.
    The last entry is None if the images need several model calls, or if the model has no gradients.
    """
    oracle = Oracle(classifier, batch_size=compute.batch_size, precision=compute.precision)
    if not starts_with or not classifier.differentiable or len(images) > oracle.rows_per_call(images):
        return *predict(classifier, images, compute), None
    try:
        if starts_with == "layers":
            logits, shared = predict_with_layers(oracle, images, layer, layout)
        else:
            logits, shared = oracle.predict(images)
    except XplainError:  # some are RuntimeErrors too
        raise
    except MODEL_ERRORS:  # for example, a network that cannot run with gradients
        return *predict(classifier, images, compute), None
    return logits, oracle.cost, shared
