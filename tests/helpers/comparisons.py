"""Comparisons built from maps with known values and hostile names."""

from __future__ import annotations

import numpy as np

from xplain.core.errors import Failure, InputError
from xplain.core.options import RenderOptions
from xplain.reports.comparison import Cell, Comparison, Row

HOSTILE = "a'\"><script>alert(1)</script> é 猫 $x$ &amp;.png"
METRICS = {
    "insertion": {"better": "higher", "params": {}},
    "deletion": {"better": "lower", "params": {}},
}


def make_cell(values, insertion=0.5, deletion=0.25, seconds=1.0, warnings=()):
    """Return a cell with two scores, one of which has a curve of three points."""
    scores = {
        "insertion": {"value": insertion, "undefined": None, "curve": [0.0, 0.5, 1.0]},
        "deletion": {"value": deletion, "undefined": None if deletion is not None else "why", "curve": None},
    }
    cost = {"forwards": 3, "backwards": 2, "seconds": seconds}
    record = {"method": "m", "params": {}, "score": "logit", "against": [], "cost": cost, "warnings": list(warnings)}
    return Cell(record | {"scores": scores}, np.asarray(values, dtype=np.float32))


def make_row(cells, name=HOSTILE, label=HOSTILE, image=None, model="net"):
    """Return a row, on a gray image by default, whose top class is not the target."""
    height, width = next(cell for cell in cells if cell is not None).values.shape[1:]
    if image is None:
        image = np.full((height, width, 3), 100, dtype=np.uint8)
    target = {"index": 3, "wnid": None, "name": label, "probability": 0.25}
    best = {"index": 1, "wnid": None, "name": None, "probability": 0.5}
    record = {"input": name, "sha256": "0", "model": model, "target": target, "prediction": [best, target]}
    return Row(record, image, cells)


def make_comparison(rows, columns=("first", "second"), options=None, failed=()):
    """Return a comparison by insertion and deletion. failed: names of inputs."""
    failures = [Failure(name, InputError(f"{name} is bad")) for name in failed]
    return Comparison(tuple(columns), METRICS, rows, failures, options or RenderOptions(), {"net": {}})


def noise(seed=0, size=(24, 32), channels=3):
    """Return heavy-tailed signed values (channels, *size)."""
    return np.random.default_rng(seed).normal(size=(channels, *size)) ** 3
