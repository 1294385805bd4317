"""What every method must keep to on any classifier, checked at run time: for models that are too large for the contract tests."""

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

# of the largest value, in calls of one row and of two
CLOSE = 1e-3  # float32 through a hundred layers
EXACTLY = 1e-8  # float64, where float32 was not close


class BrokenError(Exception):
    """A promise that a method did not keep."""


def keep_contract(
    spec: MethodSpec, classifier: xplain.Classifier, images: Tensor, settings: Mapping[str, Any], rows: Counter[str]
) -> None:
    """Explain two images (2, 3, H, W), float32. Raises BrokenError unless the maps are what the method promises.

    Finite, of the images' size and type, for the top class, with a completeness sum exactly where one is claimed; every row counted,
    within the cost that is claimed; an image by itself as among others, but for methods that amplify rounding; the same bytes again.
    rows: what ``count_rows`` counts.
    """
    for fold in (False, True):  # made once a model, and tried on images of its own size
        inference_copy(classifier, fold=fold)
    rows.clear()
    found = xplain.attribute(classifier, images, spec.name, **settings)
    check_rows(spec, found.cost, settings, (rows["forwards"], rows["backwards"]))
    check_values(spec, found, images)
    with torch.no_grad():
        need(found.target.tolist() == classifier(images).argmax(dim=1).tolist(), "not the top class")
    alone, again = (xplain.attribute(classifier, images[1:], spec.name, **settings).values for _ in range(2))
    need(torch.equal(alone, again), "another map at the same seed")
    if not spec.rounding and apart(found.values[1:], alone) > CLOSE:
        check_exactly(spec, classifier, images, settings)


def check_exactly(spec: MethodSpec, classifier: xplain.Classifier, images: Tensor, settings: Mapping[str, Any]) -> None:
    """Raise BrokenError unless in float64 an image has the same map by itself as among others, to EXACTLY.

    Quotients of sums that cancel (LRP) lose digits without bound; a mistake does not get smaller with more digits.
    """
    exact, x = copy.deepcopy(classifier).double(), images.double()
    together, alone = (xplain.attribute(exact, some, spec.name, **settings).values[-1:] for some in (x, x[1:]))
    need((far := apart(together, alone)) <= EXACTLY, f"by itself an image has another map: {far:.1e} apart in float64")


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two maps, as a share of the largest value."""
    return float((one - other).abs().max() / one.abs().max().clamp(min=torch.finfo(one.dtype).tiny))


def check_rows(spec: MethodSpec, cost: Cost, settings: Mapping[str, Any], seen: tuple[int, int]) -> None:
    """Raise BrokenError unless what was ``seen`` of forward and backward rows was counted, and is what two images may cost."""
    need((cost.forwards + cost.checks, cost.backwards) == seen, f"rows: {cost} of {seen}")
    claims = spec.cost(**spec.resolve(settings))
    for spent, claim in zip((cost.forwards, cost.backwards), (2 * each for each in claims), strict=True):
        need(spent <= claim if spec.at_most else spent == claim, f"cost: {spent} where {claim} is claimed")


def check_values(spec: MethodSpec, found: xplain.Attribution, images: Tensor) -> None:
    """Raise BrokenError unless the maps are finite, of the images' size and type, and what is said of each image is there."""
    values = found.values
    need(values.shape in {(2, channels, *images.shape[2:]) for channels in (1, 3)}, f"shape {tuple(values.shape)}")
    need(values.dtype == images.dtype and not values.requires_grad, "type")
    need(bool(values.isfinite().all()), "not finite")
    # at the least settings only slopes are never zero: a network with slopes of zero does not look at the image
    need(bool(values.any()) or not spec.slopes, "zero everywhere")
    need((found.expected is not None) == ("completeness" in spec.axioms), "completeness")
    need(all(len(each) == 2 for each in (*found.details.values(), *found.flags.values())), "details")


def need(kept: bool, what: str) -> None:
    """Raise BrokenError unless ``kept``."""
    if not kept:
        raise BrokenError(what)


def count_rows(classifier: xplain.Classifier, size: Sequence[int]) -> Counter[str]:
    """Counts the rows of forward and backward passes with images of ``size`` (height, width) from now on.

    Set it up before the first use, for working copies copy it too.
    """
    rows: Counter[str] = Counter()

    def note(_: object, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        if inputs[0].shape[-2:] == tuple(size):
            rows["forwards"] += len(logits)
            if logits.requires_grad:
                logits.register_hook(lambda slope: rows.update(backwards=len(slope)))

    classifier.register_forward_hook(note)
    return rows
