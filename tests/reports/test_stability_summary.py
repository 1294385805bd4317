"""Texts about stability: the caption of figures and the warning of a run."""

from __future__ import annotations

from typing import Any

from xplain.reports.captions import caption
from xplain.reports.stability_summary import StabilitySummary


def make_record(draws: float | None, rounding: float | None, kept: int = 4) -> dict[str, Any]:
    values = {"draws": draws, "rounding": rounding, "noise": 0.8}
    entries: dict[str, Any] = {name: None if value is None else {"top10": value} for name, value in values.items()}
    entries["noise"] |= {"kept": kept, "repeats": 4}
    source = min((name for name in values if values[name] is not None), key=lambda name: values[name])
    stability = {"figure": values[source], "source": source, **entries}
    return {"input": "cat.jpg", "method": "agi", "target": {"name": "tabby"}, "stability": stability}


def test_caption_names_the_sources():
    record = make_record(0.66, None)
    assert caption(record) == "agi for “tabby”; stability 0.66 (draws 0.66, noise 0.80; chance 0.10)"
    record["stability"]["figure"] = None
    assert caption(record) == "agi for “tabby”"
    del record["stability"]
    assert caption(record | {"params": {"steps": 5}}) == "agi (steps=5) for “tabby”"


def test_summary_counts_warnings():
    summary = StabilitySummary()
    for record in (make_record(0.9, 0.95), {"input": "dog.jpg"}):
        summary.add(record)
    assert summary.describe() == ""
    for record in (make_record(0.4, 0.89), make_record(0.32, 0.9, kept=3), make_record(0.5, 0.0)):
        summary.add(record)
    assert summary.describe() == (
        "stability of 4 maps: 3 unstable (below 0.5; lowest 0.00 (rounding): cat.jpg: agi), "
        "2 sensitive to rounding (below 0.9), 1 where small changes of the image change the prediction"
    )
