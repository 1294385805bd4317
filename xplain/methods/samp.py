"""SAMP: gradients along greedy paths that delete or insert the pixels that change the score most."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import OR_IMAGES, Baseline, make_baseline
from xplain.data.filters import rise_blur
from xplain.oracle import Oracle

Paths = Literal["both", "deletion", "insertion"]
InsertionBaseline = Annotated[Literal["rise-blur", "black", "white", "mean", "blur", "uniform"], OR_IMAGES]
TOLERANCE = 1e-6  # moves that exceed the limit by less are not shortened


def _cost(steps: int, fragments: int, paths: Paths, **_: object) -> tuple[int, int]:
    """Return the maximum (forward, backward) rows per image."""
    rows = (steps + fragments) * (2 if paths == "both" else 1)
    return rows, rows


@method(
    "samp",
    paper=Paper(
        "Path choice matters for clear attribution in path methods",
        "Borui Zhang, Wenzhao Zheng, Jie Zhou, Jiwen Lu",
        2024,
        "ICLR",
        "2401.10442",
    ),
    axioms=frozenset({"implementation-invariance"}),
    undecided={
        "sensitivity-a": "the insertion path starts at a blurred image, which differs from the image everywhere"
    },
    cost=_cost,
    at_most=True,
    deviations="Pixels are chosen by the rank of their gain. The authors' code chooses all gains within 1e-6 of the quantile, so that "
    "small gains, as of probabilities, are all equal and the path becomes a straight line. The defaults of the code are 5 pixels per step, "
    "which is 20,070 gradients for 224 x 224 pixels, and fragments=5.",
    plain=True,
    rounding="Pixels move in the order of their gains: nearly equal gains are ordered differently by correct float32 implementations.",
)
def samp(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    paths: Paths = "both",
    steps: Steps = 224,
    fragments: Steps = 20,
    momentum: Annotated[float, Bounds(above=0, high=1)] = 1.0,
    reduction: Literal["sum", "norm"] = "sum",
    deletion_baseline: Baseline = "mean",
    insertion_baseline: InsertionBaseline = "rise-blur",
) -> Attribution:
    """Integrate the gradient along two greedy paths, from the image to a baseline and from a baseline to the image.

    Deletion starts at x and ends at x'₀, insertion starts at x'₁ and ends at x. In each step, Δ = end - point, a pixel's gain is
    Σ_c g Δ with g = ∇f(point), and the H W / ``steps`` pixels with the lowest (deletion) or highest (insertion) gains move to the end,
    and all pixels with the gain of the last of them. A move longer than ‖end - start‖₁ / ``fragments`` is shortened to that
    length, and its pixels move again later. The attribution of a pixel is Σ move ⊙ g over its moves and channels, negated for deletion.
    The sums of the paths approach f(x) - f(x'₀) and f(x) - f(x'₁) if fragments is high and momentum 1.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    paths: ``both`` adds the attributions of the two paths.
    steps: number of steps of a path that shortens no move; the number of pixels per step is rounded up.
    fragments: minimum number of moves of a path.
    momentum: λ of g ← λ ∇f(point) + (1-λ) g; 1 uses the current gradient only.
    reduction: ``sum``, or ``norm`` to scale each attribution to [0, 1] before they are added.
    deletion_baseline: x'₀, at which the deletion path ends. The attributions from all images of a directory are averaged.
    insertion_baseline: x'₁, at which the insertion path starts; ``rise-blur`` is the 11 x 11 blur of the RISE code. If both baselines
    are directories, their images are used in pairs.
    """
    ends: list[tuple[Tensor, Tensor, int]] = []
    if paths != "insertion":
        ends.append((x, make_baseline(deletion_baseline, x, oracle.mean_color(x), rng.child("deletion")), -1))
    if paths != "deletion":
        if isinstance(insertion_baseline, str) and insertion_baseline == "rise-blur":
            base = rise_blur(x)
        else:
            base = make_baseline(insertion_baseline, x, oracle.mean_color(x), rng.child("insertion"))
        ends.append((base, x, 1))
    count = len(x)
    signs = torch.cat([y.new_full((count,), sign) for _, _, sign in ends]).to(x.dtype)
    start, end = torch.cat([start for start, _, _ in ends]), torch.cat([end for _, end, _ in ends])
    maps, taken = _walk(oracle, start, end, signs, y, steps, fragments, momentum)
    if reduction == "norm":
        maps = _scale(maps)
    parts = maps.unflatten(0, (len(ends), count))
    return Attribution(
        parts.sum(dim=0)[:, None], details={"path_steps": taken.unflatten(0, (len(ends), count)).T.contiguous()}
    )


def _walk(
    oracle: Oracle,
    start: Tensor,
    end: Tensor,
    signs: Tensor,
    y: Tensor,
    steps: int,
    fragments: int,
    momentum: float,
) -> tuple[Tensor, Tensor]:
    """Return the attributions (P, H, W) of paths from ``start`` to ``end``, both (P, C, H, W), and their numbers of steps (P,).

    signs: (P,), 1 to move the highest gains first, -1 the lowest.
    y: targets (B,); path p is one of image p mod B.
    """
    pixels = start[0, 0].numel()
    size = -(-pixels // steps)
    limit = _length(end - start) / fragments
    point, result = start.clone(), torch.zeros_like(start[:, 0])
    gradient = torch.zeros_like(start)
    taken = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    while True:
        left = (point != end).any(dim=1)
        active = left.flatten(1).any(dim=1).nonzero()[:, 0]
        if len(active) == 0:
            return result, taken
        image = active % len(y)
        new = oracle.gradients(point[active], y[image], image).values
        is_first = (taken[active] == 0)[:, None, None, None]
        gradient[active] = torch.where(is_first, new, momentum * new + (1 - momentum) * gradient[active])
        change = end[active] - point[active]
        gain = (gradient[active] * change).sum(dim=1) * signs[active, None, None]
        chosen = _choose_highest(gain, left[active], size)[:, None]
        move = change * chosen
        share = limit[active] / _length(move).clamp(min=torch.finfo(torch.float64).tiny)
        is_whole = (share >= 1 - TOLERANCE)[:, None, None, None]
        move = torch.where(is_whole, move, share.to(move.dtype)[:, None, None, None] * move)
        point[active] = torch.where(chosen & is_whole, end[active], point[active] + move)
        result[active] += (move * gradient[active]).sum(dim=1) * signs[active, None, None]
        taken[active] += 1


def _choose_highest(gain: Tensor, left: Tensor, size: int) -> Tensor:
    """Return (P, H, W) bool: the ``size`` pixels with the highest gains among those that are left, and all that equal the last."""
    ranked = torch.where(left, gain.nan_to_num(nan=-torch.inf), -torch.inf).flatten(1)
    counts = left.flatten(1).sum(dim=1).clamp(max=size)
    ordered = ranked.sort(dim=1, descending=True).values
    last = ordered.gather(1, counts[:, None] - 1)
    return left & (ranked >= last).view_as(left)


def _length(difference: Tensor) -> Tensor:
    """Return the L1 norms (P,) in float64."""
    return difference.abs().flatten(1).sum(dim=1, dtype=torch.float64)


def _scale(maps: Tensor) -> Tensor:
    """Scale each map (P, H, W) to [0, 1]; constant maps become 0."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1)
