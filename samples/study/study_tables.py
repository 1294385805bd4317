"""The tables of the study as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from study_data import PRIMARY, Array, Network

from xplain.reports import rankings
from xplain.reports.statistics import estimate_mean, holm_correction, paired_difference, sign_flip_test, wilson_interval
from xplain.reports.tables import markdown_table

SIGNIFICANCE = 0.05
STABILITY = ("stability-draws", "stability-noise")
UNSTABLE = 0.5  # below this share, xplain calls a map unstable


def primary_table(network: Network) -> str:
    """Return the primary result: mean, difference to random, share of photographs won, corrected p values, and rank with interval.

    The last p value compares a method with the one below it.
    """
    values = network.oriented(PRIMARY)
    random = network.methods.index("random")
    ranks = rankings.estimate_ranks(values)
    order = np.argsort(ranks.rank, kind="stable")
    against_random = _p_values(values - values[random])
    to_next = np.append(_p_values(values[order[:-1]] - values[order[1:]]), np.nan)
    rows = []
    for place, index in enumerate(order):
        mean, difference = estimate_mean(values[index]), paired_difference(values[index], values[random])
        beats = against_random[index] < SIGNIFICANCE and difference.mean > 0
        rows.append(
            [
                f"`{network.methods[index]}`",
                interval(mean.mean, mean.low, mean.high),
                "" if index == random else interval(difference.mean, difference.low, difference.high, "+.3f"),
                "" if index == random else _share((values[index] > values[random]).sum(), values.shape[1]),
                format_p(against_random[index]),
                "yes" if beats else "no",
                f"{ranks.median[index]:.0f} ({ranks.low[index]:.0f} to {ranks.high[index]:.0f})",
                f"{ranks.top5[index]:.2f}",
                format_p(to_next[place]),
            ]
        )
    heading = ["method", "difference (mean fill)", "minus random", "share won", "p (Holm)", "better than random"]
    return markdown_table([*heading, "rank", "P(top 5)", "p to the next (Holm)"], rows)


def _p_values(differences: Array) -> Array:
    """Return the corrected p values (K,) of paired differences (K, N), with NaN for differences that are all 0."""
    p = sign_flip_test(differences.T)
    return holm_correction(np.where((differences == 0).all(axis=1), np.nan, p))


def interval(mean: float, low: float, high: float, spec: str = ".3f") -> str:
    """Return a mean with its interval."""
    return f"{mean:{spec}} ({low:{spec}} to {high:{spec}})"


def _share(count: int, n: int) -> str:
    low, high = wilson_interval(int(count), n)
    return interval(count / n, low, high, ".2f")


def format_p(p: float) -> str:
    """Return a p value with two digits, or as a bound below 0.001; an undefined one is empty."""
    if np.isnan(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def metrics_table(network: Network) -> str:
    """Return the mean of every metric per method; bold means are not distinguishable from the best of the column.

    A method is distinguishable if the 95 % interval of its paired difference to the best mean excludes 0. The first row has the grades
    of the metrics on known truth. A metric with a grade below LEAST_GRADE, or in units that depend on the method, has no bold means.
    """
    columns = []
    for metric, values in network.values.items():
        means = rankings.mean_defined(values)
        texts = ["" if np.isnan(mean) else f"{mean:.3f}" for mean in means]
        sign = network.signs[metric]
        if network.ranks_methods(metric) and np.isfinite(means).any():
            best = int(np.nanargmax(means * sign))
            for index, text in enumerate(texts):
                difference = paired_difference(values[index], values[best])
                if text and (index == best or difference.low <= 0 <= difference.high):
                    texts[index] = f"**{text}**"
        columns.append(texts)
    arrows = {1: " ↑", -1: " ↓", 0: ""}
    heading = ["method", *(f"{metric}{arrows[network.signs[metric]]}" for metric in network.values)]
    grades = [f"{network.grades[metric]:.2f}" if metric in network.grades else "" for metric in network.values]
    rows = [[f"`{label}`", *cells] for label, *cells in zip(network.methods, *columns, strict=True)]
    return markdown_table(heading, [["grade on known truth", *grades], *rows])


def stability_table(network: Network) -> str:
    """Return, per method, the share of the highest tenth that stays under other draws and small noise, and how often it is unstable."""
    rows = []
    minus_random = rankings.mean_defined(network.minus_random(PRIMARY))
    for index, label in enumerate(network.methods):
        stored = [network.values[source][index] for source in STABILITY]
        if not np.isfinite(stored).any():
            continue
        cells = []
        for values in stored:
            estimate = estimate_mean(values)
            cells.append(interval(estimate.mean, estimate.low, estimate.high, ".2f"))
        smaller = np.fmin(*stored)
        smaller = smaller[np.isfinite(smaller)]
        cells.append(_share((smaller < UNSTABLE).sum(), len(smaller)))
        rows.append([f"`{label}`", *cells, str(len(smaller)), f"{minus_random[index]:+.3f}"])
    return markdown_table(["method", "draws", "noise", f"below {UNSTABLE}", "n", "difference minus random"], rows)


def cost_table(network: Network) -> str:
    """Return rows, seconds and primary result per method, cheapest first."""
    minus_random = rankings.mean_defined(network.minus_random(PRIMARY))
    rows = []
    for index in np.argsort(network.rows, kind="stable"):
        cells = [f"`{network.methods[index]}`", f"{network.rows[index]:.0f}", f"{network.seconds[index]:.2f}"]
        rows.append([*cells, f"{minus_random[index]:+.3f}"])
    return markdown_table(["method", "rows per image", "seconds per image", "difference minus random"], rows)


def networks_table(networks: Sequence[Network]) -> str:
    """Return, per metric, Kendall's tau between the orders of the networks, over the methods that both have."""
    pairs = [(a, b) for i, a in enumerate(networks) for b in networks[i + 1 :]]
    metrics = dict.fromkeys(metric for network in networks for metric in network.ordered_metrics())
    rows = [[metric, *(_common_tau(a, b, metric) for a, b in pairs)] for metric in metrics]
    rows = [row for row in rows if any(row[1:])]
    return markdown_table(["metric", *(f"{a.name}, {b.name}" for a, b in pairs)], rows)


def _common_tau(a: Network, b: Network, metric: str) -> str:
    if metric not in a.ordered_metrics() or metric not in b.ordered_metrics():
        return ""
    common = [label for label in a.methods if label in b.methods]
    means = [rankings.mean_defined(n.oriented(metric)[[n.methods.index(label) for label in common]]) for n in (a, b)]
    return f"{rankings.pairwise_tau(np.stack(means))[0, 1]:.2f}"


def signs_table(networks: Sequence[Network]) -> str:
    """Return, per method, the difference minus random on every network, and on how many of them its interval is above 0."""
    rows = []
    for label in networks[0].methods:
        if label == "random" or not all(label in network.methods for network in networks):
            continue
        estimates = [estimate_mean(n.minus_random(PRIMARY)[n.methods.index(label)]) for n in networks]
        above = sum(estimate.low > 0 for estimate in estimates)
        cells = [interval(estimate.mean, estimate.low, estimate.high, "+.3f") for estimate in estimates]
        rows.append([f"`{label}`", *cells, f"{above} of {len(networks)}"])
    return markdown_table(["method", *(network.name for network in networks), "above 0"], rows)


def fills_table(network: Network) -> str:
    """Return Kendall's tau, with interval, between the orders of the methods in difference with two fills."""
    fills = network.fills()
    names = list(fills)
    agreement = rankings.estimate_agreement(np.stack(list(fills.values())))
    rows = [
        [f"{a}, {names[j]}", interval(agreement.tau[i, j], agreement.low[i, j], agreement.high[i, j], ".2f")]
        for i, a in enumerate(names)
        for j in range(i + 1, len(names))
    ]
    return markdown_table(["fills", "Kendall's τ"], rows)


def photographs_table(network: Network) -> str:
    """Return the photographs with the highest and lowest mean over methods minus random, and with the most and least agreement.

    Agreement is the mean of Kendall's tau between the orders of the methods by all pairs of metrics on that photograph.
    """
    gain = rankings.mean_defined(network.minus_random(PRIMARY).T)
    values = np.stack([network.oriented(metric) for metric in network.ordered_metrics()])
    upper = np.triu_indices(len(values), 1)
    agreement = np.array(
        [
            rankings.mean_defined(rankings.image_level_agreement(values[:, :, [image]])[upper])
            for image in range(len(gain))
        ]
    )
    chosen = {
        "highest difference minus random": int(gain.argmax()),
        "lowest difference minus random": int(gain.argmin()),
        "metrics agree most": int(np.nanargmax(agreement)),
        "metrics agree least": int(np.nanargmin(agreement)),
    }
    rows = [
        [
            rule,
            f"`{network.images[i]}`",
            "yes" if network.correct[i] else "no",
            f"{gain[i]:+.3f}",
            f"{agreement[i]:.2f}",
        ]
        for rule, i in chosen.items()
    ]
    heading = [
        "rule",
        "photograph",
        "predicted correctly",
        "difference minus random, mean of methods",
        "mean τ of metrics",
    ]
    return markdown_table(heading, rows)
