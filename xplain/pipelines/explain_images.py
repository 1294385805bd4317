"""``xplain.explain``: explain images of any kind in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from xplain.core.errors import InputError
from xplain.core.scores import ContrastScore, ScoreName
from xplain.core.stability import StabilityLevel
from xplain.core.types import EngineName, Precision
from xplain.data.datasets import Item
from xplain.data.loading import LoadedImage, load_image
from xplain.models import Classifier, ScalarFunction
from xplain.models.assumed_input import note_size
from xplain.oracle.targets import Classes
from xplain.pipelines.arguments import check_keywords
from xplain.pipelines.attribution import AttributedBatch, attribute_batch, parameter_names
from xplain.pipelines.batches import TargetedBatch
from xplain.pipelines.image_arguments import ModelLike, find_sources, resolve_classifier
from xplain.pipelines.records import describe_explanation, describe_run
from xplain.reports.explanation import Explanation, Explanations

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from xplain.data.image_values import ImageLike

Target = Classes | ScalarFunction | None


@overload
def explain(
    model: ModelLike, images: str | PathLike[str] | Image, method: str = ..., *, target: Target = ..., **options: Any
) -> Explanation: ...
@overload
def explain(
    model: ModelLike, images: Sequence[ImageLike], method: str = ..., *, target: Target = ..., **options: Any
) -> Explanations: ...
@overload
def explain(
    model: ModelLike, images: Tensor | NDArray[Any], method: str = ..., *, target: Target = ..., **options: Any
) -> Any: ...
def explain(
    model: ModelLike,
    images: ImageLike | Sequence[ImageLike],
    method: str = "neflag",
    *,
    target: Target = None,
    against: Classes | None = None,
    score: ScoreName | ContrastScore | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
    batch_size: int | str = "auto",
    device: str | torch.device = "auto",
    engine: EngineName = "torch",
    progress: Callable[[int], None] | None = None,
    stability: StabilityLevel = "off",
    **params: Any,
) -> Explanation | Explanations:
    """Explain why a model decides as it does for one image or several.

    Args:
        model: a classifier of ``load_classifier``, or what it loads: the name of a model, or an nn.Module.
        images: a path, a Pillow image, a NumPy array or a tensor; or a list of them, in which a path may be a directory or a glob
            pattern; or a batch with four axes. Files, Pillow images, integers (0 to 255) and floats (H, W, C) are resized and cropped as
            the model requires. Floats (C, H, W) are model input and stay as they are. Floats lie in [0, 1] and are not normalized.
        method: as in ``attribute``.
        target: as in ``attribute``: a class index, WordNet ID or name, one for all images or one per image, or a function of the
            network's output. Default: the predicted class of each image.
        against, score, seed, precision, batch_size, engine, progress, stability: as in ``attribute``.
        device: device of a model that is not a classifier yet.
        params: parameters of the method, as in ``attribute``.

    Returns:
        An Explanation for one image, and Explanations, a list of them, for a list or a batch. A notebook shows them as pictures.

    Raises:
        UsageError: a name, value or shape is invalid.
        InputError: an image cannot be used, such as one that is already normalized.
        DeviceError: one row does not fit into memory.

    Example:
        >>> explanation = xplain.explain("resnet50", "dog.jpg", "ig", steps=100)
        >>> explanation.save("dog.png")
    """
    check_keywords(explain, params, parameter_names(method))
    classifier = resolve_classifier(model, device)
    sources, is_single = find_sources(classifier, images)
    if any(source.pixels is None for source in sources):
        note_size(classifier)
    loaded = [load_image(source, classifier.preprocessing) for source in sources]
    batch = attribute_batch(
        classifier,
        _stack(loaded, classifier),
        method,
        target=None if isinstance(target, str) and target == "auto" else target,
        against=against,
        score=score,
        seed=seed,
        precision=precision,
        batch_size=batch_size,
        engine=engine,
        progress=progress,
        stability=stability,
        **params,
    )
    explanations = Explanations(_describe(batch, loaded))
    return explanations[0] if is_single else explanations


def _stack(loaded: Sequence[LoadedImage], classifier: Classifier) -> Tensor:
    """Return the images (B, C, H, W) in the type of the classifier. Raises InputError if their shapes differ."""
    shapes = {tuple(image.pixels.shape): image.source.name for image in loaded}
    if len(shapes) > 1:
        (first, second), *_ = [list(pair) for pair in zip(*list(shapes.items())[:2], strict=True)]
        raise InputError(f"the images have different shapes, such as {first} and {second}", "explain them separately")
    return torch.stack([image.pixels.to(classifier.dtype) for image in loaded])


def _describe(batch: AttributedBatch, loaded: Sequence[LoadedImage]) -> list[Explanation]:
    """Return one explanation per image, on the CPU. Raises InputError if attributions are not finite."""
    result = batch.attribution.cpu()
    for image, values in zip(loaded, result.values, strict=True):
        if not bool(values.isfinite().all()):
            raise InputError(
                f"the attributions of {image.source.name!r} contain NaN or infinity",
                "check the weights or use precision fp32",
            )
    assert batch.attribution.target is not None
    items = [Item(image.source.name, image.source, None) for image in loaded]
    targeted = TargetedBatch(items, loaded, batch.images, batch.logits, batch.attribution.target, batch.contrasts)
    facts = describe_run(batch.compute, batch.classifier, batch.engine)
    explanations = []
    for i, image in enumerate(loaded):
        record = describe_explanation(batch.classifier, batch.method_run, targeted, result, i) | facts
        pixels = image.pixels.float()
        explanations.append(Explanation(result.values[i], pixels, record))
    return explanations
