"""A function with a parameter of every kind, as methods and metrics declare them."""

from __future__ import annotations

from typing import Annotated, Literal

from xplain.core.parameters import Bounds, Fraction, Positive, Steps

Color = Literal["black", "white", "blur"]


def example(
    oracle,
    x,
    *,
    rng,
    against: str | None,
    count: Steps = 10,
    level: Fraction = 0.5,
    size: Positive = 1.0,
    flag: bool = False,
    color: Color = "black",
    layer: str = "auto",
    limit: Steps | None = None,
    tint: Color | None = None,
    span: Annotated[int, Bounds(low=2, high=5)] = 3,
):
    """Explain the image. This is the second sentence."""
