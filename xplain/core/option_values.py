"""Parse the text of option values: counts, shards, batch sizes, percentiles, bands and ranges."""

from __future__ import annotations

import math

from xplain.core.errors import UsageError

MAX_THREADS = (
    1024  # far more threads than cores make a machine unusable, and OpenMP ends the process if it cannot start them
)
MAX_DIGITS = 20  # of an integer; int() rejects strings of thousands of digits


def parse_count(text: str) -> int | None:
    """Return an integer >= 0, or None for any other text and for numbers of more than MAX_DIGITS digits."""
    return int(text) if text.isdecimal() and len(text) < MAX_DIGITS else None


def parse_shard(text: str) -> tuple[int, int]:
    """Parse ``I/N``. Raise UsageError unless 0 <= I < N."""
    index_text, slash, count_text = text.partition("/")
    index, count = parse_count(index_text), parse_count(count_text)
    if not slash or index is None or count is None or index >= count:
        raise UsageError(f"invalid shard {text!r}", "use I/N with 0 <= I < N")
    return index, count


def parse_batch_size(text: str) -> int | None:
    """Return the batch size, or None for ``auto``. Raise UsageError unless it is ``auto`` or a positive integer."""
    if text == "auto":
        return None
    rows = parse_count(text)
    if not rows:
        raise UsageError(f"invalid batch size {text!r}", "use auto or a positive integer")
    return rows


def parse_threads(text: str) -> int | None:
    """Return the number of threads, or None for ``auto``. Raise UsageError unless it is ``auto`` or in 1..MAX_THREADS."""
    if text == "auto":
        return None
    threads = parse_count(text)
    if not threads or threads > MAX_THREADS:
        raise UsageError(f"invalid number of threads {text!r}", f"use auto or an integer from 1 to {MAX_THREADS}")
    return threads


def parse_channel_values(text: str) -> tuple[float, ...] | None:
    """Return the numbers between commas, or None for no text. Raises UsageError for other text."""
    if not text:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"invalid channel values {text!r}", "use one number per channel, such as 0.5,0.5,0.5"
        ) from None


def parse_clip(text: str) -> tuple[float, float]:
    """Parse the percentiles ``LOW,HIGH``. Raise UsageError unless 0 <= LOW < HIGH <= 100."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"invalid clip {text!r}", "use two percentiles LOW,HIGH, such as 80,99") from None
    if not 0 <= low < high <= 100:
        raise UsageError(
            f"invalid clip {text!r}: the percentiles must satisfy 0 <= LOW < HIGH <= 100", "use a value such as 80,99"
        )
    return low, high


def parse_bands(text: str) -> tuple[int, ...]:
    """Parse band numbers such as ``3,2,1``, which start at 1; none for an empty text. Raise UsageError for any other text."""
    numbers = [parse_count(part.strip()) for part in text.split(",")] if text.strip() else []
    bands = tuple(number for number in numbers if number)
    if len(bands) < len(numbers):
        raise UsageError(f"invalid bands {text!r}", "use band numbers from 1, separated by commas, such as 3,2,1")
    return bands


def parse_shown_bands(text: str) -> tuple[int, ...]:
    """Parse the bands that pictures show. Raise UsageError unless there are three, one or none."""
    bands = parse_bands(text)
    if len(bands) not in (0, 1, 3):
        raise UsageError(f"--bands {text} has {len(bands)} bands", "use three bands (red, green, blue) or a single one")
    return bands


def parse_range(text: str) -> tuple[float, float] | None:
    """Parse the pixel values ``LOW,HIGH``; None for an empty text. Raise UsageError unless LOW < HIGH, both finite."""
    if not text.strip():
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"invalid range {text!r}", "use two pixel values LOW,HIGH, such as 0,4095") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"invalid range {text!r}", "use finite values with LOW < HIGH, such as 0,4095")
    return low, high
