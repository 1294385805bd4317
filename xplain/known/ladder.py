"""Maps of known quality: rungs that leave the best map step by step, and pairs of equal quality that differ in one property."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from xplain.core.rng import seed_of
from xplain.data.filters import gaussian_blur
from xplain.known.truth import SIDE, Draw, Planted

VERSION = 1  # of the maps
RUNGS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # shares of the relevant pixels that are wrong
KINDS = ("swap", "miss", "spill", "blur", "sign")
CONTROLS = ("random", "reversed", "center")
# Pairs of maps with equal ROC curves, by property: the metric should prefer neither.
PAIRS = {
    "smooth": ("smooth", "scattered"),
    "dense": ("dense tail", "sparse tail"),
    "central": ("central miss", "peripheral miss"),
}
BEST = "best"
NOISE = 1e-6  # breaks ties, in the same way in all rungs
BLUR = 8.0  # standard deviation of the blur of the last rung, in pixels


def rung_name(kind: str, share: float) -> str:
    """Return the name of a rung; the first rung of every kind is the best map."""
    return f"{kind} {share:g}" if share else BEST


def rung_pairs() -> list[tuple[float, float]]:
    """Return the pairs of shares of which the first is better."""
    return list(combinations(RUNGS, 2))


def make_ladder(planted: Planted, i: int, seed: int, key: str) -> dict[str, Tensor]:
    """Return the maps (1, SIDE, SIDE) for image ``i`` by name: rungs, controls and pairs. Equal seeds and keys give equal maps.

    The rungs of a kind are nested: each has the errors of those before it. ``swap`` exchanges relevant pixels with others, ``miss``
    sets them to 0, ``spill`` copies them to others, ``blur`` blurs the map and ``sign`` negates them.
    """
    assert planted.relevant is not None
    draw = Draw(seed_of(seed, "known ladder", key), 1)
    relevant = planted.relevant[i].flatten()
    best = planted.truth_map[i].flatten() + NOISE * draw.uniform(SIDE**2)
    inside, outside = ((relevant == value).nonzero()[:, 0] for value in (1, 0))
    inside, outside = inside[draw.order(len(inside))], outside[draw.order(len(outside))]
    count = min(len(inside), len(outside))
    maps = {BEST: best}
    for kind in KINDS:
        for share in RUNGS[1:]:
            maps[rung_name(kind, share)] = _spoil(best, kind, share, inside[:count], outside[:count])
    axis = torch.arange(SIDE, dtype=torch.float64) - (SIDE - 1) / 2
    distance = torch.hypot(axis[:, None], axis).flatten()
    maps |= {"random": draw.uniform(SIDE**2), "reversed": -best, "center": -distance}
    maps |= _make_pairs(draw, inside, outside)
    return {name: values.reshape(1, SIDE, SIDE) for name, values in maps.items()}


def _spoil(best: Tensor, kind: str, share: float, inside: Tensor, outside: Tensor) -> Tensor:
    """Return the best map (N,) with a share of its pixels ``inside`` made wrong, with the help of as many pixels ``outside``."""
    if kind == "blur":
        return gaussian_blur(best.reshape(1, 1, SIDE, SIDE), BLUR * share).flatten()
    map_ = best.clone()
    count = round(share * len(inside))
    wrong, others = inside[:count], outside[:count]
    if kind == "swap":
        map_[wrong], map_[others] = best[others], best[wrong]
    elif kind == "miss":
        map_[wrong] = best[wrong] % NOISE
    elif kind == "spill":
        map_[others] = best[wrong]
    else:
        map_[wrong] = -best[wrong]
    return map_


def _make_pairs(draw: Draw, inside: Tensor, outside: Tensor) -> dict[str, Tensor]:
    """Return the maps of PAIRS. The two maps of a pair have the same values on relevant pixels and the same on others, in another order."""
    half = len(inside) // 2
    high = 1 + 0.01 * draw.uniform(2, half + 1)
    low = 0.5 * draw.uniform(SIDE**2)

    def fill(hits: Tensor, misses: Tensor, alarms: Tensor, rest: Tensor) -> Tensor:
        values = torch.empty(SIDE**2, dtype=torch.float64)
        values[hits] = _take(high[0], len(hits))
        values[alarms] = _take(high[1], len(alarms))
        values[torch.cat([misses, rest])] = low[: len(misses) + len(rest)]
        return values

    ordered = inside.sort().values
    distance = _distances(outside[0])[outside]
    near = outside[distance.argsort(stable=True)]
    smooth = fill(ordered[half:], ordered[:half], near[:half], near[half:])
    scattered = fill(inside[half:], inside[:half], outside[:half], outside[half:])
    sparse = torch.where(scattered < 0.9, scattered * 1e-3, scattered)
    maps = {"smooth": smooth, "scattered": scattered, "dense tail": scattered, "sparse tail": sparse}
    inner = _interior(inside)
    if len(inner):
        border = inside[~torch.isin(inside, inner)]
        count = min(len(inner), len(border))
        inner = inner[draw.order(len(inner))]
        none = inside[:0]
        for name, missed in (("central miss", inner[:count]), ("peripheral miss", border[:count])):
            hits = inside[~torch.isin(inside, missed)]
            maps[name] = fill(hits, missed, none, outside)
    return maps


def _take(values: Tensor, count: int) -> Tensor:
    """Return the first ``count`` values, repeated if there are fewer."""
    return values.repeat(-(-count // len(values)))[:count]


def _distances(pixel: Tensor) -> Tensor:
    """Return the distance (N,) of each pixel from one pixel."""
    axis = torch.arange(SIDE, dtype=torch.float64)
    return torch.hypot(axis[:, None] - pixel // SIDE, axis - pixel % SIDE).flatten()


def _interior(inside: Tensor) -> Tensor:
    """Return the pixels whose 8 neighbors are all among ``inside``."""
    mask = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.float64)
    mask.view(-1)[inside] = 1
    neighbors = torch.nn.functional.avg_pool2d(mask, 3, stride=1, padding=1)
    return (neighbors.flatten() > 1 - 1e-9).nonzero()[:, 0]
