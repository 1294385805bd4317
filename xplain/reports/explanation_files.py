"""The files of ``xplain explain``: their names, existing ones, and writing."""

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
from xplain.reports.render import draw, encode_raw, read_record, render_warnings, to_pixels

MAX_NAME_BYTES = 255  # on common file systems
OVERWRITE_HINT = "use --overwrite or another --output"


@dataclass(frozen=True)
class ExplanationFiles:
    """The files of a run.

    directory: the output directory; None: ``write`` returns one PNG instead of writing files.
    kinds: overlay, heatmap, masked, figure, raw.
    options: how pictures are drawn.
    overwrite: replace existing files.
    """

    directory: Path | None
    kinds: Sequence[str]
    options: RenderOptions
    overwrite: bool

    def paths(self, stem: str, label: str, target: str) -> dict[str, Path]:
        """Return the output path of each kind: ``OUTPUT/<stem>.<method>[.<target>].<kind>.png``, or ``.npz`` for ``raw``."""
        name = ".".join(filter(None, (stem, label, target)))
        folder = self.directory or Path()
        return {kind: folder / f"{name}.{kind}.{'npz' if kind == 'raw' else 'png'}" for kind in self.kinds}

    def check(self, stems: Iterable[str], label: str, target: str, fingerprint: str) -> None:
        """Raise UsageError for the first file that exists with other settings than those of the fingerprint."""
        if self.overwrite or self.directory is None or not self.directory.is_dir():
            return
        for stem in stems:
            for path in self.paths(stem, label, target).values():
                exists = os.path.exists(path)  # noqa: PTH110  (False for a name that is too long; Path.exists raises)
                if exists and (read_record(path) or {}).get("fingerprint") != fingerprint:
                    raise UsageError(f"{str(path)!r} already exists with different settings", OVERWRITE_HINT)

    def load_existing(self, paths: dict[str, Path], digest: str, fingerprint: str) -> dict[str, Any] | None:
        """Return the record of an explanation if all its files exist, else None.

        paths: as ``paths`` returns them.
        digest: SHA-256 of the image file.
        fingerprint: of the settings.

        Raises InputError if a file exists with another image or other settings, or if a name is too long.
        """
        if self.directory is None:
            return None
        for path in paths.values():
            if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
                raise InputError(f"the file name {str(path)!r} is too long", "rename the image file")
        if self.overwrite:
            return None
        records = [_read_matching(path, digest, fingerprint) for path in paths.values() if path.exists()]
        return records[0] if len(records) == len(paths) else None

    def write(self, paths: dict[str, Path], image: Floats, attribution: Floats, record: dict[str, Any]) -> bytes | None:
        """Write the file of every kind; without a directory, return the PNG bytes of the first kind.

        paths: as ``paths`` returns them.
        image, attribution: (C, H, W).
        record: embedded in each file; ``warnings`` and ``files`` are added to it.

        Raises InputError if a file cannot be written, or if another process wrote it in the meantime from other input.
        """
        record["warnings"] += render_warnings(attribution, self.options)
        record["files"] = {} if self.directory is None else {kind: str(path) for kind, path in paths.items()}
        for kind, path in paths.items():
            content = self._encode(kind, image, attribution, record)
            if self.directory is None:
                return content
            if not write_file(path, content, replace=self.overwrite):
                _read_matching(path, record["sha256"], record["fingerprint"])
        return None

    def _encode(self, kind: str, image: Floats, attribution: Floats, record: dict[str, Any]) -> bytes:
        if kind == "raw":
            return encode_raw(image, attribution, record)
        return draw(kind, to_pixels(image), attribution, self.options, record)


def _read_matching(path: Path, digest: str, fingerprint: str) -> dict[str, Any]:
    """Return the record of a file. Raises InputError if it is of another image or other settings."""
    record = read_record(path) or {}
    if record.get("fingerprint") != fingerprint:
        raise InputError(f"{str(path)!r} already exists with different settings", OVERWRITE_HINT)
    if record.get("sha256") != digest:
        raise InputError(f"{str(path)!r} already exists for another image", OVERWRITE_HINT)
    return record
