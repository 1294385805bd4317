"""report.html: names are escaped, nothing is fetched, numbers and curves are shown."""

from __future__ import annotations

import re

import numpy as np

from xplain.reports.evaluation_page import make_evaluation_page
from xplain.reports.render import encode_png

HOSTILE = "<script>alert(\"1\")</script> & 'é'"


def make_summary() -> dict:
    """Return a summary with hostile names and one row."""
    row = {
        "method": HOSTILE, "metric": "deletion", "mean": 0.25, "std": 0.1, "low": 0.2, "high": 0.3, "n": 3,
        "undefined": {HOSTILE: 1}, "difference": None, "curve": [1.0, 0.5, 0.0],
    }  # fmt: skip
    metric = {"better": "lower", "unit": HOSTILE}
    run = {
        "fingerprint": {"model": {"name": HOSTILE}, "target": "auto"},
        "dataset": {"location": HOSTILE},
        "protocol": None,
        "methods": {HOSTILE: {}},
        "metrics": {"deletion": metric},
    }
    return {"schema": 1, "run": run, "items": {"evaluated": 3, "failed": 1, "of": 4}, "top1": 0.5, "rows": [row]} | {
        "warnings": [HOSTILE],
        "interval": {"kind": "percentile", "level": 0.95, "draws": 2000},
    }


def test_page_escapes_hostile_names(tmp_path):
    record = {"key": HOSTILE, "name": HOSTILE, "metric": "deletion", "value": 0.1, "place": "best"}
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((2, 2, 3), dtype=np.uint8), record))
    page = make_evaluation_page(make_summary(), [tmp_path / "a.png"], HOSTILE)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 8
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page


def test_page_shows_numbers_and_curves():
    page = make_evaluation_page(make_summary(), [], "")
    assert "<td>0.2500</td>" in page
    assert "[0.2000, 0.3000]" in page
    (points,) = re.findall(r'points="([^"]+)"', page)
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in points.split())
    assert x0 < x1 < x2
    assert y1 - y0 == y2 - y1 > 0
    assert "4 images" in page
    assert "failed images: 1" in page
