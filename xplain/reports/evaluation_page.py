"""``report.html``: a run's table, curves and gallery in one file that needs no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from xplain.reports.published import about_published, published_number
from xplain.reports.render import read_record

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")  # Okabe and Ito
WIDTH, HEIGHT, LEFT, BOTTOM = 360, 220, 34, 24  # of a plot, in its own units

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
td.reasons { white-space: normal; } td.reasons:not(:empty) { min-width: 9rem; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
.plots, .gallery { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; }
figcaption { font-size: .85rem; color: var(--soft); max-width: 14rem; overflow-wrap: anywhere; }
.gallery img { width: 14rem; image-rendering: auto; border-radius: 4px; display: block; }
.plots figure { max-width: 100%; } .plots figcaption { max-width: 24rem; }
svg { width: 24rem; max-width: 100%; } svg text { fill: currentColor; font-size: 10px; }
.key span { margin-right: 1.2rem; white-space: nowrap; }
.key i { display: inline-block; width: .9rem; height: .25rem; margin: 0 .4rem .2rem 0; }
.warning { border-left: .3rem solid #d55e00; padding-left: .8rem; }
summary { cursor: pointer; margin-top: 2.5rem; font-weight: 700; } pre { font-size: .8rem; overflow-x: auto; }
"""


def make_page(summary: Mapping[str, Any], pictures: Sequence[Path], provenance: str) -> str:
    """The page. pictures: overlays whose embedded records say what they show. provenance: shown as it is."""
    run, items = summary["run"], summary["items"]
    model = run["fingerprint"]["model"]  # None where no metric looks at single images
    facts = [
        (f"{items['evaluated']} of {items['of']} images of " if model else "") + run["dataset"]["location"],
        *([f"model {model['name']}"] if model else []),
        f"protocol {run.get('protocol') or 'xplain'}",
        f"target {run['fingerprint']['target']}",
    ]
    if summary["top1"] is not None:
        facts.append(f"top-1 on these images {summary['top1']:.3f}")
    if items["failed"]:
        facts.append(f"{items['failed']} failed")
    colours = {method: COLOURS[i % len(COLOURS)] for i, method in enumerate(run["methods"])}
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>xplain evaluate</title><style>{STYLE}</style></head><body>
<h1>How faithful are these explanations?</h1>
<p>{escape("; ".join(facts))}.</p>
{"".join(f'<p class="warning">Warning: {escape(text)}.</p>' for text in summary["warnings"])}
<div class="scroll">{_table(summary)}</div>
<p>Intervals are 95 % bootstrap intervals ({summary["interval"]["kind"]}) over images; differences are paired.
<code>random</code> knows nothing of the model.</p>
{"".join(f"<p>{escape(metric)} {escape(each['note'])}.</p>" for metric, each in run["metrics"].items() if "note" in each)}
<h2>Mean curves</h2>
<p class="key">{"".join(f'<span><i style="background:{c}"></i>{escape(m)}</span>' for m, c in colours.items())}</p>
<div class="plots">{"".join(_plot(summary, metric, colours) for metric in run["metrics"])}</div>
{_published(summary)}
{_gallery(pictures, next(iter(run["methods"])))}
<details><summary>Provenance</summary><pre>{escape(provenance)}</pre></details>
</body></html>
"""


def _table(summary: Mapping[str, Any]) -> str:
    run = summary["run"]
    first = next(iter(run["methods"]))
    beside = ["published"] if "published" in summary else []
    head = ["metric", "method", "mean", *beside, "95 % interval", "sd", "n", "undefined", f"difference to {first}"]
    body = []
    for row in summary["rows"]:
        arrow = "↑" if run["metrics"][row["metric"]]["better"] == "higher" else "↓"
        difference = row["difference"] or {}
        undefined = ", ".join(f"{count}: {reason}" for reason, count in row["undefined"].items())
        cells = (
            f"{row['metric']} {arrow}",
            row["method"],
            _number(row["mean"]),
            *(published_number(row[each]) for each in beside),
            _range(row),
            _number(row["std"]),
            str(row["n"]),
            undefined,
            f"{_number(difference.get('mean'), '+')} {_range(difference)}".strip(),
        )
        classes = [' class="reasons"' if name == "undefined" else "" for name in head]
        found = (f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(classes, cells, strict=True))
        body.append(f"<tr>{''.join(found)}</tr>")
    return f"<table><tr>{''.join(f'<th>{escape(each)}</th>' for each in head)}</tr>{''.join(body)}</table>"


def _published(summary: Mapping[str, Any]) -> str:
    return "".join(
        f"<h2>{title}</h2><ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"
        for title, texts in about_published(summary).items()
    )


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.4f}"


def _range(row: Mapping[str, Any]) -> str:
    return "" if row.get("low") is None else f"[{row['low']:.4f}, {row['high']:.4f}]"


def _plot(summary: Mapping[str, Any], metric: str, colours: Mapping[str, str]) -> str:
    """The mean curves of one metric as SVG; nothing where it has none."""
    curves = {row["method"]: row["curve"] for row in summary["rows"] if row["metric"] == metric and row["curve"]}
    if not curves:
        return ""
    axis = summary["run"]["metrics"][metric].get("axis", "share of pixels")
    values = [value for curve in curves.values() for value in curve]
    places = summary["run"]["metrics"][metric].get("places")  # else evenly from 0 to 1
    low, high = min(0.0, *values), max(*values, 1e-9)

    def at(share: float, value: float) -> str:
        x = LEFT + share * (WIDTH - LEFT - 16)
        return f"{x:.1f},{HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - 8):.1f}"

    lines = [
        f'<polyline fill="none" stroke="{colours[method]}" stroke-width="2" points="'
        + " ".join(at(places[k] if places else k / (len(curve) - 1), value) for k, value in enumerate(curve))
        + f'"><title>{escape(method)}</title></polyline>'
        for method, curve in curves.items()
    ]
    ticks = [low, (low + high) / 2, high]
    labels = [
        f'<text x="{LEFT - 4}" y="{float(at(0, t).split(",")[1]) + 3:.1f}" text-anchor="end">{t:.2f}</text>'
        for t in ticks
    ]
    frame = (
        f'<path d="M{at(0, high)} L{at(0, low)} L{at(1, low)}" fill="none" stroke="currentColor" stroke-width=".7"/>'
    )
    shares = [
        f'<text x="{at(s, low).split(",")[0]}" y="{HEIGHT - 8}" text-anchor="middle">{s:.0%}</text>'
        for s in (0, 0.5, 1)
        if axis.startswith("share")
    ]
    drawn = "".join((frame, *labels, *shares, *lines))
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(metric)}">{drawn}</svg>'
        f"<figcaption>{escape(metric)}: {escape(summary['run']['metrics'][metric]['unit'])} by {escape(axis)}</figcaption></figure>"
    )


def _gallery(pictures: Sequence[Path], method: str) -> str:
    """The most and the least faithful explanations of the first method."""
    shown, metric = {"best": list[str](), "worst": list[str]()}, ""
    for path in pictures:
        record = read_record(path) or {}
        data = base64.b64encode(path.read_bytes()).decode()
        metric = str(record.get("metric"))
        caption = f"{record.get('key')}: {record.get('name')}, {record.get('value', 0):.3f}"
        shown.get(str(record.get("place")), []).append(
            f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'
        )
    return "".join(
        f'<h2>{title}: {escape(method)} by {escape(metric)}</h2><div class="gallery">{"".join(shown[place])}</div>'
        for place, title in (("best", "Most faithful"), ("worst", "Least faithful"))
        if shown[place]
    )
