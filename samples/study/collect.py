"""Add the values of evaluation runs to the study: ``python samples/study/collect.py RUNS [FOLDER]``.

RUNS is the output directory of the commands in study.toml: a run per network, and one on known truth. FOLDER, by default the folder
of this script, holds

* items.csv.xz: a value per network, image, method and metric; empty if undefined,
* images.csv: the digest of every photograph, its label, the prediction and its probability,
* costs.csv: rows and seconds per attribution,
* grades.csv: how often a metric gives the better of two maps of known quality the better value.

Methods and metrics that the configurations do not name are left out.

A value that FOLDER already has must be equal to the last digit, so the command also checks a replay of the study.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xplain.core.run_store import settings_digest
from xplain.pipelines.evaluated_runs import EvaluatedRun

CONFIGURATIONS = ("study", "reruns", "networks")
ITEMS, IMAGES, COSTS, GRADES = "items.csv.xz", "images.csv", "costs.csv", "grades.csv"
ITEM_COLUMNS = ("network", "image", "method", "metric", "value")
IMAGE_COLUMNS = ("network", "image", "sha256", "label", "predicted", "probability")
COST_COLUMNS = ("network", "method", "images", "rows", "seconds")
GRADE_COLUMNS = ("metric", "grade", "low", "high")
Row = dict[str, str]


def read_table(path: Path) -> list[Row]:
    """Read a CSV file, which may be compressed. A missing file has no rows."""
    if not path.exists():
        return []
    content = path.read_bytes()
    text = (lzma.decompress(content) if path.suffix == ".xz" else content).decode()
    return list(csv.DictReader(io.StringIO(text)))


def write_table(path: Path, columns: tuple[str, ...], rows: list[Row]) -> None:
    """Write a CSV file, compressed if its name ends in .xz, with its rows sorted."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: [row[column] for column in columns]))
    content = stream.getvalue().encode()
    path.write_bytes(lzma.compress(content, preset=9) if path.suffix == ".xz" else content)


def configured_labels(key: str) -> list[str]:
    """Return the methods or metrics of the configurations in their order."""
    texts = [(Path(__file__).parent / f"{name}.toml").read_text("utf-8") for name in CONFIGURATIONS]
    return list(dict.fromkeys(label for text in texts for label in tomllib.loads(text)["evaluate"][key]))


def run_items(run: EvaluatedRun) -> Iterator[Row]:
    """Yield a row for every value of a run."""
    methods, metrics = (
        {label: settings for label, settings in entries.items() if label in configured_labels(key)}
        for key, entries in (("method", run.description["methods"]), ("metric", run.metrics))
    )
    for method, method_settings in methods.items():
        for metric, metric_settings in metrics.items():
            for image, value in run.values.get(settings_digest(method_settings, metric_settings), {}).items():
                text = "" if value is None else repr(value)
                yield dict(zip(ITEM_COLUMNS, (run.name, image, method, metric, text), strict=True))


def read_records(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a run."""
    for path in sorted((folder / "items").glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            yield json.loads(line)


def run_images(name: str, folder: Path) -> Iterator[Row]:
    """Yield a row for every image of a run."""
    for record in read_records(folder):
        if record["mark"] == "item":
            row = {column: str(record.get(column, "")) for column in IMAGE_COLUMNS}
            yield row | {"network": name, "image": record["key"]}


def run_costs(name: str, folder: Path) -> Iterator[Row]:
    """Yield the mean cost of an attribution for every method of a run. Rows are forward plus backward rows."""
    costs: dict[str, dict[str, tuple[float, float]]] = {}
    for record in read_records(folder):
        if "cost" in record and "method" in record:
            cost = record["cost"]
            rows_seconds = (cost["forwards"] + cost["backwards"], cost["seconds"])
            costs.setdefault(record["method"], {})[record["key"]] = rows_seconds
    for method, by_image in costs.items():
        rows, seconds = (sum(values) / len(by_image) for values in zip(*by_image.values(), strict=True))
        texts = (name, method, str(len(by_image)), f"{rows:.0f}", f"{seconds:.3f}")
        yield dict(zip(COST_COLUMNS, texts, strict=True))


def known_grades(folder: Path) -> Iterator[Row]:
    """Yield the grade of every metric of a run on known truth, with its 95 % interval over the mechanisms."""
    for entry in json.loads((folder / "summary.json").read_text("utf-8"))["metrics"]:
        numbers = (f"{entry['grade'][part]:.3f}" for part in ("mean", "low", "high"))
        yield dict(zip(GRADE_COLUMNS, (entry["metric"], *numbers), strict=True))


def merge(stored: list[Row], new: list[Row], keys: int) -> tuple[list[Row], int, list[Row]]:
    """Return all rows, how many of the new ones were stored with equal values, and those that were stored with others.

    keys: the number of leading columns that identify a row.
    """
    rows = {tuple(row.values())[:keys]: row for row in stored}
    equal, different = 0, []
    for row in new:
        before = rows.setdefault(tuple(row.values())[:keys], row)
        if before == row and before is not row:
            equal += 1
        elif before != row:
            different.append(row)
    return list(rows.values()), equal, different


def main(runs: str, folder: str = str(Path(__file__).parent)) -> None:
    """Merge the runs into the tables of the study. Exits with 1, and writes nothing, if a stored value differs."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    items: list[Row] = []
    images: list[Row] = []
    costs: list[Row] = []
    for path in sorted(Path(runs).glob("*/run.json")):
        if "known" in json.loads(path.read_text("utf-8")):
            write_table(target / GRADES, GRADE_COLUMNS, list(known_grades(path.parent)))
            continue
        run = EvaluatedRun.read(path.parent, path.parent.name)
        items += run_items(run)
        images += run_images(run.name, path.parent)
        costs += run_costs(run.name, path.parent)
    all_items, equal, different = merge(read_table(target / ITEMS), items, keys=4)
    all_images, _, other_images = merge(read_table(target / IMAGES), images, keys=2)
    for row in (*different, *other_images):
        print("differs:", *row.values())
    if different or other_images:
        sys.exit(1)
    if len(items) > equal:
        measured = {(row["network"], row["method"]) for row in costs}
        kept = [row for row in read_table(target / COSTS) if (row["network"], row["method"]) not in measured]
        write_table(target / ITEMS, ITEM_COLUMNS, all_items)
        write_table(target / IMAGES, IMAGE_COLUMNS, all_images)
        write_table(target / COSTS, COST_COLUMNS, kept + costs)
    print(f"{len(items) - equal} values added, {equal} equal to the stored ones, {len(all_items)} in all")


if __name__ == "__main__":
    main(*sys.argv[1:])
