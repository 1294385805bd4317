"""DGA: positive parts of local attributions, summed over increasingly distilled inputs."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Steps
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods.uniform_fullgrad import Zero, local_attribution, make_zero
from xplain.oracle import Oracle


@method(
    "dga",
    paper=Paper(
        "Distilled gradient aggregation: purify features for input attribution in the deep neural network",
        "Giyoung Jeon, Haedong Jeong, Jaesik Choi",
        2022,
        "NeurIPS",
    ),
    axioms=frozenset({"implementation-invariance"}),
    undecided={"sensitivity-a": "masks depend on ranks; values without influence share the biases"},
    cost=lambda steps, **_: (steps + 1, steps + 1),
    deviations="Algorithm 1 (start=include) sums over n = 0 .. N, Eq. 12 (start=exclude) averages over n = 1 .. N. masks=wc and masks=epc "
    "apply one mask without scale (Eq. 5), because Eq. 8 would start with an empty image. The paper never uses its parameter β.",
    added=frozenset({"positive", "sequence"}),
    plain=True,
    rounding="Masks threshold ranks: values near a threshold fall on either side of it in correct float32 implementations. Lowest cosine "
    "similarity on eight photographs: batch size 1 against 7 and auto 1.000; float32 against float64 0.89.",
)
def dga(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    steps: Steps = 30,
    quantile: Annotated[float, Bounds(low=0, high=1)] = 0.9,
    local: Literal["ufg", "gxi"] = "ufg",
    masks: Literal["both", "wc", "epc"] = "both",
    start: Literal["include", "exclude"] = "include",
    baseline: Zero = "mean",
    positive: bool = True,
    sequence: bool = False,
) -> Attribution:
    """Sum the positive local attributions over inputs from which weak and extreme features were removed.

    x̃(0) = x; for n = 0 .. N: φ_n = local attribution of x̃(n);
    x̃(n+1) = x ⊙ (n/N · M^WC + (1 - n/N) · M^EPC), where M^WC drops value j if the share of values k with |φ_k| <= |φ_j|
    is at most n/N, and M^EPC drops it if the share of values with φ_k <= φ_j exceeds ``quantile`` (Eq. 6 to 10; ties count).
    φ = Σ_n max(φ_n, 0), or Σ_n φ_n if not ``positive``, which sums to Σ_n f(x̃(n)) with local=ufg and start=include.
    Masks are per value (3·H·W). Ranks amplify rounding (see ``rounding``).

    x: (B, C, H, W) in [0, 1]. y: (B,).
    steps: number of distilled inputs N.
    quantile: share of the values that M^EPC keeps, from the lowest up.
    local: uniform-fullgrad (ufg) or input-x-gradient (gxi).
    masks: both masks, or M^WC (wc) or M^EPC (epc) alone.
    start: include or exclude n = 0.
    baseline: replaces dropped values; ``mean`` is the zero of the normalized input, as in the paper; or an image.
    positive: drop the negative parts of the local attributions, as the paper does.
    sequence: add the distilled inputs x̃(n) and the local attributions φ_n, both (B, N + 1, C, H, W), to ``details`` as ``inputs`` and
    ``maps``, which need N + 1 times the memory of the image. ``details`` always have the ``scores`` f(x̃(n)) (B, N + 1), and
    (B, N) the share of values that each mask keeps: ``kept_wc`` and ``kept_epc``.
    """
    zero = make_zero(baseline, x, oracle)
    total = torch.zeros_like(x)
    point = x
    scores, kept_wc, kept_epc, inputs, maps = [], [], [], [], []
    for n in range(steps + 1):
        values, score = local_attribution(oracle, point, y, zero, spread=local == "ufg")
        scores.append(score)
        if sequence:
            inputs.append(point)
            maps.append(values)
        if n > 0 or start == "include":
            total += values.clamp(min=0) if positive else values
        if n < steps:
            strong, common = _make_masks(values, n, steps, quantile)
            kept_wc.append(strong.flatten(1).mean(dim=1))
            kept_epc.append(common.flatten(1).mean(dim=1))
            point = zero + (x - zero) * _combine_masks(strong, common, n, steps, masks)
    details = {"scores": scores, "kept_wc": kept_wc, "kept_epc": kept_epc}
    if sequence:
        details |= {"inputs": inputs, "maps": maps}
    return Attribution(
        total if start == "include" else total / steps,
        details={name: torch.stack(parts, dim=1) for name, parts in details.items()},
    )


def _make_masks(values: Tensor, n: int, steps: int, quantile: float) -> tuple[Tensor, Tensor]:
    """Return M^WC and M^EPC (B, C, H, W) of the local attributions of input n: 1 where a value is kept, else 0."""
    size = values[0].numel()
    strong = _exceeds_lowest(values.abs(), n * size // steps).to(values.dtype)
    common = (~_exceeds_lowest(values, int(quantile * size + 1e-9))).to(values.dtype)
    return strong, common


def _combine_masks(strong: Tensor, common: Tensor, n: int, steps: int, masks: str) -> Tensor:
    """Return the factor (B, C, H, W) of each value in input n + 1."""
    if masks == "wc":
        return strong
    if masks == "epc":
        return common
    return n / steps * strong + (1 - n / steps) * common


def _exceeds_lowest(values: Tensor, count: int) -> Tensor:
    """Return True where more than ``count`` values of the image are <= the value: from the (count + 1)-th smallest up."""
    flat = values.flatten(1)
    if count >= flat.shape[1]:
        return torch.zeros_like(values, dtype=torch.bool)
    threshold = flat.kthvalue(count + 1, dim=1, keepdim=True).values
    return (flat >= threshold).unflatten(1, values.shape[1:])
