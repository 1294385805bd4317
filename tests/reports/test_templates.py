"""HTML templates: escaping of values, JSON in scripts, and missing values."""

from __future__ import annotations

import json

import pytest
from jinja2 import UndefinedError

from xplain.reports.templates import breakable, read_asset, render_page, script_json

HOSTILE = '</script><b title="x">&\'\u2028\udcff'


def test_script_json_cannot_end_its_element():
    text = script_json({"name": HOSTILE})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": HOSTILE}


def test_render_page_escapes_values():
    page = render_page(
        "run_comparison.html",
        facts=[HOSTILE],
        significance=0.05,
        header=[HOSTILE],
        bar_column=0,
        rows=[([HOSTILE], None)],
        sweeps={},
        means_header=[HOSTILE],
        means=[[HOSTILE]],
    )
    assert page.count("&lt;/script&gt;&lt;b title=&#34;x&#34;&gt;&amp;&#39;") == 5
    assert "<b" not in page.replace("<body", "")
    assert read_asset("comparison.css") in page


def test_labels_break_after_punctuation():
    assert breakable("ig:steps=3,a=b") == "ig:<wbr>steps=3,<wbr>a=b"
    assert breakable("<b>:&, x,\u00a0y") == "&lt;b&gt;:<wbr>&amp;, x,\u00a0y"


def test_render_page_with_missing_value():
    with pytest.raises(UndefinedError, match="facts"):
        render_page("run_comparison.html")
