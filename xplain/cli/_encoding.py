"""Print text on streams whose encoding lacks some of its characters, such as cp1252 or ASCII."""

from __future__ import annotations

import codecs
import sys

ERRORS = "xplain-escape"  # the name of the error handler
REPLACEMENTS = {
    "≤": "<=", "≥": ">=", "±": "+-", "×": "x", "·": "*", "→": "->", "…": "...", "“": '"', "”": '"', "‘": "'", "’": "'",
    "–": "-", "—": "-", "─": "-", "━": "-", "│": "|", "↑": "^", "↓": "v",
}  # fmt: skip


def escape_unencodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return the replacement of characters that a stream cannot encode, and the position after them.

    Bytes of a file name that are not UTF-8 are written as they are; other characters get a similar ASCII text or a backslash escape.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    char = error.object[error.start]
    if "\udc80" <= char <= "\udcff":
        return bytes([ord(char) - 0xDC00]), error.start + 1
    text = REPLACEMENTS.get(char) or char.encode("ascii", "backslashreplace").decode()
    return text, error.start + 1


codecs.register_error(ERRORS, escape_unencodable)


def is_printable_on_stdout(text: str) -> bool:
    """Return whether the encoding of standard output has every character of a text."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeError:
        return False
    return True
