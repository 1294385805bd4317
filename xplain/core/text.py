"""Text that any stream, file format and font can take, whatever a file is called."""

from __future__ import annotations

import json
from typing import Any


def printable(text: str) -> str:
    """The text with what cannot be printed (control characters, bytes of a file name that are no UTF-8) as escapes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def to_json(content: Any, indent: int | None = None) -> str:
    """JSON that UTF-8 can hold: bytes of a file name that are no UTF-8 become JSON's own escapes, and come back from them."""
    return json.dumps(content, ensure_ascii=False, indent=indent).encode("utf-8", "backslashreplace").decode()
