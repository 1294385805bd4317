"""Compare the rows of steps=auto and samples=auto with fixed numbers: ``python -m tests.tools.auto_rows FOLDER [METHOD...]``.

Runs each method on photographs of a folder and prints, per method, how many images reached the tolerance, and the rows per image: the
mean, and the fixed numbers with which half, nine tenths and all of the images have as many rows as they need. A fixed number saves
nothing on images that need less; the last columns are the rows that auto saves where nine tenths, or all, must be within the tolerance.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import xplain
from xplain.core.types import EngineName
from xplain.reports.tables import markdown_table

METHODS = (
    "integrated-gradients:steps=auto",
    "smoothgrad:samples=auto",
    "expected-gradients:samples=auto",
    "kernel-shap:samples=auto,tolerance=0.5",
    "rise:samples=auto,tolerance=0.5",
)
COLUMNS = [
    "method",
    "images",
    "reached",
    "mean rows",
    "half",
    "nine tenths",
    "all",
    "saved (nine tenths)",
    "saved (all)",
]


def find_photographs(folder: Path, count: int) -> list[Path]:
    """Return at most ``count`` image files of a folder, at even distances."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return files if len(files) <= count else [files[len(files) * k // count] for k in range(count)]


def count_rows(
    classifier: xplain.Classifier, method: str, files: list[Path], engine: EngineName
) -> tuple[list[int], int]:
    """Return the rows of each image, and how many images reached the tolerance."""
    rows, reached = [], 0
    for path in files:
        image = xplain.read_image(path, preprocessing=classifier.preprocessing)[None]
        attribution = xplain.attribute(classifier, image, method, engine=engine)
        rows.append(attribution.cost.forwards)
        reached += int(attribution.details["tolerance_reached"].sum())
        print(json.dumps({"method": method, "image": path.name, "rows": rows[-1]}), flush=True)
    return rows, reached


def summarize(method: str, rows: list[int], reached: int) -> list[str]:
    """Return the row of the table of a method."""
    mean = float(np.mean(rows))
    half, most, every = (int(np.quantile(rows, share, method="higher")) for share in (0.5, 0.9, 1.0))
    saved = [f"{1 - mean / fixed:.0%}" for fixed in (most, every)]
    return [f"`{method}`", str(len(rows)), str(reached), f"{mean:.0f}", str(half), str(most), str(every), *saved]


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("methods", nargs="*", default=list(METHODS))
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--engine", default="torch", choices=("torch", "openvino"))
    options = parser.parse_args()
    classifier = xplain.load_classifier(options.model, device="cpu")
    files = find_photographs(options.folder, options.images)
    table = [summarize(method, *count_rows(classifier, method, files, options.engine)) for method in options.methods]
    print(markdown_table(COLUMNS, table))


if __name__ == "__main__":
    main()
