"""XRAI: integrated gradients summed over regions, the densest region first."""

from typing import Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Steps
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.methods._quadrature import quadrature
from xplain.methods._segmentation import regions
from xplain.methods.integrated_gradients import line_integral
from xplain.oracle import Oracle

SMALLEST_GAIN = 50  # pixels: a region that adds fewer is passed over


@method(
    "xrai",
    paper=Paper(
        "XRAI: better attributions through regions", "Kapishnikov, Bolukbasi, Viégas, Terry", 2019, "ICCV", "1906.02825"
    ),
    axioms=frozenset({"implementation-invariance"}),
    cost=lambda steps, **_: (2 * steps, 2 * steps),
    parallel=lambda steps, **_: steps,
    deviations="Baselines are black and white as in the paper; the authors' program takes the least and the greatest value of the image. "
    "Gauss-Legendre nodes instead of its uniform ones. Channels are collapsed by their maximum as in the program (reduce=max), so the "
    "sum of the map is not a difference of scores; with reduce=sum it is.",
    rounding="Regions are taken in the order of their densities: two that are nearly equal change places.",
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
    """Regions of the image, each at the mean of its integrated gradients, taken greedily.

    a = mean of the integrated gradients from black and from white (``steps`` nodes each), collapsed over the channels.
    Of many overlapping regions (Felzenszwalb at six scales) the one whose not yet covered pixels have the highest mean of a
    is added, again and again; those pixels get that mean. Regions that add fewer than 50 pixels are passed over,
    and what no region covers gets its own mean, so that Σ φ = Σ a.
    fast: rank the regions once, by their means over all their pixels.
    Returns (B, 1, H, W). x: (B, C, H, W) in [0, 1], y: (B,).
    """
    nodes, weights = quadrature("gauss-legendre", steps, x)
    ends = [torch.zeros_like(x), torch.ones_like(x)]
    total = sum(((x - end) * line_integral(oracle, x, y, end, nodes, weights) for end in ends), torch.zeros_like(x)) / 2
    values = total.amax(dim=1) if reduce == "max" else total.sum(dim=1)
    maps, counts = zip(*(_cover(*each, fast) for each in zip(values, regions(x), strict=True)), strict=True)
    expected = None
    if reduce == "sum":
        black, white = (oracle.scores(end, y, check=True) for end in ends)
        expected = oracle.scores(x, y, check=True) - (black + white) / 2
    return Attribution(torch.stack(maps)[:, None], expected=expected, details={"regions": torch.stack(counts)})


def _cover(values: Tensor, masks: Tensor, fast: bool) -> tuple[Tensor, Tensor]:
    """The map of one image from its values (H, W) and regions (N, H, W), and how many parts it has."""
    part = tile(values, masks, fast).flatten()
    sums = torch.zeros(int(part.max()) + 1, dtype=torch.float64, device=values.device)
    sizes = torch.zeros_like(sums).index_add_(0, part, torch.ones_like(part, dtype=torch.float64))
    means = sums.index_add_(0, part, values.flatten().double()) / sizes.clamp(min=1)
    return means[part].view_as(values).to(values.dtype), (sizes > 0).sum()


def tile(values: Tensor, masks: Tensor, fast: bool) -> Tensor:
    """(H, W) the part of the image each pixel belongs to: 1, 2, ... in the order of their choice; 0 is the rest.

    Sums over what is new in each region are kept up to date: a chosen pixel leaves all the regions that hold it.
    """
    flat, masks = values.flatten().double(), masks.flatten(1)
    part = torch.zeros_like(flat, dtype=torch.long)
    sums, new = masks.double() @ flat, masks.sum(dim=1)
    order = (sums / new.clamp(min=1)).argsort(descending=True, stable=True)
    free = torch.ones_like(new, dtype=torch.bool)
    for k in range(len(masks)):
        free &= new >= SMALLEST_GAIN
        if not bool(free.any()):
            break
        density = torch.where(free, sums / new.clamp(min=1), -torch.inf)
        best = order[free[order]][0] if fast else density.argmax()
        pixels = (masks[best] & (part == 0)).nonzero()[:, 0]
        part[pixels] = k + 1
        held = masks[:, pixels]
        sums, new = sums - held.double() @ flat[pixels], new - held.sum(dim=1)
        free[best] = False
    return part.view_as(values)
