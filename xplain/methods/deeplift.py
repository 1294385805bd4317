"""DeepLIFT: differences to a baseline, propagated from the score to the pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import Baseline, make_baseline
from xplain.methods._references import check_shape
from xplain.methods._rescale_rules import RESCALE_TABLE
from xplain.methods._reveal_cancel_rules import REVEAL_CANCEL_TABLE
from xplain.oracle import Oracle
from xplain.oracle.propagation import propagate
from xplain.oracle.propagation_rules import Rules
from xplain.oracle.scores import contrast_weight

DeepLiftRule = Literal["rescale", "reveal-cancel"]
ALTERNATIVES: dict[DeepLiftRule, str] = {
    "rescale": "use integrated-gradients or uniform-fullgrad",
    "reveal-cancel": "use rule=rescale or integrated-gradients",
}


def _cost(rule: DeepLiftRule, references: int = 1, **_: object) -> tuple[int, int]:
    """Return the (forward, backward) rows per image."""
    rows = references * (2 if rule == "rescale" else 3)
    return rows, rows


@method(
    "deeplift",
    synonyms=("deep-shap",),
    added=frozenset({"baselines"}),
    paper=Paper(
        "Learning important features through propagating activation differences",
        "Avanti Shrikumar, Peyton Greenside, Anshul Kundaje",
        2017,
        "ICML",
        "1704.02685",
    ),
    axioms=frozenset({"sensitivity-a", "completeness"}),
    cost=_cost,
    parallel=lambda rule, **_: 2 if rule == "rescale" else 3,
    deviations="Not in the paper: max-pooling by the Rescale rule on v + ReLU(u - v), where u is the maximum at the image and v at the "
    "baseline, which is complete for overlapping windows too; products of activations by the mean of both orders; layer norms, "
    "RMS norms, divisions and softmaxes by steps with exact multipliers, which keep the sum (if the sums of a softmax's exponentials "
    "differ by 1000 times or more, by the steps log-softmax and exp). RevealCancel: convolutions and linear layers split "
    "differences by sign; additions, means and batch norms pass both parts on.",
)
def deeplift(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    references: Tensor | None,
    rule: DeepLiftRule = "rescale",
    baseline: Baseline = "black",
    center: bool = False,
    baselines: str | None = None,
) -> Attribution:
    """Attribute the difference in score from a baseline, using multipliers that satisfy the chain rule.

    C = m Δx, where Δ is the value at the image minus the value at the baseline, and Σ C = Δf. Linear operations: m is the
    weight. rule=rescale: m = Δy / Δx for an elementwise function y, or its derivative if Δx is within rounding.
    rule=reveal-cancel: Δx = Δx⁺ + Δx⁻ by the sign of the contributions w_i Δx_i to a convolution or linear layer (half each
    if Δx_i = 0), and each part gets its Shapley value in y: m⁺ = Δy⁺ / Δx⁺ with
    Δy⁺ = ½ [y(x'+Δx⁺) - y(x')] + ½ [y(x'+Δx⁺+Δx⁻) - y(x'+Δx⁻)], and Δy⁻ in the same way.
    Products ab, also of matrices: ā Δb + b̄ Δa, with means over image and baseline. Layer norms, RMS norms, divisions: products
    with the reciprocal r of the scale, and m_v = -(r r')² / (r + r') for its square v = r^-2. Softmaxes e / s of S: a product with
    1 / s, and m = Δe / ΔS. rule=reveal-cancel has no definition for norms, softmaxes and products of matrices.
    ``expected`` is the difference of the score. Defined for the logit, with or without contrast classes.

    x: (B, C, H, W) in [0, 1]. y: (B,).
    references: the images (N, C, H, W) of ``baselines``, or None.
    rule: the multipliers of elementwise functions, see above.
    baseline: as in ``integrated-gradients``.
    center: explain the logit minus the mean of all logits, the paper's adjustment for a softmax output.
    baselines: a directory of images, or in Python a tensor (N, C, H, W), instead of ``baseline``: the mean of the attributions from each
    image (DeepSHAP), as ``baseline`` does with a directory, which sums to the score minus the mean score of the baselines.
    Raises UsageError for other scores, for ``baselines`` with a ``baseline`` other than black, and for operations without a rule.
    """
    starts = _find_starts(x, references, baselines, baseline, oracle.mean_color(x), rng)
    table = RESCALE_TABLE if rule == "rescale" else REVEAL_CANCEL_TABLE
    rules = Rules(
        "deeplift", table, ALTERNATIVES[rule], frozenset({"logit"}), rows="any" if rule == "rescale" else "first"
    )
    if center:
        rules = replace(rules, transform_logits=_center)
    values = _attribute_difference(oracle, x, y, starts[0], rule, rules)
    expected = _expected_sum(oracle, x, y, starts[0], center)
    for start in starts[1:]:
        values = values + _attribute_difference(oracle, x, y, start, rule, rules)
        expected = expected + _expected_sum(oracle, x, y, start, center)
    return Attribution(values / len(starts), expected=expected / len(starts))


def _find_starts(
    x: Tensor, references: Tensor | None, baselines: str | None, baseline: Baseline, mean: Tensor, rng: Streams
) -> list[Tensor]:
    """Return the baselines, each (B, C, H, W): the references, or else the one of the kind ``baseline``."""
    if references is None:
        if baselines is not None:
            raise UsageError(f"deeplift: invalid value baselines={baselines}", "use a directory of images or none")
        return [make_baseline(baseline, x, mean, rng)]
    if baseline != "black":  # the default
        raise UsageError(f"deeplift: baseline={baseline} cannot be used with baselines", "remove one of them")
    check_shape(references, x)
    return [reference.expand_as(x) for reference in references]


def _attribute_difference(
    oracle: Oracle, x: Tensor, y: Tensor, start: Tensor, rule: DeepLiftRule, rules: Rules
) -> Tensor:
    """Return the contributions (B, C, H, W) of the differences between x and its baseline ``start``."""
    if rule == "rescale":
        multipliers = propagate(oracle, x, y, rules, start).gradients
        return (x - start) * multipliers[:, 0]
    above = torch.maximum(x, start)  # the baseline plus the positive differences
    multipliers = propagate(oracle, x, y, rules, start, above).gradients
    return (x - start) * multipliers[:, 0] + (above - start) * multipliers[:, 2]


def _center(logits: Tensor) -> Tensor:
    """Return the logits minus their mean over the classes."""
    return logits - logits.mean(dim=1, keepdim=True)


def _expected_sum(oracle: Oracle, x: Tensor, y: Tensor, start: Tensor, center: bool) -> Tensor:
    """Return the score (B,) at the image minus the score at the baseline."""
    change = oracle.score_change(start, x, y)
    share = 1.0 if oracle.against is None else 1.0 - contrast_weight(oracle.score)  # contrast classes cancel the mean
    if center and share:
        change = change - share * (oracle.logits(x, check=True) - oracle.logits(start, check=True)).mean(dim=1)
    return change
