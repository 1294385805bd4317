"""Find the files of a data set by the names that tables use for them."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from pathlib import Path


def normalize_name(name: str) -> str:
    """Return a relative or absolute path in its shortest spelling: ``./a//b.jpg`` is ``a/b.jpg``."""
    return posixpath.normpath(name) if name else name


class FileIndex:
    """The files of a data set, found by key, absolute path, or the end of the path, with or without suffix.

    folder: the folder at which relative keys start. keys: the paths of the files.
    """

    def __init__(self, folder: Path, keys: Sequence[str]) -> None:
        self.keys = keys
        # realpath: tables may use another path of a linked folder
        self._roots = sorted({Path(os.path.abspath(folder)).as_posix(), Path(os.path.realpath(folder)).as_posix()})  # noqa: PTH100
        self._names = [normalize_name(key) for key in keys]
        self._by_key: dict[str, list[int]] = {}
        self._by_stem: dict[str, list[int]] = {}
        self._by_name: dict[str, list[int]] = {}
        for i, name in enumerate(self._names):
            self._by_key.setdefault(name, []).append(i)
            self._by_stem.setdefault(_without_suffix(name), []).append(i)
            last = posixpath.basename(name)
            for spelling in {last, _without_suffix(last)}:
                self._by_name.setdefault(spelling, []).append(i)

    def find(self, name: str, table_folder: Path | None = None) -> list[int]:
        """Return the positions of the files with a name.

        An exact key wins over the end of a path, and a name with suffix over one without.
        table_folder: the folder that paths with ``..`` start at. Backslashes separate folders if no name holds them.
        """
        matches = self._find(normalize_name(name), table_folder)
        if not matches and "\\" in name:
            return self._find(normalize_name(name.replace("\\", "/")), table_folder)
        return matches

    def _find(self, name: str, table_folder: Path | None) -> list[int]:
        if table_folder is not None and name.startswith("../"):
            name = normalize_name(f"{Path(os.path.abspath(table_folder)).as_posix()}/{name}")  # noqa: PTH100
        exact = self._by_key.get(name) or self._by_stem.get(name)
        if exact:
            return exact
        candidates = self._by_name.get(posixpath.basename(name), [])
        matches = [i for i in candidates if self._has_path(i, name, with_suffix=True)]
        return matches or [i for i in candidates if self._has_path(i, name, with_suffix=False)]

    def _has_path(self, i: int, name: str, *, with_suffix: bool) -> bool:
        """Return whether the path of a file is ``name`` or ends with it."""
        for root in self._roots:
            path = normalize_name(posixpath.join(root, self._names[i]))
            path = path if with_suffix else _without_suffix(path)
            if path == name or (not name.startswith("/") and path.endswith(f"/{name}")):
                return True
        return False


def _without_suffix(path: str) -> str:
    return posixpath.splitext(path)[0]
