"""The files of ``xplain bench``: results in bench.json and bench.md, and bench.part.json to resume an interrupted benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from xplain.core.config import BenchConfig
from xplain.core.errors import UsageError
from xplain.core.files import write_json, write_text
from xplain.core.request import Request, changed_options, describe_path, find_difference
from xplain.pipelines.benchmark_records import Group
from xplain.reports.benchmark_report import benchmark_table
from xplain.reports.published_speeds import PublishedSpeeds, add_published_speeds


@dataclass(frozen=True)
class BenchmarkFiles:
    """The files of one benchmark in a directory. speeds: a paper's speeds, which are only in bench.md."""

    folder: Path
    config: BenchConfig
    speeds: PublishedSpeeds | None = None

    @property
    def partial_path(self) -> Path:
        """Path of the partial results, which exist until the benchmark is finished."""
        return self.folder / "bench.part.json"

    @property
    def results_path(self) -> Path:
        """Path of the results."""
        return self.folder / "bench.json"

    @cached_property
    def request(self) -> Request:
        """What is measured, and how; stored with the results."""
        config = self.config
        return {
            **changed_options(config, ("model", "compute", "inputs", "pixels")),
            **changed_options(config.model, ("name", "offline")),
            **changed_options(config.compute),
            **changed_options(config.pixels, ("bands",)),
            "inputs": [describe_path(name) for name in config.inputs],
        }

    def check_existing(self) -> None:
        """Raise UsageError if the directory has results of another benchmark, which would be overwritten. Names the difference."""
        partial, results = _read_json(self.partial_path), _read_json(self.results_path)
        if self._is_same(partial) or self._is_same(results):
            return
        stored = next((content["request"] for content in (results, partial) if _has_request(content)), None)
        if stored is not None:
            raise UsageError(
                f"{str(self.folder)!r} contains a benchmark with different {find_difference(stored, self.request)}",
                "use the same settings, delete its files or choose another --output",
            )
        if self.results_path.exists():
            raise UsageError(
                f"{str(self.results_path)!r} does not say with which settings it was measured",
                "delete it or choose another --output",
            )

    def _is_same(self, content: dict[str, Any]) -> bool:
        """Return whether a file is of the same request. Partial results of earlier versions have it as ``asked``."""
        return content.get("request") == self.request or content.get("asked") == repr(self.config)

    def load_existing(self) -> list[Group]:
        """Return the groups measured by an interrupted benchmark with the same configuration, or [] if there is none."""
        content = _read_json(self.partial_path)
        groups = content.get("groups")
        return groups if isinstance(groups, list) and self._is_same(content) else []

    def write(self, groups: Sequence[Group]) -> None:
        """Write all groups measured so far. Raise InputError if the files cannot be written."""
        write_json(self.partial_path, {"request": self.request, "groups": groups})
        self._write_results(groups)

    def finish(self, groups: Sequence[Group]) -> None:
        """Write the results of the finished benchmark, and remove the partial file."""
        self._write_results(groups)
        self.partial_path.unlink(missing_ok=True)

    def _write_results(self, groups: Sequence[Group]) -> None:
        records = [record for group in groups for record in group]
        write_json(self.results_path, {"request": self.request, "records": records})
        write_text(self.folder / "bench.md", benchmark_table(add_published_speeds(records, self.speeds)))


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, or {} if there is none."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _has_request(content: dict[str, Any]) -> bool:
    return isinstance(content.get("request"), dict)
