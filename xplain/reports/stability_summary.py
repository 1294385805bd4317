"""Texts about the stability of a map, and of all maps of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xplain.core.stability import SENSITIVE, SHARE, SOURCES, UNSTABLE
from xplain.reports.control import CONTROL


def describe_stability(record: Mapping[str, Any]) -> str:
    """Return ``stability 0.66 (draws 0.66, rounding 1.00, noise 0.83; chance 0.10)`` for the record of a map, or "" without a stability."""
    entry = record.get("stability")
    if entry is None or entry["figure"] is None:
        return ""
    values = {name: entry[name]["top10"] for name in SOURCES if entry[name] is not None}
    texts = [f"{name} {value:.2f}" for name, value in values.items() if value is not None]
    return f"stability {entry['figure']:.2f} ({', '.join(texts)}; chance {SHARE:.2f})"


def describe_figure(record: Mapping[str, Any]) -> str:
    """Return ``stability 0.66 (draws)`` for the record of a map that has a stability."""
    entry = record["stability"]
    return "stability undefined" if entry["figure"] is None else f"stability {entry['figure']:.2f} ({entry['source']})"


class StabilitySummary:
    """Counts of maps that are unstable, sensitive to rounding, or whose prediction changes under noise."""

    def __init__(self) -> None:
        self.maps = self.unstable = self.sensitive = self.changing = 0
        self.lowest: tuple[float, str] | None = None

    def add(self, record: Mapping[str, Any]) -> None:
        """Count the record of an explanation, if it has a stability. The random control, which is never stable, does not count."""
        entry = record.get("stability")
        if entry is None or record["method"] == CONTROL:
            return
        self.maps += 1
        figure, rounding, noise = entry["figure"], entry["rounding"], entry["noise"]
        if figure is not None and figure < UNSTABLE:
            self.unstable += 1
            text = f"{figure:.2f} ({entry['source']}): {record['input']}: {record['method']}"
            self.lowest = min(self.lowest or (figure, text), (figure, text))
        self.sensitive += rounding is not None and rounding["top10"] is not None and rounding["top10"] < SENSITIVE
        self.changing += noise is not None and noise["kept"] < noise["repeats"]

    def describe(self) -> str:
        """Return the warning, or "" if there is nothing to warn of."""
        parts = []
        if self.lowest is not None:
            parts.append(f"{self.unstable} unstable (below {UNSTABLE}; lowest {self.lowest[1]})")
        if self.sensitive:
            parts.append(f"{self.sensitive} sensitive to rounding (below {SENSITIVE})")
        if self.changing:
            parts.append(f"{self.changing} where small changes of the image change the prediction")
        maps = "1 map" if self.maps == 1 else f"{self.maps} maps"
        return f"stability of {maps}: {', '.join(parts)}" if parts else ""
