"""The figures of the study as PNG images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from study_data import CONTROLS, PRIMARY, Network
from study_tables import STABILITY, UNSTABLE

from xplain.reports import rankings
from xplain.reports.figures import COLUMN_WIDTH, PAGE_WIDTH, new_figure
from xplain.reports.statistics import estimate_mean

SIZES = (2, 3, 4, 5, 6, 10, 20, 50, 100)
BLUE, ORANGE, GRAY = "#0072b2", "#d55e00", "#999999"
LINE = 0.13  # inches per method


def to_png(figure: Any) -> bytes:
    """Return a figure as PNG with 160 dots per inch."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=160, facecolor="white")
    return stream.getvalue()


def short_labels(metrics: Sequence[str]) -> list[str]:
    """Return the names of metrics, followed by the last option where two have the same name: ``difference (baseline=blur)``."""
    names = [metric.partition(":")[0] for metric in metrics]
    return [
        name if names.count(name) == 1 else f"{name} ({metric.rpartition(',')[2]})"
        for name, metric in zip(names, metrics, strict=True)
    ]


def draw_forest(network: Network) -> bytes:
    """Draw the paired differences to random in the primary metric with their intervals, best first."""
    estimates = [estimate_mean(row) for row in network.minus_random(PRIMARY)]
    order = sorted(range(len(estimates)), key=lambda index: estimates[index].mean)
    figure = new_figure(COLUMN_WIDTH, LINE * len(order) + 0.6, layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GRAY, linewidth=0.6)
    for y, index in enumerate(order):
        estimate = estimates[index]
        color = BLUE if estimate.low > 0 else ORANGE if estimate.high < 0 else GRAY
        axes.plot([estimate.low, estimate.high], [y, y], color=color, linewidth=1)
        axes.plot(estimate.mean, y, "o", color=color, markersize=2.5)
    axes.set_yticks(range(len(order)), [network.methods[index] for index in order], size=5.5)
    axes.set_ylim(-0.7, len(order) - 0.3)
    axes.set_xlabel("difference (mean fill) minus random")
    axes.set_title(network.title, size=7)
    return to_png(figure)


def draw_ranks(networks: Sequence[Network]) -> bytes:
    """Draw rank intervals in the primary metric, a panel per network; methods are in the order of the first one."""
    first = rankings.estimate_ranks(networks[0].oriented(PRIMARY))
    order = [networks[0].methods[index] for index in np.argsort(-first.rank, kind="stable")]
    figure = new_figure(PAGE_WIDTH, LINE * len(order) + 0.6, layout="constrained")
    panels = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
    for axes, network in zip(panels, networks, strict=True):
        ranks = rankings.estimate_ranks(network.oriented(PRIMARY))
        for y, label in enumerate(order):
            if label not in network.methods:
                continue
            index = network.methods.index(label)
            axes.plot([ranks.low[index], ranks.high[index]], [y, y], color=BLUE, linewidth=1)
            axes.plot(ranks.median[index], y, "o", color=BLUE, markersize=2.5)
        axes.set_title(f"{network.name}\nn = {len(network.images)}, {len(network.methods)} methods", size=7)
        axes.set_xlabel("rank (1 = best), 95 % interval")
    panels[0].set_yticks(range(len(order)), order, size=5.5)
    panels[0].set_ylim(-0.7, len(order) - 0.3)
    return to_png(figure)


def draw_agreement(network: Network) -> bytes:
    """Draw Kendall's tau between the orders of methods that the metrics give; below the diagonal the mean over single images."""
    metrics = network.ordered_metrics()
    kept = [index for index, label in enumerate(network.methods) if label not in CONTROLS]
    values = np.stack([network.oriented(metric)[kept] for metric in metrics])
    agreement = rankings.estimate_agreement(values)
    on_images = rankings.image_level_agreement(values)
    cells = np.where(np.tri(len(metrics), k=-1, dtype=bool), on_images, agreement.tau)
    figure = new_figure(min(0.42 * len(metrics) + 2.5, PAGE_WIDTH), 0.42 * len(metrics) + 0.6, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(cells, cmap="RdBu_r", vmin=-1, vmax=1)
    for row in range(len(metrics)):
        for column in range(len(metrics)):
            if np.isnan(cells[row, column]):  # a metric that gives all methods the same value has no order
                continue
            text = f"{cells[row, column]:.2f}"
            if column > row:
                text += f"\n{agreement.low[row, column]:.2f} to\n{agreement.high[row, column]:.2f}"
            color = "white" if abs(cells[row, column]) > 0.7 else "black"
            axes.text(column, row, text, ha="center", va="center", size=4.5, color=color)
    numbers = [str(number) for number in range(1, len(metrics) + 1)]
    labels = [f"{label}  {number}" for label, number in zip(short_labels(metrics), numbers, strict=True)]
    axes.set_xticks(range(len(metrics)), numbers, size=5.5)
    axes.set_yticks(range(len(metrics)), labels, size=5.5)
    title = f"Kendall's τ of the orders of {len(kept)} methods;\nbelow the diagonal: on single images"
    axes.set_title(f"{title}\n{network.title}", size=7)
    figure.colorbar(image, ax=axes, shrink=0.7).ax.tick_params(labelsize=5.5)
    return to_png(figure)


def draw_stability_of_order(networks: Sequence[Network]) -> bytes:
    """Draw the agreement of the orders of two disjoint sets of images against their size."""
    figure = new_figure(COLUMN_WIDTH, 2.4, layout="constrained")
    axes = figure.subplots()
    for network in networks:
        sizes = [size for size in SIZES if 2 * size <= len(network.images)]
        taus = rankings.order_stability(network.oriented(PRIMARY), sizes)
        label = f"{network.title}, {len(network.methods)} methods"
        axes.plot(sizes, taus, "o-", markersize=3, linewidth=1, label=label)
    axes.set_xticks([size for size in SIZES if 2 * size <= max(len(network.images) for network in networks)])
    axes.set_xlabel("images per set")
    axes.set_ylabel("Kendall's τ of the two orders")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=6)
    return to_png(figure)


def draw_stability_and_faithfulness(network: Network) -> bytes:
    """Draw the stability of each method against its difference to random."""
    stability = np.fmin(*(rankings.mean_defined(network.values[source]) for source in STABILITY))
    gain = rankings.mean_defined(network.minus_random(PRIMARY))
    figure = new_figure(PAGE_WIDTH, 4.2, layout="constrained")
    axes = figure.subplots()
    points: dict[tuple[float, float], list[str]] = {}  # methods at nearly the same point share a number
    for index in sorted(np.flatnonzero(np.isfinite(stability)), key=lambda index: -gain[index]):
        label = network.methods[index]
        color = ORANGE if label in CONTROLS else BLUE
        axes.plot(stability[index], gain[index], "o", color=color, markersize=3)
        points.setdefault((round(stability[index], 2), round(gain[index], 2)), []).append(label)
    for number, point in enumerate(points, 1):
        axes.annotate(str(number), point, (3, 2), textcoords="offset points", size=5)
    names = [f"{number} {label}" for number, labels in enumerate(points.values(), 1) for label in labels]
    axes.text(1.02, 1, "\n".join(names), transform=axes.transAxes, va="top", size=5, linespacing=1.3)
    axes.axhline(0, color=GRAY, linewidth=0.6)
    axes.axvline(0.1, color=GRAY, linewidth=0.6, linestyle=":")
    axes.axvline(UNSTABLE, color=GRAY, linewidth=0.6, linestyle="--")
    axes.set_xlim(0, 1.05)
    axes.set_xlabel(
        f"share of the highest tenth that stays (smaller of draws and noise); dotted: chance; dashed: {UNSTABLE}"
    )
    axes.set_ylabel("difference (mean fill) minus random")
    axes.set_title(network.title, size=7)
    return to_png(figure)


def draw_fills(network: Network) -> bytes:
    """Draw the rank of each method under the fills of difference."""
    ranks = {name: rankings.rank_best_first(rankings.mean_defined(values)) for name, values in network.fills().items()}
    figure = new_figure(PAGE_WIDTH, LINE * len(network.methods) + 0.6, layout="constrained")
    axes = figure.subplots()
    x = np.arange(len(ranks))
    last: dict[float, list[str]] = {}
    for index, label in enumerate(network.methods):
        heights = [values[index] for values in ranks.values()]
        color = ORANGE if label in CONTROLS else BLUE
        axes.plot(x, heights, "o-", color=color, markersize=2, linewidth=0.6, alpha=0.7)
        last.setdefault(heights[-1], []).append(label)
    for height, labels in last.items():
        axes.annotate(", ".join(labels), (x[-1], height), (4, -2), textcoords="offset points", size=5)
    axes.set_xticks(x, [f"fill: {name}" for name in ranks])
    axes.set_xlim(-0.1, len(ranks) - 0.4)
    axes.set_ylim(len(network.methods) + 0.7, 0.3)
    axes.set_ylabel("rank in difference (1 = best)")
    axes.set_title(network.title, size=7)
    return to_png(figure)
