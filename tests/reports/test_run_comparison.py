"""The figure of compared runs: names and titles are whole and inside it."""

from __future__ import annotations

import itertools

import pytest

from xplain.reports.figures import paper_style
from xplain.reports.run_comparison import make_differences_figure

LONG = "expected-gradients:samples=200,baselines=noise,alpha=stratified"
METRICS = {
    "insertion:steps=28,baseline=black+blur,unit=union3": {"better": "higher"},
    "sparseness": {"better": "neither"},
}


def make_record(methods) -> dict:
    """Return the pairs of the methods by METRICS, with made-up differences."""
    numbers = {"mean": 0.1, "low": -0.1, "high": 0.3, "p_holm": 0.5}
    pairs = [
        {"metric": metric, "first": first, "second": second, **numbers}
        for metric in METRICS
        for first, second in itertools.combinations(methods, 2)
    ]
    return {"pairs": pairs, "metrics": METRICS}


@pytest.mark.parametrize("methods", [("ig", "saliency"), (LONG, f"{LONG},tolerance=0.25", "neflag")])
def test_names_and_titles_are_whole_and_apart(methods):
    record = make_record(methods)
    with paper_style():
        figure = make_differences_figure(record)
        figure.canvas.draw()
    titles = [axis.get_title(loc="left").replace("\n", " ") for axis in figure.axes]
    assert [title.partition(": mean")[0] for title in titles] == list(METRICS)
    assert [title.endswith("(right of zero: the first method is better)") for title in titles] == [True, False]
    texts = []
    for axis, metric in zip(figure.axes, METRICS, strict=True):
        names = [text.get_text().replace("\n", "").replace(" ", "") for text in axis.get_yticklabels()]
        assert names == [f"{row['first']}−{row['second']}" for row in record["pairs"] if row["metric"] == metric]
        texts += [axis._left_title, *axis.get_yticklabels()]
    boxes = [text.get_window_extent() for text in texts]
    assert min(box.x0 for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= figure.bbox.width
    assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(boxes))
