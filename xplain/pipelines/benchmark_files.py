"""The files of ``xplain bench``: results in bench.json and bench.md, and bench.part.json to resume an interrupted benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xplain.core.config import BenchConfig
from xplain.core.files import write_json, write_text
from xplain.pipelines.benchmark_records import Group
from xplain.reports.benchmark_report import benchmark_table


@dataclass(frozen=True)
class BenchmarkFiles:
    """The files of one benchmark in a directory."""

    folder: Path
    config: BenchConfig

    @property
    def partial_path(self) -> Path:
        """Path of the partial results, which exist until the benchmark is finished."""
        return self.folder / "bench.part.json"

    def load_existing(self) -> list[Group]:
        """Return the groups measured by an interrupted benchmark with the same configuration, or [] if there is none."""
        try:
            content = json.loads(self.partial_path.read_text("utf-8"))
            return content["groups"] if content["asked"] == repr(self.config) else []
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def write(self, groups: Sequence[Group]) -> None:
        """Write all groups measured so far. Raise InputError if the files cannot be written."""
        write_json(self.partial_path, {"asked": repr(self.config), "groups": groups})
        self._write_results(groups)

    def finish(self, groups: Sequence[Group]) -> None:
        """Write the results of the finished benchmark, and remove the partial file."""
        self._write_results(groups)
        self.partial_path.unlink(missing_ok=True)

    def _write_results(self, groups: Sequence[Group]) -> None:
        records = [record for group in groups for record in group]
        write_json(self.folder / "bench.json", {"records": records})
        write_text(self.folder / "bench.md", benchmark_table(records))
