"""Where explanations go: names of files, what is already there, and writing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xplain.core.array_store import Floats
from xplain.core.config import RenderOptions
from xplain.core.errors import InputError, UsageError
from xplain.core.files import write_file
from xplain.reports.render import draw, encode_raw, read_record, remarks, to_pixels

LONGEST = 255  # bytes of a file's name on every usual file system


@dataclass(frozen=True)
class Outputs:
    """The files of a run. directory None: one PNG, given back instead of written."""

    directory: Path | None
    saves: Sequence[str]
    look: RenderOptions
    overwrite: bool

    def paths(self, stem: str, label: str, target: str) -> dict[str, Path]:
        """``OUT/<stem>.<method>[.<target>].<kind>.png|npz`` by kind."""
        name = ".".join(filter(None, (stem, label, target)))
        folder = self.directory or Path()
        return {kind: folder / f"{name}.{kind}.{'npz' if kind == 'raw' else 'png'}" for kind in self.saves}

    def check(self, stems: Iterable[str], label: str, target: str, fingerprint: str) -> None:
        """Refuse a run whose files are there from other settings. Raises UsageError naming the first."""
        if self.overwrite or self.directory is None or not self.directory.is_dir():
            return
        for stem in stems:
            for path in self.paths(stem, label, target).values():
                there = os.path.exists(path)  # noqa: PTH110  (a name that is too long fails its image alone)
                if there and (read_record(path) or {}).get("fingerprint") != fingerprint:
                    raise UsageError(
                        f"{str(path)!r} is there from other settings", "give --overwrite or another --output"
                    )

    def kept(self, paths: dict[str, Path], digest: str, fingerprint: str) -> dict[str, Any] | None:
        """The record of files that are all there already, made from this image and these settings; else None.

        Raises InputError when a file is there that was made from something else, or cannot be called what it should be.
        """
        if self.directory is None:
            return None
        if long := next((path for path in paths.values() if len(os.fsencode(path.name)) > LONGEST), None):
            raise InputError(f"{str(long)!r} is longer than the name of a file may be", "shorten the image's name")
        if self.overwrite:
            return None
        records = [_check_own(path, digest, fingerprint) for path in paths.values() if path.exists()]
        return records[0] if len(records) == len(paths) else None

    def write(self, paths: dict[str, Path], image: Floats, attribution: Floats, record: dict[str, Any]) -> bytes | None:
        """Write every kind; PNG bytes instead where there is no directory. image, attribution: (C, H, W).

        Raises InputError where a file cannot be written, or another process has meanwhile put one there from something else.
        """
        pixels = to_pixels(image)
        record["warnings"] += remarks(attribution, self.look)
        record["files"] = {} if self.directory is None else {kind: str(path) for kind, path in paths.items()}
        for kind, path in paths.items():
            content = (
                encode_raw(image, attribution, record)
                if kind == "raw"
                else draw(kind, pixels, attribution, self.look, record)
            )
            if self.directory is None:
                return content
            if not write_file(path, content, replace=self.overwrite):
                _check_own(path, record["sha256"], record["fingerprint"])
        return None


def _check_own(path: Path, digest: str, fingerprint: str) -> dict[str, Any]:
    """The record of a file that was made from this image and these settings. Raises InputError for another one."""
    record = read_record(path) or {}
    if (record.get("sha256"), record.get("fingerprint")) != (digest, fingerprint):
        other = "another image" if record.get("fingerprint") == fingerprint else "other settings"
        raise InputError(f"{str(path)!r} is there from {other}", "give --overwrite or another --output")
    return record
