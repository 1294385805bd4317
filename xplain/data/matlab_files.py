"""Read arrays of structures from MATLAB files of version 5 to 7. SciPy's reader can end the process on a damaged file."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

MATRIX, COMPRESSED = 14, 15  # types of elements
# formats of struct, and encodings of texts, by type; other texts are Latin-1
NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
TEXTS = {4: "utf-16-{}", 16: "utf-8", 17: "utf-16-{}", 18: "utf-32-{}"}
STRUCT, CHAR = 2, 4  # classes of matrices; higher ones are numbers
FIRST_NUMBER, LAST_NUMBER = 6, 15
COMPLEX = 0x800  # flag of a matrix
HEADER_BYTES = 128
MAX_BYTES = 1 << 26  # of a variable that is decompressed
Value = int | float | str | None


@dataclass(frozen=True)
class _Element:
    kind: int
    content: memoryview


def read_structures(content: bytes, variable: str, fields: Collection[str]) -> list[dict[str, Value]] | None:
    """Return the entries of an array of structures: for each, the value of these fields, or None if that is no single number or text.

    Returns None if there is no such variable with these fields. Raises ValueError if the content is not a valid MATLAB file.
    """
    data = memoryview(content)
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[HEADER_BYTES - 2 : HEADER_BYTES]))
    if order is None:
        raise ValueError("it is not a MATLAB file of version 5 to 7")
    if struct.unpack(f"{order}H", data[HEADER_BYTES - 4 : HEADER_BYTES - 2])[0] != 0x100:
        raise ValueError("it is a MATLAB file of version 7.3; save it with -v7")
    try:
        for element in _iterate(data[HEADER_BYTES:], order):
            entries = _read_variable(_decompress(element, order), order, variable, fields)
            if entries is not None:
                return entries
    except (struct.error, zlib.error, UnicodeDecodeError, StopIteration) as error:
        raise ValueError(f"it is damaged: {error}") from None
    return None


def _iterate(data: memoryview, order: str) -> Iterator[_Element]:
    """Yield the elements one after the other. Raises ValueError or struct.error if the last one is incomplete."""
    position = 0
    while position < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, position)
        start = position + 8
        if kind >> 16:  # a small element: up to 4 bytes after its size and type of 2 bytes each
            kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
            end = position + 8
        else:
            end = start + size if kind == COMPRESSED else start + math.ceil(size / 8) * 8
        if start + size > len(data):
            raise ValueError("it is truncated")
        yield _Element(kind, data[start : start + size])
        position = end


def _decompress(element: _Element, order: str) -> _Element:
    if element.kind != COMPRESSED:
        return element
    decompressor = zlib.decompressobj()
    content = decompressor.decompress(element.content, MAX_BYTES)
    if decompressor.unconsumed_tail:
        raise ValueError("it is too large")
    return next(_iterate(memoryview(content), order))


def _read_variable(
    element: _Element, order: str, variable: str, fields: Collection[str]
) -> list[dict[str, Value]] | None:
    """Return the entries of a matrix if it is the variable and an array of structures with the fields."""
    if element.kind != MATRIX:
        return None
    parts = _iterate(element.content, order)
    flags, shape, name = _read_head(parts, order)
    if name != variable or flags & 0xFF != STRUCT:
        return None
    (length,) = _read_numbers(next(parts), order)
    names = bytes(next(parts).content)
    if not isinstance(length, int) or length < 1:
        raise ValueError("it is damaged: a field has no name")
    keys = [names[i : i + length].split(b"\0")[0].decode("latin-1") for i in range(0, len(names), length)]
    if not set(fields) <= set(keys):
        return None
    entries: list[dict[str, Value]] = []
    for _ in range(math.prod(shape)):
        values = {key: next(parts) for key in keys}
        entries.append({key: _read_value(values[key], order) for key in fields})
    return entries


def _read_head(parts: Iterator[_Element], order: str) -> tuple[int, list[int], str]:
    """Return the flags, which include the class, the shape and the name of a matrix."""
    flags = _read_numbers(next(parts), order)
    shape = [int(number) for number in _read_numbers(next(parts), order)]
    if not flags or not shape or min(shape) < 0:
        raise ValueError("it is damaged: a matrix has no shape")
    return int(flags[0]), shape, bytes(next(parts).content).decode("latin-1")


def _read_value(element: _Element, order: str) -> Value:
    """Return the number or the text that a matrix holds, or None if it holds something else."""
    if element.kind != MATRIX or not element.content:
        return None
    parts = _iterate(element.content, order)
    flags, shape, _ = _read_head(parts, order)
    matrix_class = flags & 0xFF
    if matrix_class == CHAR and shape[0] <= 1:  # one line
        text = next(parts)
        encoding = TEXTS.get(text.kind, "latin-1").format("le" if order == "<" else "be")
        return bytes(text.content).decode(encoding)
    if FIRST_NUMBER <= matrix_class <= LAST_NUMBER and math.prod(shape) == 1 and not flags & COMPLEX:
        numbers = _read_numbers(next(parts), order)
        return numbers[0] if len(numbers) == 1 else None
    return None


def _read_numbers(element: _Element, order: str) -> list[int | float]:
    """Return the numbers of an element. Raises ValueError if it holds something else."""
    form = NUMBERS.get(element.kind)
    if form is None:
        raise ValueError("it is damaged: numbers are missing")
    count = len(element.content) // struct.calcsize(f"{order}{form}")
    return list(struct.unpack_from(f"{order}{count}{form}", element.content))
