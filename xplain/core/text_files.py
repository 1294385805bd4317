"""Read text files that people write: UTF-8 with or without a byte order mark, UTF-16 and UTF-32 with one."""

from __future__ import annotations

import codecs
import csv
import io
import re
from pathlib import Path

from xplain.core.errors import InputError

BYTE_ORDER_MARKS = (  # the longest first: the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NEWLINE = re.compile(r"\r\n|\n|\r")


def decode_text(content: bytes, errors: str = "strict") -> str:
    """Decode the bytes of a text file: by its byte order mark, or else as UTF-8. Line ends are kept.

    errors: what happens to invalid bytes, as for ``bytes.decode``. Raises ValueError if the bytes are not text.
    """
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(f"it is not {name} text (byte {error.start})") from None
    if "\0" in text:
        raise ValueError("it holds NUL bytes, so it is not UTF-8, or UTF-16 with a byte order mark")
    return text


def split_lines(text: str) -> list[str]:
    r"""Split a text at ``\n``, ``\r\n`` and ``\r`` only; ``str.splitlines`` also splits at characters that names may contain."""
    lines = NEWLINE.split(text)
    return lines[:-1] if not lines[-1] else lines


def read_text(path: Path, what: str, hint: str) -> str:
    """Read a text file. what: its purpose, such as ``the labels``. Raises InputError with the hint if it cannot be read."""
    try:
        return decode_text(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {what} {str(path)!r}: {error}", hint) from None


def read_lines(path: Path, what: str, hint: str) -> list[str]:
    """Read the lines of a text file without their ends. Arguments and errors as for ``read_text``."""
    return split_lines(read_text(path, what, hint))


def read_csv_rows(path: Path, what: str, hint: str) -> list[list[str]]:
    """Read the rows of a CSV file that are not empty. Arguments and errors as for ``read_text``."""
    text = read_text(path, what, hint)
    try:
        return [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise InputError(f"cannot read {what} {str(path)!r}: {error}", hint) from None
