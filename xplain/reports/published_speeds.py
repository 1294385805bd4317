"""A paper's speeds next to those of ``xplain bench``: values per method, settings that differ, and the agreement of the orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xplain.core.config import Choice
from xplain.core.config_file import PUBLISHED
from xplain.core.errors import UsageError
from xplain.core.options import ModelOptions
from xplain.core.registry import METHODS
from xplain.reports.order_agreement import describe_order_agreement, estimate_order_agreement
from xplain.reports.paper_settings import difference_warning, hardware_differences, model_differences
from xplain.reports.published import SPEED, Published, choice_key, order_notes, settings_key, table_notes

Record = Mapping[str, Any]


@dataclass(frozen=True)
class PublishedSpeeds:
    """A paper's speeds by model and method. images: the number of images whose throughput is compared with them."""

    published: Published
    values: dict[tuple[str, str], float]
    model: ModelOptions
    images: int

    @classmethod
    def of(cls, published: Published, model: ModelOptions, images: int) -> PublishedSpeeds:
        """Resolve the methods. Raises UsageError for an unknown method or parameter, another metric, and two values of the same key."""
        values: dict[tuple[str, str], float] = {}
        for entry in published.values:
            where = f"a figure of [{PUBLISHED}] in {published.file or published.name}"
            if entry.metric != Choice(SPEED):
                raise UsageError(
                    f"{where} is of {entry.metric.name}, which bench does not measure", "use it with xplain evaluate"
                )
            try:
                key = entry.model, choice_key(METHODS.get(entry.method.name), entry.method)
            except UsageError as error:
                raise UsageError(f"{where}: {error}") from None
            if key in values:
                raise UsageError(f"{published.name} has two values for {' '.join(key)}", "remove one of them")
            values[key] = entry.value
        return cls(published, values, model, images)

    def annotate(self, record: Record) -> dict[str, Any]:
        """Return a record with the published speed, None if there is none, if it is of a run."""
        if record["kind"] != "run":
            return {**record}
        value = None
        if "method" in record and record["program"] == "xplain" and record["images"] == self.images:
            settings = METHODS.get(record["method"]).describe_settings(record["params"])
            value = self.values.get((record["model"], settings_key(record["method"], settings)))
        return {**record, "published": value}

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return the record of the table: its source, and by model the settings that differ and the agreement of the orders."""
        runs = [self.annotate(record) for record in records if record["kind"] == "run"]
        environment = next((record for record in records if record["kind"] == "environment"), {})
        ceilings = {record["model"]["name"]: record for record in records if record["kind"] == "ceiling"}
        return {
            "kind": "published",
            "table": self.published.name,
            "source": self.published.source,
            "models": self.published.models,
            "unknown": list(self.published.unknown),
            "notes": list(self.published.notes),
            "differences": {name: self._find_differences(ceiling, environment) for name, ceiling in ceilings.items()},
            "order": [entry for name in ceilings for entry in self._find_agreement(name, runs)],
        }

    def _find_differences(self, ceiling: Record, environment: Record) -> list[str]:
        settings, weights = self.published.settings, self.model.weights
        name, size = ceiling["model"]["name"], ceiling["size"]
        differences = model_differences(
            settings, name, None if weights is None else str(weights), self.model.image_size, size
        )
        return differences + hardware_differences(
            settings, environment.get("gpu") or environment.get("cpu") or "unknown"
        )

    def _find_agreement(self, model: str, runs: Sequence[Record]) -> list[dict[str, Any]]:
        """Return the agreement of the order by images/s, over the timed rounds, or [] if there is none."""
        compared = [run for run in runs if run["model"] == model and run["published"] is not None and run["seconds"]]
        published = np.array([run["published"] for run in compared], dtype=np.float64)
        rounds = min((len(run["seconds"]) for run in compared), default=0)
        speeds = [[run["images"] / seconds for seconds in run["seconds"][:rounds]] for run in compared]
        agreement = estimate_order_agreement(published, np.array(speeds).reshape(len(compared), rounds))
        return [] if agreement is None else [describe_order_agreement(f"{model}, {SPEED}", agreement)]


def add_published_speeds(records: Sequence[Record], speeds: PublishedSpeeds | None) -> list[Record]:
    """Return the records with published speeds, and the record of the table as the last one; unchanged without a table."""
    if speeds is None:
        return [*records]
    return [*(speeds.annotate(record) for record in records), speeds.describe(records)]


def speed_notes(table: Record) -> str:
    """Return the notes on published speeds as Markdown. table: as ``PublishedSpeeds.describe`` returns it."""
    lines = [
        f"**Warning:** {name}: {difference_warning(differences)}."
        for name, differences in table["differences"].items()
        if differences
    ]
    order = order_notes(table["order"], "rounds")
    models = f"models in the table: {', '.join(table['models'])}"
    for title, texts in table_notes(table, [models], order, "timed rounds").items():
        lines += ["", f"{title}:", *(f"- {text}" for text in texts)]
    return "\n".join(lines).strip()
