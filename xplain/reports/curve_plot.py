"""Coordinates of the plots of mean curves in ``report.html``; the template ``evaluation.html`` writes the SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Label:
    """A text label at (x, y). anchor: ``end`` or ``middle``."""

    x: str
    y: str
    anchor: str
    text: str


@dataclass(frozen=True)
class Curve:
    """A polyline of a plot. points: ``x,y x,y ...``."""

    method: str
    color: str
    points: str


@dataclass(frozen=True)
class CurvePlot:
    """SVG elements that show the mean curves of one metric. frame: path of the axes."""

    metric: str
    unit: str
    axis: str
    frame: str
    labels: Sequence[Label]
    curves: Sequence[Curve]
    width: int
    height: int


@dataclass(frozen=True)
class PlotArea:
    """Maps shares in [0, 1] and values in [low, high] to the coordinates of an SVG."""

    low: float
    high: float
    width: int = 360
    height: int = 220
    left: int = 34
    bottom: int = 24

    def x(self, share: float) -> str:
        """Return the horizontal coordinate of a share."""
        return f"{self.left + share * (self.width - self.left - 16):.1f}"

    def y(self, value: float) -> str:
        """Return the vertical coordinate of a value."""
        span = self.height - self.bottom - 8
        return f"{self.height - self.bottom - (value - self.low) / (self.high - self.low) * span:.1f}"

    def point(self, share: float, value: float) -> str:
        """Return the SVG coordinates of a point as ``x,y``."""
        return f"{self.x(share)},{self.y(value)}"

    @property
    def frame(self) -> str:
        """The path of the two axes."""
        corners = (self.point(0, self.high), self.point(0, self.low), self.point(1, self.low))
        return "M{} L{} L{}".format(*corners)


def make_curve_plot(summary: Mapping[str, Any], metric: str, colors: Mapping[str, str]) -> CurvePlot | None:
    """Return the plot of a metric's mean curves, or None if it has no curves. colors: by method."""
    curves = {row["method"]: row["curve"] for row in summary["rows"] if row["metric"] == metric and row["curve"]}
    if not curves:
        return None
    description = summary["run"]["metrics"][metric]
    axis = description.get("axis", "fraction of pixels")
    values = [value for curve in curves.values() for value in curve]
    area = PlotArea(min(0.0, *values), max(*values, 1e-9))
    labels = _value_labels(area)
    if axis.startswith(("fraction", "share")):  # runs of older versions store "share"
        labels += [Label(area.x(share), str(area.height - 8), "middle", f"{share:.0%}") for share in (0, 0.5, 1)]
    shares = description.get("places")  # evenly spaced from 0 to 1 if absent
    lines = [Curve(method, colors[method], _curve_points(area, curve, shares)) for method, curve in curves.items()]
    return CurvePlot(metric, description["unit"], axis, area.frame, labels, lines, area.width, area.height)


def _value_labels(area: PlotArea) -> list[Label]:
    """Return labels of the lowest, middle and highest value at the left axis."""
    ticks = (area.low, (area.low + area.high) / 2, area.high)
    x = str(area.left - 4)
    return [Label(x, f"{float(area.y(tick)) + 3:.1f}", "end", f"{tick:.2f}") for tick in ticks]


def _curve_points(area: PlotArea, curve: Sequence[float], shares: Sequence[float] | None) -> str:
    if not shares:
        shares = [index / (len(curve) - 1) for index in range(len(curve))]
    return " ".join(area.point(shares[index], value) for index, value in enumerate(curve))
