"""Expand globs; ``**`` follows links without running in circles, and does not enter output folders of xplain."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from xplain.data.folders import SkippedFiles, has_images, remove_own_and_hidden, walk_folders
from xplain.data.own_outputs import DEFAULT_OUTPUTS, has_record


def expand_glob(pattern: str, skipped: SkippedFiles) -> list[Path]:
    """Return the files and folders that match a pattern, in sorted order.

    skipped: receives folders that xplain wrote, and links that lead in circles.
    """
    matches: list[Path] = []
    for name in sorted(set(_expand(pattern, skipped))):
        path = Path(name)
        if path.name in DEFAULT_OUTPUTS and path.is_dir():
            skipped.own_folders.append(path)
        else:
            matches.append(path)
    return matches


def _expand(pattern: str, skipped: SkippedFiles) -> Iterator[str]:
    """Yield matches, some more than once."""
    parts = pattern.split(os.sep)  # noqa: PTH206  (keeps a last empty part)
    if "**" not in parts:
        yield from glob.glob(pattern)  # noqa: PTH207  (absolute and relative patterns alike)
        return
    start = parts.index("**")
    head = "".join(part + os.sep for part in parts[:start])
    rest = "/".join(parts[start + 1 :])
    for top in glob.glob(head) if start else [os.curdir]:  # noqa: PTH207
        if Path(top).name in DEFAULT_OUTPUTS and glob.has_magic(head):
            skipped.own_folders.append(Path(top))
        else:
            yield from _expand_below(Path(top), rest, skipped)


def _expand_below(top: Path, rest: str, skipped: SkippedFiles) -> Iterator[str]:
    """Yield the matches of the rest of a pattern in a folder and all folders below."""
    for folder, subfolders, files in walk_folders(top, None, skipped.loops):
        path = Path(folder)
        remove_own_and_hidden(path, subfolders, skipped)
        if has_record(path) and not has_images(path):
            skipped.own_folders.append(path)
            subfolders.clear()
        elif rest:
            yield from _expand(str(Path(glob.escape(folder), rest)), skipped)
        else:
            yield from (str(path / name) for name in files if not name.startswith("."))
