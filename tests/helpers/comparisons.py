"""Comparisons made by hand: maps of known values under hostile names."""

from __future__ import annotations

import numpy as np

from xplain.core.config import RenderOptions
from xplain.core.errors import Failure, InputError
from xplain.reports.comparison import Cell, Comparison, Row

HOSTILE = "a'\"><script>alert(1)</script> é 猫 $x$ &amp;.png"
METRICS = {
    "insertion": {"better": "higher", "params": {}},
    "deletion": {"better": "lower", "params": {}},
}


def cell(values, insertion=0.5, deletion=0.25, seconds=1.0, warnings=()):
    """A cell with scores and a curve of three points."""
    scores = {
        "insertion": {"value": insertion, "undefined": None, "curve": [0.0, 0.5, 1.0]},
        "deletion": {"value": deletion, "undefined": None if deletion is not None else "why", "curve": None},
    }
    cost = {"forwards": 3, "backwards": 2, "seconds": seconds}
    record = {"method": "m", "params": {}, "score": "logit", "against": [], "cost": cost, "warnings": list(warnings)}
    return Cell(record | {"scores": scores}, np.asarray(values, dtype=np.float32))


def row(cells, name=HOSTILE, label=HOSTILE, image=None, model="net"):
    """A row on a grey image; the top class is another one than the target."""
    height, width = next(each for each in cells if each is not None).values.shape[1:]
    image = np.full((height, width, 3), 100, dtype=np.uint8) if image is None else image
    target = {"index": 3, "wnid": None, "name": label, "probability": 0.25}
    best = {"index": 1, "wnid": None, "name": None, "probability": 0.5}
    record = {"input": name, "sha256": "0", "model": model, "target": target, "prediction": [best, target]}
    return Row(record, image, cells)


def comparison(rows, columns=("first", "second"), look=None, failed=()):
    """A comparison by insertion and deletion."""
    failures = [Failure(name, InputError(f"{name} is bad")) for name in failed]
    return Comparison(tuple(columns), METRICS, rows, failures, look or RenderOptions(), {"net": {}})


def noise(seed=0, size=(24, 32), channels=3):
    """Heavy-tailed signed values."""
    return np.random.default_rng(seed).normal(size=(channels, *size)) ** 3
