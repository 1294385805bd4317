"""Contract checks of a method on any classifier, for models that are too large for the contract tests."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import xplain
from xplain.core.registry import MethodSpec
from xplain.core.types import Cost
from xplain.models.optimize import inference_copy

# tolerances relative to the largest value, between model calls of one and of two rows
CLOSE = 1e-3  # float32 through a hundred layers
EXACTLY = 1e-8  # float64, if the float32 results are not close


class BrokenError(Exception):
    """The method violates its contract."""


def keep_contract(
    spec: MethodSpec, classifier: xplain.Classifier, images: Tensor, settings: Mapping[str, Any], rows: Counter[str]
) -> None:
    """Explain two images (2, C, H, W), float32. Raises BrokenError if the maps violate the method's contract.

    The maps must be finite, have the images' size and type, explain the top class, have a flag if they are zero everywhere, and an
    expected sum if completeness is claimed. Every row must be counted, within the claimed cost. An image must have the same map
    alone and in a batch, except for methods that amplify rounding, and the same bytes when repeated. rows: the counter of
    ``count_rows``.
    """
    for fold in (False, True):  # working copies are created once per model and tested on images of its own size
        inference_copy(classifier, fold=fold)
    rows.clear()
    attribution = xplain.attribute(classifier, images, spec.name, **settings)
    check_rows(spec, attribution.cost, settings, rows)
    check_values(spec, attribution, images)
    with torch.no_grad():
        need(attribution.target.tolist() == classifier(images).argmax(dim=1).tolist(), "not the top class")
    alone, again = (xplain.attribute(classifier, images[1:], spec.name, **settings).values for _ in range(2))
    need(torch.equal(alone, again), "another map at the same seed")
    if not spec.rounding and relative_difference(attribution.values[1:], alone) > CLOSE:
        check_exactly(spec, classifier, images, settings)


def check_exactly(spec: MethodSpec, classifier: xplain.Classifier, images: Tensor, settings: Mapping[str, Any]) -> None:
    """Raise BrokenError unless an image has the same map alone and in a batch in float64, within EXACTLY.

    Quotients of sums that cancel (LRP) lose digits without bound in float32; the effect of a bug does not shrink in float64.
    """
    exact, x = copy.deepcopy(classifier).double(), images.double()
    together = xplain.attribute(exact, x, spec.name, **settings).values[-1:]
    alone = xplain.attribute(exact, x[1:], spec.name, **settings).values[-1:]
    difference = relative_difference(together, alone)
    need(difference <= EXACTLY, f"by itself an image has another map: {difference:.1e} apart in float64")


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two maps, relative to the largest value."""
    return float((actual - expected).abs().max() / actual.abs().max().clamp(min=torch.finfo(actual.dtype).tiny))


def check_rows(spec: MethodSpec, cost: Cost, settings: Mapping[str, Any], rows: Counter[str]) -> None:
    """Raise BrokenError unless ``cost`` equals the rows of ``count_rows``, and the claim for two images.

    Checks may include backward passes.
    """
    is_counted = cost.forwards + cost.checks in possible_forwards(rows)
    need(is_counted and 0 <= rows["backwards"] - cost.backwards <= cost.checks, f"rows: {cost} of {dict(rows)}")
    claims = spec.cost(**spec.resolve(settings))
    for spent, claim in zip((cost.forwards, cost.backwards), (2 * rows for rows in claims), strict=True):
        need(spent <= claim if spec.at_most else spent == claim, f"cost: {spent} where {claim} is claimed")


def check_values(spec: MethodSpec, attribution: xplain.Attribution, images: Tensor) -> None:
    """Raise BrokenError unless the maps are finite, of the images' size and type, with details and flags per image."""
    values = attribution.values
    is_shaped = values.shape in {(2, channels, *images.shape[2:]) for channels in (1, images.shape[1])}
    need(is_shaped, f"shape {tuple(values.shape)}")
    need(values.dtype == images.dtype and not values.requires_grad, "type")
    need(bool(values.isfinite().all()), "not finite")
    # at the smallest settings only gradients must not be zero: a network with zero gradient ignores the image;
    # the ReLU of Grad-CAM may set all of its product with a gradient to zero
    need(bool(values.any()) or not spec.slopes or spec.name == "guided-grad-cam", "zero everywhere")
    is_flagged = torch.stack([*attribution.flags.values(), torch.zeros(2, dtype=torch.bool)]).any(dim=0)
    need(bool((values.flatten(1).any(dim=1) | is_flagged).all()), "zero everywhere without a flag")
    need((attribution.expected is not None) == ("completeness" in spec.axioms), "completeness")
    need(
        all(len(per_image) == 2 for per_image in (*attribution.details.values(), *attribution.flags.values())),
        "details",
    )


def need(condition: bool, message: str) -> None:
    """Raise BrokenError with the message unless ``condition``."""
    if not condition:
        raise BrokenError(message)


def count_rows(classifier: xplain.Classifier, size: Sequence[int]) -> Counter[str]:
    """Return a counter of the rows of forward and backward passes with images of ``size`` (height, width).

    Call this before the first use of the classifier, because working copies copy the hook. Backward passes from another layer than
    the logits are counted at the images, if they come before those from the logits. ``forwards`` counts rows of images; ``logits`` counts
    rows of logits, of which there are more if some layers run on several rows per image: see ``possible_forwards``.
    """
    rows: Counter[str] = Counter()

    def note(_: object, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        if inputs[0].shape[-2:] == tuple(size):
            rows["forwards"] += min(len(logits), len(inputs[0]))
            rows["logits"] += len(logits)
            passes: list[int] = []  # from these logits

            def count_from_logits(slope: Tensor) -> None:
                passes.append(len(slope))
                rows["backwards"] += min(len(slope), len(inputs[0]))

            def count_at_images(slope: Tensor) -> None:
                rows["backwards"] += 0 if passes else len(slope)

            for tensor, hook in ((logits, count_from_logits), (inputs[0], count_at_images)):
                if tensor.requires_grad:
                    tensor.register_hook(hook)

    classifier.register_forward_hook(note)
    return rows


def possible_forwards(rows: Counter[str]) -> set[int]:
    """Return the numbers of forward rows that a cost may state.

    LeGrad counts the rows of images, although the head runs on the tokens of every block. Ablation-CAM counts the rows of logits,
    although the first layers run once per image.
    """
    return {rows["forwards"], rows["logits"]}
