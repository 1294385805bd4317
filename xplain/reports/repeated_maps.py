"""What summaries say about metrics that run methods again: shares below a half, variances, overlaps of different images, and medians."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xplain.core.array_store import ArrayStore, Floats
from xplain.core.run_store import map_digest
from xplain.core.stability import SHARE, UNSTABLE
from xplain.reports.groups import without_nan
from xplain.reports.statistics import CONFIDENCE_LEVEL, estimate_mean, estimate_median, split_variance, wilson_interval
from xplain.reports.tables import format_number

MAX_IMAGES = 500  # whose saved maps are compared with those of other images
LEVEL = f"{CONFIDENCE_LEVEL:.0%}"


def is_stability(metric: Mapping[str, Any]) -> bool:
    """Return whether a metric of ``run.json`` is the overlap of a map with its repeats."""
    name, params = metric["metric"], metric["params"]
    return name.startswith("stability-") and params.get("similarity") == "top10"


def describe_repeats(metric: Mapping[str, Any], values: Floats, curves: Floats | None) -> dict[str, Any]:
    """Return the entries of a summary row that depend on the kind of metric; {} for most.

    values: (n,) with NaN where undefined. curves: (m, K), the overlaps with each repeat, or None.
    """
    defined = values[~np.isnan(values)]
    if metric.get("average") == "median":
        return {"median": without_nan(estimate_median(defined))}
    if not is_stability(metric) or not len(defined):
        return {}
    count = int((defined < UNSTABLE).sum())
    low, high = wilson_interval(count, len(defined))
    entry: dict[str, Any] = {"unstable": {"share": count / len(defined), "low": low, "high": high}}
    if curves is not None and len(curves) > 1:
        between, within = split_variance(curves)
        entry["variance"] = {"images": between, "repeats": within, "count": curves.shape[1]}
    return {"stability": entry}


def compare_images(folder: Path, method: Mapping[str, Any], label: str, keys: Sequence[str]) -> dict[str, Any] | None:
    """Return the mean overlap of the highest tenths of the saved maps of different images, with its interval and their number.

    Each image is paired with another one, along a random cycle. method: its description in ``run.json``. keys: of the images. None if fewer
    than two maps are saved.
    """
    store, mark = ArrayStore(folder / "maps", "attribution"), map_digest(method)
    order = np.random.default_rng(0).permutation(len(keys))[:MAX_IMAGES]
    saved = (store.load(keys[index], label, mark) for index in order)
    tops = [_highest(entry[0]) for entry in saved if entry is not None]
    if len(tops) < 2 or len({top.shape for top in tops}) > 1:
        return None
    count = max(round(SHARE * tops[0].size), 1)
    overlaps = [float((top & other).sum()) / count for top, other in zip(tops, [*tops[1:], tops[0]], strict=True)]
    estimate = estimate_mean(np.array(overlaps))
    return without_nan({"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "n": len(tops)})


def _highest(attribution: Floats) -> NDArray[np.bool_]:
    """Return which pixels (N,) of an attribution (C, H, W) are in the highest tenth of its channel sums. Ties keep raster order."""
    sums = attribution.sum(axis=0, dtype=np.float32).ravel()
    top = np.zeros(sums.size, dtype=bool)
    top[np.argsort(-sums, kind="stable")[: max(round(SHARE * sums.size), 1)]] = True
    return top


def repeat_notes(summary: Mapping[str, Any]) -> list[str]:
    """Return sentences about the rows with such entries, without a final period."""
    notes = []
    for row in summary["rows"]:
        name = f"{row['metric']} of {row['method']}"
        if median := row.get("median"):
            notes.append(f"{name}: {_describe_median(median)}")
        if entry := row.get("stability"):
            notes.append(f"{name}: {_describe_stability(entry)}")
    if any("median" in row for row in summary["rows"]):
        notes.append("compare medians of metrics with heavy tails rather than means")
    return notes


def _describe_median(entry: Mapping[str, Any]) -> str:
    if entry["median"] is None:
        return "no median"
    text = f"median {format_number(entry['median'], '.4g')}"
    if entry["low"] is not None:
        text += f" ({LEVEL} CI {entry['low']:.4g} to {entry['high']:.4g})"
    return f"{text}, quartiles {entry['lower_quartile']:.4g} and {entry['upper_quartile']:.4g}, n = {entry['n']}"


def _describe_stability(entry: Mapping[str, Any]) -> str:
    share = entry["unstable"]
    texts = [f"below {UNSTABLE} for {share['share']:.1%} of the images ({share['low']:.1%} to {share['high']:.1%})"]
    if variance := entry.get("variance"):
        repeats = f"{variance['repeats']:.2g} between the {variance['count']} repeats of an image"
        texts.append(f"variance {variance['images']:.2g} between images and {repeats}")
    if between := entry.get("between_images"):
        texts.append(f"maps of different images overlap by {between['mean']:.4f} (n = {between['n']})")
    return "; ".join(texts)
