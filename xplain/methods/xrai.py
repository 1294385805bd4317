"""XRAI: integrated gradients averaged over regions, the region with the highest mean first."""

from typing import Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Steps
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._quadrature import quadrature
from xplain.methods._segmentation import describe_segmented_bands, find_regions
from xplain.methods.integrated_gradients import line_integral
from xplain.oracle import Oracle

MIN_NEW_PIXELS = 50  # ignore regions that add fewer pixels


@method(
    "xrai",
    paper=Paper(
        "XRAI: better attributions through regions",
        "Andrei Kapishnikov, Tolga Bolukbasi, Fernanda Viégas, Michael Terry",
        2019,
        "ICCV",
        "1906.02825",
    ),
    axioms=frozenset({"implementation-invariance"}),
    violates=frozenset({"sensitivity-a"}),
    cost=lambda steps, **_: (2 * steps, 2 * steps),
    parallel=lambda steps, **_: steps,
    deviations="Baselines are black and white as in the paper; the authors' code uses the minimum and the maximum of the image. "
    "Gauss-Legendre nodes replace the uniform nodes of the code. Channels are reduced by their maximum as in the code (reduce=max), so "
    "the sum of the map is not a difference of scores; with reduce=sum it is.",
    rounding="Regions are chosen in the order of their means: nearly equal means may be ordered differently.",
)
def xrai(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    steps: Steps = 100,
    fast: bool = False,
    reduce: Literal["max", "sum"] = "max",
) -> Attribution:
    """Select regions greedily by their mean integrated gradient and assign that mean to their pixels.

    a = mean of the integrated gradients from black and from white (``steps`` nodes each), reduced over the channels.
    Candidates are overlapping regions (Felzenszwalb at six scales). Repeatedly, the region whose uncovered pixels have the highest mean of
    a is chosen, and those pixels get that mean. Regions that add fewer than 50 pixels are ignored,
    and pixels that no region covers get their own mean, so that Σ φ = Σ a. Returns (B, 1, H, W).

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    steps: nodes per baseline.
    fast: rank the regions once, by their means over all their pixels.
    reduce: maximum or sum over the channels.
    """
    nodes, weights = quadrature("gauss-legendre", steps, x)
    black, white = torch.zeros_like(x), torch.ones_like(x)
    total = torch.zeros_like(x)
    for baseline in (black, white):
        total = total + (x - baseline) * line_integral(oracle, x, y, baseline, nodes, weights)
    total = total / 2
    pixel_values = total.amax(dim=1) if reduce == "max" else total.sum(dim=1)
    maps, counts = [], []
    for image_values, masks in zip(pixel_values.cpu(), find_regions(x), strict=True):
        part = partition(image_values, masks, fast)
        averaged, count = _average_parts(image_values, part)
        maps.append(averaged)
        counts.append(count)
    expected = None
    if reduce == "sum":
        black_score, white_score = oracle.scores(black, y, check=True), oracle.scores(white, y, check=True)
        expected = oracle.scores(x, y, check=True) - (black_score + white_score) / 2
    return Attribution(
        torch.stack(maps)[:, None].to(x.device),
        expected=expected,
        details={"regions": torch.stack(counts).to(x.device)},
        facts=describe_segmented_bands(x),
    )


def _average_parts(values: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """Average the values (H, W) of an image over its segments ``part`` (H, W). Return the map (H, W) and the number of segments."""
    part = part.flatten()
    sums = torch.zeros(int(part.max()) + 1, dtype=torch.float64, device=values.device)
    sizes = torch.zeros_like(sums).index_add_(0, part, torch.ones_like(part, dtype=torch.float64))
    means = sums.index_add_(0, part, values.flatten().double()) / sizes.clamp(min=1)
    return means[part].view_as(values).to(values.dtype), (sizes > 0).sum()


def partition(values: Tensor, masks: Tensor, fast: bool) -> Tensor:
    """Return the part (H, W) of each pixel: 1, 2, ... in the order in which the regions are chosen; 0 for uncovered pixels.

    values: (H, W). masks: (N, H, W) bool regions. fast: rank the regions once.
    The sums over each region's uncovered pixels are updated incrementally: a chosen pixel is subtracted from all its regions.
    """
    flat, masks = values.flatten().double(), masks.flatten(1)
    part = torch.zeros_like(flat, dtype=torch.long)
    sums, new = masks.double() @ flat, masks.sum(dim=1)
    order = (sums / new.clamp(min=1)).argsort(descending=True, stable=True)
    available = torch.ones_like(new, dtype=torch.bool)
    for k in range(len(masks)):
        available &= new >= MIN_NEW_PIXELS
        if not bool(available.any()):
            break
        density = torch.where(available, sums / new.clamp(min=1), -torch.inf)
        best = order[available[order]][0] if fast else density.argmax()
        pixels = (masks[best] & (part == 0)).nonzero()[:, 0]
        part[pixels] = k + 1
        covered = masks[:, pixels]
        sums, new = sums - covered.double() @ flat[pixels], new - covered.sum(dim=1)
        available[best] = False
    return part.view_as(values)
