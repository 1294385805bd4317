"""report.html: names are escaped, nothing is fetched, numbers and curves are shown."""

from __future__ import annotations

import re

import numpy as np
import pytest

from xplain.reports.control import compare_with_control
from xplain.reports.evaluation_page import make_evaluation_page
from xplain.reports.interval_bars import IntervalBar, make_interval_bars
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
    assert ">0.2500</td>" in page
    assert "[0.2000, 0.3000]" in page
    (points,) = re.findall(r'points="([^"]+)"', page)
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in points.split())
    assert x0 < x1 < x2
    assert y1 - y0 == y2 - y1 > 0
    assert "4 images" in page
    assert "failed images: 1" in page


def make_rows(metric: str, better: str) -> dict:
    """Return a summary of three methods with differences to the control and intervals."""
    entries = {
        "good": (0.5, 0.4, 0.6, 0.1, 0.3),
        "tie": (0.3, 0.2, 0.4, -0.1, 0.2),
        "bad": (0.1, 0.0, 0.2, -0.3, -0.1),
        "single": (0.3, None, None, None, None),
        "random": (0.2, 0.1, 0.3, None, None),
    }
    rows = []
    for method, (mean, low, high, below, above) in entries.items():
        control = {"control": {"mean": 0.0, "low": below, "high": above}} if method != "random" else {}
        control["verdict"] = compare_with_control(control, {"better": better})
        row = {"method": method, "metric": metric, "mean": mean, "std": None, "low": low, "high": high, "n": 3}
        rows.append(row | {"undefined": {}, "difference": None, "curve": None} | control)
    summary = make_summary()
    summary["run"]["methods"] = {method: {"method": method} for method in entries}
    summary["run"]["metrics"] = {metric: {"better": better, "unit": ""}}
    return summary | {"rows": rows}


@pytest.mark.parametrize(
    ("better", "marked"),
    [
        ("higher", [("tie", "not better"), ("bad", "worse")]),
        ("lower", [("good", "worse"), ("tie", "not better")]),
        ("neither", []),
    ],
)
def test_methods_that_do_not_beat_the_control_are_marked(better, marked):
    page = make_evaluation_page(make_rows("hit", better), [], "")
    pattern = r'data-label="method">([^<]+)<span class="mark" title="difference: [^"]+">([^<]+) than random</span>'
    assert re.findall(pattern, page) == marked
    assert ("A method is marked “worse than random” if" in page) == bool(marked)


def read_table(page: str) -> dict[str, dict[str, str]]:
    """Return the cells of the first table by method and header."""
    table = page[page.index("<table") : page.index("</table>")]
    rows = {}
    for row in table.split("<tr")[2:]:
        cells = dict(re.findall(r'data-label="([^"]+)"[^>]*>([^<]*)<', row))
        rows[cells["method"]] = cells
    return rows


def test_differences_to_the_control_have_a_column():
    summary = make_rows("hit", "higher")
    rows = read_table(make_evaluation_page(summary, [], ""))
    assert {method: cells["minus random"] for method, cells in rows.items()} == {
        "good": "+0.0000 [0.1000,\u00a00.3000]",
        "tie": "+0.0000 [-0.1000,\u00a00.2000]",
        "bad": "+0.0000 [-0.3000,\u00a0-0.1000]",
        "single": "+0.0000",
        "random": "",
    }
    for row in summary["rows"]:
        row.pop("control", None)
    assert "minus" not in str(read_table(make_evaluation_page(summary, [], "")))


def test_columns_without_content_are_left_out():
    summary = make_rows("hit", "higher")
    names = ["metric", "method", "mean", "95% CI", "SD", "n"]
    assert list(read_table(make_evaluation_page(summary, [], ""))["bad"]) == [*names, "minus random"]
    summary["rows"][1]["undefined"] = {"no object": 2}
    summary["rows"][1]["difference"] = {"mean": 0.25, "low": None, "high": None}
    rows = read_table(make_evaluation_page(summary, [], ""))
    assert list(rows["bad"]) == [*names, "undefined", "minus random", "minus good"]
    assert [rows[name]["undefined"] for name in ("good", "tie")] == ["", "2 (no object)"]
    assert [rows[name]["minus good"] for name in ("good", "tie")] == ["", "+0.2500"]


def test_first_method_that_is_the_control_has_one_column():
    summary = make_rows("hit", "higher")
    summary["run"]["methods"] = {"random": {"method": "random"}, **summary["run"]["methods"]}
    for row in summary["rows"]:
        row["difference"] = row.get("control")
    assert str(read_table(make_evaluation_page(summary, [], ""))["bad"]).count("minus") == 1


def test_intervals_are_drawn_on_one_scale():
    bars = make_interval_bars(make_rows("hit", "higher"), "hit")
    assert bars["good"] == IntervalBar("129.3", "104.7", "154.0", "55.3")  # 0 to 0.6 on 6 to 154
    assert bars["bad"] == IntervalBar("30.7", "6.0", "55.3", "55.3")
    assert bars["single"] == IntervalBar("80.0", None, None, "55.3")
    page = make_evaluation_page(make_rows("hit", "higher"), [], "")
    assert page.count('<svg class="interval"') == 5
    assert page.count('H154.0"') == 1


def write_picture(path, side: int = 8, **record: object):
    path.write_bytes(encode_png(np.zeros((side, side, 3), dtype=np.uint8), {"metric": "hit", "value": 0.5, **record}))
    return path


def test_examples_of_every_method_are_shown(tmp_path):
    wrong = {"correct": False, "labels": ["tabby"]}
    pictures = [
        write_picture(tmp_path / "1.png", key="a.jpg", name="cat", place="best"),  # of an earlier version
        write_picture(tmp_path / "2.png", key="b.jpg", name="dog", place="worst", method="good", **wrong),
        write_picture(tmp_path / "3.png", 200, key="c.jpg", name="cat", place="best", method="bad", correct=True),
        write_picture(tmp_path / "4.png", key="d.jpg", name="cat", place="best", method="gone"),
    ]
    page = make_evaluation_page(make_rows("hit", "higher"), pictures, "")
    titles = re.findall(r"<h3>(.*)</h3>", page)
    assert titles == [
        "Best explanations of good according to hit",
        "Worst explanations of good according to hit",
        "Best explanations of bad according to hit",
    ]
    captions = re.findall(r"<figcaption>(.*)</figcaption>", page)
    assert captions == [
        "a.jpg: cat; hit 0.500",
        'b.jpg: dog; hit 0.500<span class="wrong">wrong prediction; label: tabby</span>',
        "c.jpg: cat; hit 0.500",
    ]
    sources = re.findall(r'src="data:image/(\w+);base64,[^"]+"( class="small")?', page)
    assert sources == [("png", ' class="small"'), ("png", ' class="small"'), ("jpeg", "")]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_rows_become_cards_on_a_phone(browser, tmp_path, theme):
    path = tmp_path / "report.html"
    path.write_text(make_evaluation_page(make_rows("hit", "higher"), [], ""), "utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=theme, java_script_enabled=False)
    page.goto(path.as_uri())
    rows = page.locator("table").first.locator("tr")
    box = rows.nth(1).bounding_box()
    assert (rows.first.is_visible(), box["height"] < 60) == (True, True)
    page.set_viewport_size({"width": 390, "height": 800})
    box = rows.nth(1).bounding_box()
    assert (rows.first.is_visible(), box["height"] > 90) == (False, True)
    for cell in rows.nth(1).locator("td").all():
        if cell.is_visible():
            inner = cell.bounding_box()
            assert box["x"] <= inner["x"] <= inner["x"] + inner["width"] <= box["x"] + box["width"] <= 390
    page.close()
