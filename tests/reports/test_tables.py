"""Markdown and CSV tables: escaping, and formats of numbers."""

from __future__ import annotations

import pytest

from xplain.reports.tables import csv_table, escape_cell, format_interval, format_number, markdown_table


def test_markdown_table_escapes_cells():
    table = markdown_table(["a|b", "c"], [["x\ny", ""], ["| | |", "é 猫"]])
    assert table == "| a\\|b | c |\n|---|---|\n| x\\ny |  |\n| \\| \\| \\| | é 猫 |"


def test_markdown_table_without_rows():
    assert markdown_table(["a"], []) == "| a |\n|---|"


def test_escape_cell_of_undecodable_name():
    assert escape_cell("a\udcff|\x1b[0m") == "a\\udcff\\|\\x1b[0m"


def test_csv_table_leaves_none_empty():
    assert csv_table(["a", "b"], [{"a": 0.1, "b": None}, {"a": 'x,"y"', "b": 0}]) == 'a,b\n0.1,\n"x,""y""",0\n'
    with pytest.raises(ValueError, match="c"):
        csv_table(["a"], [{"c": 1}])


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [(None, ".4f", ""), (0.25, ".4f", "0.2500"), (0, "+.4f", "+0.0000"), (0.5, ".1%", "50.0%")],
)
def test_format_number(value, spec, text):
    assert format_number(value, spec) == text


def test_format_interval():
    assert format_interval({"low": -0.1, "high": 0.25}) == "-0.1000 to 0.2500"
    assert format_interval({"low": -0.1, "high": 0.25}, "+.4f") == "-0.1000 to +0.2500"
    assert format_interval({"low": None, "high": None}) == ""
