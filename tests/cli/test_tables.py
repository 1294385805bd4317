"""Reports on a terminal: aligned tables instead of Markdown."""

from __future__ import annotations

import re

from tests.conftest import TINY
from xplain.cli._tables import print_report

MARKDOWN = """2 images; model **tiny**

| metric | method | empty | mean | 95% CI |
|---|---|---|---|---|
| insertion ↑ | a\\|b |  | 0.5000 | 0.4000 to 0.6000 |
| insertion ↑ | [red]c |  | -12.0000 |  |

A note.
"""


def read_lines(text: str) -> list[str]:
    """Return the lines without colors."""
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]


def test_report_has_aligned_columns_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    assert print_report(MARKDOWN)
    assert read_lines(capsys.readouterr().out) == [
        "2 images; model tiny",
        "",
        "metric       method      mean            95% CI",
        "insertion ↑  a|b       0.5000  0.4000 to 0.6000",
        "insertion ↑  [red]c  -12.0000",
        "",
        "A note.",
    ]


def test_report_stays_markdown_on_a_pipe(capsys):
    assert print_report(MARKDOWN)
    assert capsys.readouterr().out == MARKDOWN


def test_evaluate_prints_differences_to_the_control_on_a_terminal(xp, photos, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    command = (
        "evaluate",
        photos,
        *TINY,
        "-M",
        "deletion:steps=4",
        "-M",
        "insertion:steps=4",
        "-a",
        "sm",
        "-q",
        "-o",
        "run",
    )
    ran = xp(*command)
    lines = read_lines(ran.out)
    header = next(i for i, line in enumerate(lines) if line.startswith("metric "))
    assert lines[header].split() == ["metric", "method", "mean", "95%", "CI", "minus", "random", "n"]
    rows = lines[header + 1 : header + 5]
    assert [row[:20].strip() for row in rows] == ["deletion:steps=4 ↓", "", "insertion:steps=4 ↑", ""]
    (summary,) = xp(*command, "--json").records
    for text, row in zip(rows, summary["rows"], strict=True):
        assert row["method"] in text
        assert f"{row['mean']:.3f}  {row['low']:.3f} to {row['high']:.3f}" in text
        if row["method"] == "saliency":
            difference = row["control"]
            assert f"{difference['mean']:+.3f} ({difference['low']:.3f} to {difference['high']:.3f})" in text
    assert "|" not in ran.out
