"""Measure what bf16 changes in a benchmark: ``python -m tests.tools.bf16_error FOLDER -o DIR`` (see ``--help``).

Runs ``xplain evaluate`` with the default model on photographs of a folder twice, in fp32 and in bf16, and prints a table. Per metric: the
means in fp32 and bf16, their difference bf16 - fp32 with its paired 95 % bootstrap interval over the images, and the largest difference
of a single value. Rows named ``all`` average the methods of each image first. The runs lie in ``DIR/fp32`` and ``DIR/bf16``; the same
command resumes them. A last line says in how many pairs of methods, per image and metric, the larger value is of the same method.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from xplain.core.array_store import Floats
from xplain.core.run_store import read_fingerprint, read_records
from xplain.reports.statistics import paired_difference
from xplain.reports.tables import format_number, markdown_table

METHODS = ("saliency", "grad-cam", "random")
METRICS = (
    "insertion:steps=28",
    "deletion:steps=28",
    "difference:steps=28",
    "road",
    "average-drop",
    "sensitivity-n:masks=20",
)
PRECISIONS = ("fp32", "bf16")
MODEL: tuple[str, ...] = ()  # options of the model; none: the default
ALL = "all"
COLUMNS = ("metric", "method", "n", "fp32", "bf16", "difference", "95 % interval", "largest")

Values = dict[tuple[str, str], dict[str, float]]  # by metric and method: the value of each image


def evaluate(options: argparse.Namespace, precision: str) -> Values:
    """Run, or resume, ``xplain evaluate`` in a precision and return its values."""
    output = options.output / precision
    arguments = [
        str(options.folder),
        "--limit",
        str(options.images),
        "--device",
        "cpu",
        *MODEL,
        "-o",
        str(output),
        "-q",
    ]
    arguments += ["--precision", precision, "--engine", options.engine]
    arguments += [word for method in options.methods for word in ("-a", method)]
    arguments += [word for metric in options.metrics for word in ("-M", metric)]
    subprocess.run([sys.executable, "-m", "xplain", "evaluate", *arguments], check=True, stdout=subprocess.DEVNULL)
    print(f"{precision}: engine {(read_fingerprint(output) or {}).get('engine', 'torch')}", flush=True)
    return read_values(output)


def read_values(run: Path) -> Values:
    """Return the values of a run, NaN where a metric is undefined."""
    values: Values = {}
    for record in read_records(run):
        if "metric" in record:
            value = record.get("value")
            values.setdefault((record["metric"], record["method"]), {})[record["key"]] = (
                np.nan if value is None else value
            )
    return values


def compare_values(exact: Values, rough: Values) -> list[list[str]]:
    """Return the rows of the table: each metric over all methods, then with each method."""
    rows = []
    for metric in dict.fromkeys(metric for metric, _ in exact):
        methods = [method for name, method in exact if name == metric]
        pairs = {method: _pair(exact[metric, method], rough[metric, method]) for method in methods}
        pooled = np.mean([pairs[method] for method in methods], axis=0)
        largest = max(_largest(pair) for pair in pairs.values())
        rows.append(_make_row(metric, ALL, pooled, largest))
        rows += [_make_row(metric, method, pair, _largest(pair)) for method, pair in pairs.items()]
    return rows


def _pair(exact: Mapping[str, float], rough: Mapping[str, float]) -> Floats:
    """Return the values (2, n) of the images that both runs have."""
    keys = [key for key in exact if key in rough]
    return np.array([[values[key] for key in keys] for values in (exact, rough)], dtype=np.float64)


def _largest(pair: Floats) -> float:
    """Return the largest absolute difference of two rows (2, n)."""
    return float(np.nanmax(np.abs(pair[1] - pair[0])))


def _make_row(metric: str, method: str, pair: Floats, largest: float) -> list[str]:
    difference = paired_difference(pair[1], pair[0])
    means = [format_number(float(np.nanmean(values))) for values in pair]
    interval = f"{difference.low:+.4f} to {difference.high:+.4f}"
    return [metric, method, str(difference.n), *means, f"{difference.mean:+.4f}", interval, format_number(largest)]


def count_kept_orders(exact: Values, rough: Values) -> tuple[int, int]:
    """Return in how many pairs of methods, per image and metric, the larger value is of the same method in both, and of how many pairs.

    Pairs that are tied or undefined in fp32 are left out.
    """
    kept = total = 0
    for metric in dict.fromkeys(metric for metric, _ in exact):
        methods = [method for name, method in exact if name == metric]
        for first, second in combinations(methods, 2):
            pairs = [_pair(exact[metric, method], rough[metric, method]) for method in (first, second)]
            signs = np.sign(pairs[0] - pairs[1])
            decided = np.isfinite(signs).all(axis=0) & (signs[0] != 0)
            total += int(decided.sum())
            kept += int((signs[0] == signs[1])[decided].sum())
    return kept, total


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run both evaluations and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of photographs")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the two runs")
    parser.add_argument("--images", type=int, default=6, help="number of photographs")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--metrics", nargs="+", default=list(METRICS))
    parser.add_argument("--engine", default="openvino", choices=("auto", "torch", "openvino"))
    options = parser.parse_args(arguments)
    exact, rough = (evaluate(options, precision) for precision in PRECISIONS)
    print(markdown_table(COLUMNS, compare_values(exact, rough)))
    kept, total = count_kept_orders(exact, rough)
    print(f"\n{kept} of {total} orders of two methods are the same in bf16")


if __name__ == "__main__":
    main()
