"""The files of ``xplain explain``: their names, existing ones, and writing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xplain.core.array_store import Floats
from xplain.core.errors import InputError, UsageError
from xplain.core.files import touch, write_file
from xplain.core.options import RenderOptions
from xplain.reports.band_pictures import show_bands
from xplain.reports.original_pictures import Original, draw_original
from xplain.reports.render import draw, encode_raw, read_record, render_warnings
from xplain.reports.steps_figure import draw_steps, encode_steps

MAX_NAME_BYTES = 255  # on common file systems
OVERWRITE_HINT = "use --overwrite or another --output"
STEPS, STEPS_DATA = "steps", "steps-data"  # the figure of ``--save steps``, and its NPZ file
NOT_OURS = "already exists and was not written by explain"


@dataclass(frozen=True)
class FileNames:
    """The names that the files of an explanation may have, without kind and suffix.

    plain: ``<stem>.<method>[.<target>]``, with the contrast classes if there are any.
    former: the name that an earlier version gave it.
    full: with everything else that changes the picture, for a folder in which ``plain`` has other settings.
    """

    plain: str
    former: str
    full: str

    def candidates(self, fingerprint: str) -> list[str]:
        """Return the names in the order in which they are tried; the last one has a digest of all settings."""
        return list(dict.fromkeys((self.plain, self.former, self.full, f"{self.full}.{fingerprint[:8]}")))

    def is_former(self, name: str) -> bool:
        """Return whether only an earlier version gave this name, so that no new files get it."""
        return name == self.former and name not in (self.plain, self.full)


@dataclass(frozen=True)
class ExplanationFiles:
    """The files of a run.

    directory: the output directory; None: ``write`` returns one PNG instead of writing files.
    kinds: overlay, heatmap, masked, figure, stability, raw, steps, which has two files.
    options: how pictures are drawn.
    overwrite: replace existing files.
    bands: numbers of the bands that pictures show; empty for the first three.
    scale: side of the square in a picture that shows a pixel; figures have a fixed size.
    """

    directory: Path | None
    kinds: Sequence[str]
    options: RenderOptions
    overwrite: bool
    bands: tuple[int, ...] = ()
    scale: int = 1

    def paths(self, name: str) -> dict[str, Path]:
        """Return, by kind, the path ``OUT/<name>.<kind>.png``, or ``.npz`` for raw. ``steps`` has both, as kinds STEPS and STEPS_DATA."""
        folder = self.directory or Path()
        paths = {kind: folder / f"{name}.{kind}.{'npz' if kind == 'raw' else 'png'}" for kind in self.kinds}
        if STEPS in paths:
            paths[STEPS_DATA] = paths[STEPS].with_suffix(".npz")
        return paths

    def check(self, names: Iterable[str]) -> None:
        """Raise UsageError for the first file of these names that exists and that explain did not write."""
        if self.overwrite or self.directory is None or not self.directory.is_dir():
            return
        for name in names:
            for path in self.paths(name).values():
                exists = os.path.exists(path)  # noqa: PTH110  (False for a name that is too long; Path.exists raises)
                if exists and "fingerprint" not in (read_record(path) or {}):
                    raise UsageError(f"{str(path)!r} {NOT_OURS}", OVERWRITE_HINT)

    def is_complete(self, name: str) -> bool:
        """Return whether all files of a name exist and will be kept if their settings agree."""
        if self.overwrite or self.directory is None:
            return False
        return all(os.path.exists(path) for path in self.paths(name).values())  # noqa: PTH110

    def has_settings(self, name: str, fingerprint: str) -> bool:
        """Return whether the first file of a name was written with these settings, for any image."""
        path = next(iter(self.paths(name).values()))
        return (read_record(path) or {}).get("fingerprint") == fingerprint

    def find(self, names: FileNames, digest: str, fingerprint: str) -> tuple[dict[str, Path], dict[str, Any] | None]:
        """Return the paths of an explanation, and its record if all its files exist; these are then touched.

        The paths are of the first name with files of the same image and settings, else of the first name without files.

        digest: SHA-256 of the image file.
        fingerprint: of the settings.

        Raises InputError if explain did not write an existing file, if it is of another image, or if a name is too long.
        """
        plain = self.paths(names.plain)
        if self.directory is None:
            return plain, None
        _check_length(plain.values())
        if self.overwrite:
            return plain, None
        started, free = None, None
        for name in names.candidates(fingerprint):
            paths = self.paths(name)
            records = _read_matching(paths.values(), digest, fingerprint)
            if records is None:
                continue
            if len(records) == len(paths):
                touch(paths.values())
                return paths, records[0] | {"files": {kind: str(path) for kind, path in paths.items()}}
            if records:
                started = started or paths
            elif not names.is_former(name):
                free = free or paths
        return started or free or plain, None

    def write(
        self,
        paths: dict[str, Path],
        image: Floats,
        attribution: Floats,
        record: dict[str, Any],
        steps: Mapping[str, Floats] | None = None,
        original: Original | None = None,
        marks: Floats | None = None,
    ) -> bytes | None:
        """Write the file of every kind; without a directory, return the PNG bytes of the first kind.

        paths: as ``find`` returns them.
        image, attribution: (C, H, W).
        record: embedded in each file; ``warnings`` and ``files`` are added to it.
        steps: the arrays of ``--save steps``.
        original: the photograph to draw on, or None to draw on the model input.
        marks: (H, W) of ``--save stability``, on the model input, or None.

        Raises InputError if a file cannot be written, or if another process wrote it in the meantime from other input.
        """
        record["warnings"] += render_warnings(attribution, self.options)
        record["files"] = {} if self.directory is None else {kind: str(path) for kind, path in paths.items()}
        for kind, path in paths.items():
            content = self._encode(kind, image, attribution, record, steps or {}, original, marks)
            if self.directory is None:
                return content
            if not write_file(path, content, replace=self.overwrite):
                self._keep(path, record)
        return None

    def _keep(self, path: Path, record: dict[str, Any]) -> None:
        """Keep an existing file of the same explanation. Raises InputError if it is of another one."""
        existing = read_record(path) or {}
        if existing.get("fingerprint") != record["fingerprint"]:
            raise InputError(f"{str(path)!r} already exists with different settings", OVERWRITE_HINT)
        _check_image([path], [existing], record["sha256"])
        touch([path])

    def _encode(
        self,
        kind: str,
        image: Floats,
        attribution: Floats,
        record: dict[str, Any],
        steps: Mapping[str, Floats],
        original: Original | None,
        marks: Floats | None,
    ) -> bytes:
        if kind == STEPS:
            return draw_steps(steps, self.options, record, self.bands)
        if kind == STEPS_DATA:
            return encode_steps(steps, attribution, record)
        if kind == "raw":
            return encode_raw(image, attribution, record)
        if original is not None and kind != "stability":  # marks are pixels of the model input
            return draw_original(kind, original, attribution, self.options, record, self.scale)
        return draw(kind, show_bands(image, self.bands), attribution, self.options, record, self.scale, marks)


def _check_length(paths: Iterable[Path]) -> None:
    """Raise InputError if the name of a file is too long."""
    for path in paths:
        if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
            raise InputError(f"the file name {str(path)!r} is too long", "shorten the image's name")


def _read_matching(paths: Iterable[Path], digest: str, fingerprint: str) -> list[dict[str, Any]] | None:
    """Return the records of the existing ones of these files, or None if one has other settings than the fingerprint.

    Raises InputError if explain did not write one, or if it is of another image.
    """
    existing = [path for path in paths if path.exists()]
    records = [read_record(path) or {} for path in existing]
    for path, record in zip(existing, records, strict=True):
        if "fingerprint" not in record:
            raise InputError(f"{str(path)!r} {NOT_OURS}", OVERWRITE_HINT)
    if any(record["fingerprint"] != fingerprint for record in records):
        return None
    _check_image(existing, records, digest)
    return records


def _check_image(paths: Iterable[Path], records: Iterable[dict[str, Any]], digest: str) -> None:
    """Raise InputError for a file of another image."""
    for path, record in zip(paths, records, strict=True):
        if record.get("sha256") != digest:
            raise InputError(f"{str(path)!r} already exists for another image", OVERWRITE_HINT)
