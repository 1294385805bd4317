"""Render HTML pages from the Jinja2 templates in ``pages/``. Each page is one file that needs no network."""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

BREAKS = re.compile(r"(?<=[:,])(?=\S)")


def render_page(template: str, **values: Any) -> str:
    """Return the page that ``pages/<template>`` makes of the values; text in them is HTML-escaped."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("xplain.reports", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["read_asset"] = read_asset
    environment.filters["breakable"] = breakable
    return environment


def breakable(text: str) -> Markup:
    """Return escaped text whose lines may also break after ``:`` and ``,``, as in the labels of methods."""
    return Markup("<wbr>").join(BREAKS.split(text))


def read_asset(name: str) -> Markup:
    """Return a style sheet or script of ``pages/``, which templates insert as it is."""
    return Markup(files("xplain.reports").joinpath("pages", name).read_text("utf-8").rstrip("\n"))


def data_url(png: bytes) -> str:
    """Return a PNG as the source of an image that is part of the page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def script_json(data: Any) -> Markup:
    """Return data as JSON that is safe inside a script element. ``<``, ``>``, ``&`` and line separators are escaped."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace").decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
