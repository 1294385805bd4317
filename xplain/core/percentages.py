"""Lists of percentages within a metric's parameters, whose commas separate the parameters themselves."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from xplain.core.registry import Written

STEP = 10  # between the percentages of A..B


def read_percentages(text: str) -> tuple[float, ...]:
    """The percentages of ``10+30+50``, or of ``10..90``, which counts up in tens. Rising, over 0 and at most 100.

    Raises ValueError for anything else.
    """
    first, dots, last = text.partition("..")
    if dots:
        found = tuple(float(each) for each in range(int(first), int(last) + 1, STEP))
    else:
        found = tuple(float(each) for each in text.split("+"))
    if not found or not all(0 < each <= 100 for each in found) or any(a >= b for a, b in pairwise(found)):
        raise ValueError(text)
    return found


Percentages = Annotated[str, Written("rising percentages such as 10..90 or 10+30+50", read_percentages)]
