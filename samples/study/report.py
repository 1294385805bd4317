"""Write the tables and figures of the study: ``python samples/study/report.py RUNS [FOLDER]``.

RUNS is the output directory of the commands in study.toml: a run per network. FOLDER, by default the folder of this script, receives
tables/*.md, figures/*.png and items.csv.xz with the value of every image, method and metric. Only the items of the runs are read.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xplain.core.run_store import settings_digest
from xplain.pipelines.evaluated_runs import EvaluatedRun
from xplain.reports import rankings
from xplain.reports.figures import COLUMN_WIDTH, PAGE_WIDTH, new_figure, paper_style
from xplain.reports.statistics import estimate_mean, holm_correction, paired_difference, sign_flip_test
from xplain.reports.tables import markdown_table

PRIMARY = "difference:steps=28,baseline=mean"
INSERTION, DELETION = "insertion:steps=28", "deletion:steps=28"
FILLS = {"mean": PRIMARY, "blur": "difference:steps=28,baseline=blur"}  # black: insertion minus deletion
CONTROLS = ("random", "sobel", "center")
SIZES = (5, 10, 20, 50, 100)
SIGNIFICANCE = 0.05
Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Network:
    """The values of a run: metric label -> (methods, images), NaN where undefined or not evaluated, with the sign of the metric."""

    name: str
    methods: list[str]
    images: list[str]
    values: dict[str, Array]
    signs: dict[str, int]
    seconds: Array
    rows: Array

    @classmethod
    def read(cls, folder: Path) -> Network:
        """Read a run. The images are those with a value of every method for the primary metric."""
        run = EvaluatedRun.read(folder, folder.name)
        methods = list(run.description["methods"])
        metrics = run.metrics
        complete = set(run.images)
        for label in methods:
            complete &= set(stored_values(run, label, metrics[PRIMARY]))
        images = sorted(complete)
        values, signs = {}, {}
        for metric, settings in metrics.items():
            rows = [stored_values(run, label, settings) for label in methods]
            values[metric] = np.array([[row.get(key, np.nan) for key in images] for row in rows], dtype=np.float64)
            signs[metric] = {"higher": 1, "lower": -1}.get(settings["better"], 0)
        seconds, rows = read_costs(folder, methods)
        return cls(folder.name, methods, images, values, signs, seconds, rows)

    def oriented(self, metric: str) -> Array:
        """Return the values (methods, images) with the sign changed if lower is better."""
        return self.values[metric] * self.signs[metric]

    def ranked_metrics(self) -> list[str]:
        """Return the metrics with a better direction that were evaluated for all methods."""
        return [
            metric
            for metric, values in self.values.items()
            if self.signs[metric] and np.isfinite(values).any(axis=1).all()
        ]


def stored_values(run: EvaluatedRun, label: str, settings: dict) -> dict[str, float]:
    """Return the values of a method and metric by image, with NaN for undefined ones."""
    values = run.values.get(settings_digest(run.description["methods"][label], settings), {})
    return {key: np.nan if value is None else value for key, value in values.items()}


def read_costs(folder: Path, methods: list[str]) -> tuple[Array, Array]:
    """Return the mean seconds and the mean forward plus backward rows (methods,) of an attribution."""
    costs: dict[str, dict[str, tuple[float, float]]] = {label: {} for label in methods}
    for path in sorted((folder / "items").glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            record = json.loads(line)
            if record.get("method") in costs and "cost" in record:
                cost = record["cost"]
                costs[record["method"]][record["key"]] = (cost["seconds"], cost["forwards"] + cost["backwards"])
    means = np.array([np.mean(list(costs[label].values()), axis=0) for label in methods])
    return means[:, 0], means[:, 1]


def primary_table(network: Network) -> str:
    """Return the primary result as Markdown: mean, difference to random with interval and corrected p value, rank with interval."""
    values = network.oriented(PRIMARY)
    random = values[network.methods.index("random")]
    ranks = rankings.estimate_ranks(values)
    tested = [index for index, label in enumerate(network.methods) if label != "random"]
    p = np.full(len(values), np.nan)
    p[tested] = holm_correction(sign_flip_test((values[tested] - random).T))
    rows = []
    for index in np.argsort(ranks.rank, kind="stable"):
        mean, difference = estimate_mean(values[index]), paired_difference(values[index], random)
        beats = p[index] < SIGNIFICANCE and difference.mean > 0
        rows.append(
            [
                f"`{network.methods[index]}`",
                f"{mean.mean:.3f} ({mean.low:.3f} to {mean.high:.3f})",
                f"{difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})",
                "" if np.isnan(p[index]) else format_p(p[index]),
                "yes" if beats else "no",
                f"{ranks.median[index]:.0f} ({ranks.low[index]:.0f} to {ranks.high[index]:.0f})",
                f"{ranks.top5[index]:.2f}",
            ]
        )
    heading = ["method", "difference (mean fill)", "minus random", "p (Holm)", "better than random", "rank", "P(top 5)"]
    return markdown_table(heading, rows)


def format_p(p: float) -> str:
    """Return a p value with two digits, or as a bound below 0.001."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def metrics_table(network: Network) -> str:
    """Return the mean of every metric per method as Markdown; bold means are not distinguishable from the best of the column.

    A method is distinguishable if the 95 % interval of its paired difference to the best mean excludes 0.
    """
    columns = []
    for metric, values in network.values.items():
        means = rankings.mean_defined(values)
        texts = ["" if np.isnan(mean) else f"{mean:.3f}" for mean in means]
        sign = network.signs[metric]
        if sign and np.isfinite(means).any():
            best = int(np.nanargmax(means * sign))
            for index, text in enumerate(texts):
                difference = paired_difference(values[index], values[best])
                if text and (index == best or difference.low <= 0 <= difference.high):
                    texts[index] = f"**{text}**"
        columns.append(texts)
    arrows = {1: " ↑", -1: " ↓", 0: ""}
    heading = ["method", *(f"{metric}{arrows[network.signs[metric]]}" for metric in network.values)]
    rows = [[f"`{label}`", *cells] for label, *cells in zip(network.methods, *columns, strict=True)]
    return markdown_table(heading, rows)


def cost_table(network: Network) -> str:
    """Return rows, seconds and primary result per method as Markdown, cheapest first."""
    means = rankings.mean_defined(network.oriented(PRIMARY))
    rows = []
    for index in np.argsort(network.rows, kind="stable"):
        cells = [f"`{network.methods[index]}`", f"{network.rows[index]:.0f}", f"{network.seconds[index]:.2f}"]
        rows.append([*cells, f"{means[index]:.3f}"])
    return markdown_table(["method", "rows per image", "seconds per image", "difference (mean fill)"], rows)


def networks_table(networks: list[Network]) -> str:
    """Return, per metric, Kendall's tau between the orders of the networks as Markdown."""
    rows = []
    metrics = [m for m in networks[0].ranked_metrics() if all(m in other.ranked_metrics() for other in networks[1:])]
    pairs = [(a, b) for i, a in enumerate(networks) for b in networks[i + 1 :]]
    for metric in metrics:
        cells = []
        for a, b in pairs:
            means = np.stack([rankings.mean_defined(network.oriented(metric)) for network in (a, b)])
            tau = rankings.pairwise_tau(means)[0, 1]
            cells.append("" if np.isnan(tau) else f"{tau:.2f}")
        rows.append([metric, *cells])
    return markdown_table(["metric", *(f"{a.name}, {b.name}" for a, b in pairs)], rows)


def fill_means(network: Network) -> dict[str, Array]:
    """Return the values (methods, images) of difference by fill."""
    black = network.values[INSERTION] - network.values[DELETION]
    return {"black": black, **{name: network.values[metric] for name, metric in FILLS.items()}}


def to_png(figure: Any) -> bytes:
    """Return a figure as PNG with 160 dots per inch."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=160, facecolor="white")
    return stream.getvalue()


def draw_forest(network: Network) -> bytes:
    """Draw the paired differences to random in the primary metric with their intervals, best first."""
    values = network.oriented(PRIMARY)
    random = values[network.methods.index("random")]
    estimates = [paired_difference(row, random) for row in values]
    order = sorted(range(len(estimates)), key=lambda index: estimates[index].mean)
    figure = new_figure(COLUMN_WIDTH, 0.12 * len(order) + 0.5, layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="#999999", linewidth=0.6)
    for y, index in enumerate(order):
        estimate = estimates[index]
        color = "#0072b2" if estimate.low > 0 else "#d55e00" if estimate.high < 0 else "#999999"
        axes.plot([estimate.low, estimate.high], [y, y], color=color, linewidth=1)
        axes.plot(estimate.mean, y, "o", color=color, markersize=2.5)
    axes.set_yticks(range(len(order)), [network.methods[index] for index in order], size=5.5)
    axes.set_ylim(-0.7, len(order) - 0.3)
    axes.set_xlabel("difference (mean fill) minus random, 95 % interval")
    axes.set_title(f"{network.name}, n = {len(network.images)}", size=7)
    return to_png(figure)


def draw_ranks(networks: list[Network]) -> bytes:
    """Draw rank intervals in the primary metric, a panel per network; methods are in the order of the first one."""
    first = rankings.estimate_ranks(networks[0].oriented(PRIMARY))
    order = [networks[0].methods[index] for index in np.argsort(-first.rank, kind="stable")]
    figure = new_figure(PAGE_WIDTH, 0.12 * len(order) + 0.5, layout="constrained")
    panels = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
    for axes, network in zip(panels, networks, strict=True):
        ranks = rankings.estimate_ranks(network.oriented(PRIMARY))
        for y, label in enumerate(order):
            if label not in network.methods:
                continue
            index = network.methods.index(label)
            axes.plot([ranks.low[index], ranks.high[index]], [y, y], color="#0072b2", linewidth=1)
            axes.plot(ranks.median[index], y, "o", color="#0072b2", markersize=2.5)
        axes.set_title(f"{network.name}, n = {len(network.images)}", size=7)
        axes.set_xlabel("rank (1 = best), 95 % interval")
    panels[0].set_yticks(range(len(order)), order, size=5.5)
    panels[0].set_ylim(-0.7, len(order) - 0.3)
    return to_png(figure)


def draw_agreement(network: Network) -> bytes:
    """Draw Kendall's tau between the orders of methods that the metrics give; below the diagonal the mean over single images."""
    metrics = network.ranked_metrics()
    kept = [index for index, label in enumerate(network.methods) if label not in CONTROLS]
    values = np.stack([network.oriented(metric)[kept] for metric in metrics])
    agreement = rankings.estimate_agreement(values)
    cells = np.where(np.tri(len(metrics), k=-1, dtype=bool), rankings.image_level_agreement(values), agreement.tau)
    figure = new_figure(PAGE_WIDTH, 0.42 * len(metrics) + 0.6, layout="constrained")
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
    axes.set_xticks(range(len(metrics)), numbers, size=5.5)
    labels = [f"{metric}  {number}" for metric, number in zip(metrics, numbers, strict=True)]
    axes.set_yticks(range(len(metrics)), labels, size=5.5)
    title = f"Kendall's τ of the orders of {len(kept)} methods; below the diagonal: on single images"
    axes.set_title(f"{title}. {network.name}, n = {len(network.images)}", size=7)
    figure.colorbar(image, ax=axes, shrink=0.7).ax.tick_params(labelsize=5.5)
    return to_png(figure)


def draw_stability_of_order(networks: list[Network]) -> bytes:
    """Draw the agreement of the orders of two disjoint sets of images against their size."""
    figure = new_figure(COLUMN_WIDTH, 2.4, layout="constrained")
    axes = figure.subplots()
    for network in networks:
        sizes = [size for size in SIZES if 2 * size <= len(network.images)]
        taus = rankings.order_stability(network.oriented(PRIMARY), sizes)
        axes.plot(sizes, taus, "o-", markersize=3, linewidth=1, label=f"{network.name}, n = {len(network.images)}")
    axes.set_xlabel("images per set")
    axes.set_ylabel("Kendall's τ of the two orders")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=6)
    return to_png(figure)


def draw_stability_and_faithfulness(network: Network) -> bytes | None:
    """Draw the stability of each method against its difference to random; None if the stability was not evaluated."""
    sources = [metric for metric in ("stability-draws", "stability-noise") if metric in network.values]
    if not sources:
        return None
    stability = np.min([rankings.mean_defined(network.values[metric]) for metric in sources], axis=0)
    values = network.oriented(PRIMARY)
    gain = rankings.mean_defined(values - values[network.methods.index("random")])
    figure = new_figure(PAGE_WIDTH, 4.2, layout="constrained")
    axes = figure.subplots()
    for index in np.flatnonzero(np.isfinite(stability)):
        color = "#d55e00" if network.methods[index] in CONTROLS else "#0072b2"
        axes.plot(stability[index], gain[index], "o", color=color, markersize=3)
        axes.annotate(
            network.methods[index], (stability[index], gain[index]), (3, 2), textcoords="offset points", size=5
        )
    axes.axhline(0, color="#999999", linewidth=0.6)
    axes.axvline(0.1, color="#999999", linewidth=0.6, linestyle=":")
    axes.set_xlabel("share of the highest tenth that stays (smaller of draws and noise); dotted: chance")
    axes.set_ylabel("difference (mean fill) minus random")
    axes.set_title(f"{network.name}, n = {len(network.images)}", size=7)
    return to_png(figure)


def draw_fills(network: Network) -> bytes:
    """Draw the rank of each method under the three fills of difference."""
    fills = fill_means(network)
    ranks = {name: rankings.rank_best_first(rankings.mean_defined(values)) for name, values in fills.items()}
    figure = new_figure(PAGE_WIDTH, 0.11 * len(network.methods) + 0.6, layout="constrained")
    axes = figure.subplots()
    x = np.arange(len(ranks))
    for index, label in enumerate(network.methods):
        heights = [values[index] for values in ranks.values()]
        color = "#d55e00" if label in CONTROLS else "#0072b2"
        axes.plot(x, heights, "o-", color=color, markersize=2, linewidth=0.6, alpha=0.7)
        axes.annotate(label, (x[-1], heights[-1]), (4, -2), textcoords="offset points", size=5)
    axes.set_xticks(x, [f"fill: {name}" for name in ranks])
    axes.set_xlim(-0.1, len(ranks) - 0.4)
    axes.invert_yaxis()
    axes.set_ylabel("rank in difference (1 = best)")
    axes.set_title(f"{network.name}, n = {len(network.images)}", size=7)
    return to_png(figure)


def compress_items(networks: list[Network]) -> bytes:
    """Return the values of all images, methods and metrics as a compressed CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", "image", "method", "metric", "value"])
    for network in networks:
        for metric, values in network.values.items():
            for label, row in zip(network.methods, values, strict=True):
                for key, value in zip(network.images, row, strict=True):
                    if np.isfinite(value):
                        writer.writerow([network.name, key, label, metric, f"{value:.6g}"])
    return lzma.compress(text.getvalue().encode(), preset=9)


def main(runs: str, folder: str = str(Path(__file__).parent)) -> None:
    """Read the runs and write tables, figures and items."""
    networks = [Network.read(path.parent) for path in sorted(Path(runs).glob("*/run.json"))]
    tables, figures = Path(folder, "tables"), Path(folder, "figures")
    tables.mkdir(parents=True, exist_ok=True)
    figures.mkdir(exist_ok=True)
    with paper_style():
        for network in networks:
            n = f"{network.name}, n = {len(network.images)} photographs\n\n"
            (tables / f"{network.name}.md").write_text(n + primary_table(network) + "\n", "utf-8")
            (tables / f"{network.name}.metrics.md").write_text(n + metrics_table(network) + "\n", "utf-8")
            (tables / f"{network.name}.cost.md").write_text(n + cost_table(network) + "\n", "utf-8")
            (figures / f"{network.name}.forest.png").write_bytes(draw_forest(network))
            (figures / f"{network.name}.agreement.png").write_bytes(draw_agreement(network))
            (figures / f"{network.name}.fills.png").write_bytes(draw_fills(network))
            stability = draw_stability_and_faithfulness(network)
            if stability is not None:
                (figures / f"{network.name}.stability.png").write_bytes(stability)
        (tables / "networks.md").write_text(networks_table(networks) + "\n", "utf-8")
        (figures / "ranks.png").write_bytes(draw_ranks(networks))
        (figures / "images.png").write_bytes(draw_stability_of_order(networks))
    Path(folder, "items.csv.xz").write_bytes(compress_items(networks))


if __name__ == "__main__":
    main(*sys.argv[1:])
