"""Read the results of evaluation runs, to compare their methods."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xplain.core.array_store import Floats
from xplain.core.errors import InputError
from xplain.core.run_store import LATE_ENTRIES, check_run, read_run, settings_digest


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """The results of an evaluation run.

    images, targets: dicts that map keys to the SHA-256 digest and the explained class. values: values by settings digest and key, with None
    for undefined values.
    """

    name: str
    description: dict[str, Any]
    images: dict[str, str]
    targets: dict[str, int]
    values: dict[str, dict[str, float | None]]

    @classmethod
    def read(cls, folder: Path, name: str) -> EvaluatedRun:
        """Read a run directory. Raise InputError if ``folder`` is not a run directory or has no results."""
        description, records = read_run(folder)
        check_run(description, str(folder))
        if "known" in description:
            raise InputError(f"run {name!r} is on known truth and has no images to compare", "read its report.html")
        run = cls(name, description, {}, {}, {})
        for record in records:
            if not run._add(record):
                raise InputError(
                    f"the record of {record['key']!r} in {str(folder)!r} is invalid",
                    "delete its line and run evaluate again",
                )
        if not run.values:
            raise InputError(f"run {name!r} has no results", "run the same evaluate command again")
        return run

    def _add(self, record: Mapping[str, Any]) -> bool:
        """Add a record. Return False if it is invalid."""
        key, is_item = record["key"], record["mark"] == "item"
        if is_item and isinstance(record.get("sha256"), str):
            self.images[key] = record["sha256"]
        elif "target" in record and isinstance(record.get("value", ""), int | float | None):
            self.targets[key] = record["target"]
            self.values.setdefault(record["mark"], {})[key] = record["value"]
        else:
            return not is_item and "target" not in record
        return True

    @property
    def settings(self) -> dict[str, Any]:
        """The fingerprint without the entries that choose images and labels, which are compared image by image."""
        entries = self.description["fingerprint"]
        return {key: value for key, value in entries.items() if key not in LATE_ENTRIES}

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Per-image metrics by label."""
        return {label: metric for label, metric in self.description["metrics"].items() if "scope" not in metric}


@dataclass(frozen=True, eq=False)
class RunMethod:
    """A method of a run. name: unique name across all runs. label: name within the run."""

    name: str
    label: str
    run: EvaluatedRun

    @property
    def settings(self) -> str:
        """The settings of the run that affect the results, as JSON."""
        return json.dumps(self.run.settings, sort_keys=True)

    def values(self, metric: Mapping[str, Any], keys: Sequence[str]) -> Floats:
        """Return the values of the images, with NaN for undefined values. Raise InputError if an image is missing."""
        mark = settings_digest(self.run.description["methods"][self.label], metric)
        stored = self.run.values.get(mark, {})
        missing = [key for key in keys if key not in stored]
        if missing:
            what = f"{metric['metric']} of {self.label} for {missing[0]!r}"
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputError(
                f"run {self.run.name!r} is incomplete: missing {what}{more}", "run the same evaluate command again"
            )
        values = [stored[key] for key in keys]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
