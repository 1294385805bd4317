"""A run directory: what was asked, what was found for each item, and going on after an interruption.

``run.json`` is written first and holds the fingerprint. ``items/<rank>.jsonl`` is appended to and flushed item by item. Whatever is
computed from the items is written last, by rename.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from xplain.errors import InputError, UsageError
from xplain.files import write_json

SCHEMA = 1


@dataclass(eq=False)
class Store:
    """The records of one run. Open with ``Store.open``, append with ``add``, use as a context.

    A record is a dict with at least ``key``, the item, and ``mark``, what is known of it; the two together are unique.
    """

    folder: Path
    rank: int
    records: list[dict[str, Any]] = field(default_factory=list)
    _known: set[tuple[str, str]] = field(default_factory=set)
    _stream: IO[str] | None = None

    @classmethod
    def open(cls, folder: Path, rank: int, description: dict[str, Any]) -> Store:
        """Make or continue the run in ``folder``.

        description: what the run is; its ``fingerprint`` (a dict of what changes numbers) must be that of the run that is there.
        Raises UsageError naming the first difference, and InputError when the folder cannot be written or is no run.
        """
        path = folder / "run.json"
        try:
            folder.joinpath("items").mkdir(parents=True, exist_ok=True)
            if path.exists():
                there = json.loads(path.read_text("utf-8"))
                _compare(there, description, folder)
                for table in ("methods", "metrics"):  # more may be asked of a run later
                    description = description | {table: there[table] | description[table]}
            write_json(path, description)
            store = cls(folder, rank)
            store.records = read_records(folder)
            store._known = {(record["key"], record["mark"]) for record in store.records}
            mine = store._path
            whole = _whole_bytes(mine)
            store._stream = mine.open("a", encoding="utf-8")
            store._stream.truncate(whole)  # a line that an interruption tore
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise InputError(
                f"cannot use the run directory {str(folder)!r}: {error}", "choose another --output"
            ) from None
        return store

    @property
    def _path(self) -> Path:
        return self.folder / "items" / f"{self.rank}.jsonl"

    def add(self, record: dict[str, Any]) -> None:
        """Append a record; it is on its way to the disk when this returns."""
        assert self._stream is not None
        self._stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._stream.flush()
        self.records.append(record)
        self._known.add((record["key"], record["mark"]))

    def has(self, key: str, mark: str) -> bool:
        """Whether there is a record of this item and kind, from any rank."""
        return (key, mark) in self._known

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """No more records."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def read_run(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The description and the records of a run directory. Raises InputError when it is none."""
    try:
        return json.loads((folder / "run.json").read_text("utf-8")), read_records(folder)
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{str(folder)!r} is no run directory: {error}", "give one that evaluate wrote") from None


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All whole records of all ranks; each (key, mark) once."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(folder.joinpath("items").glob("*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            record = json.loads(line)
            found.setdefault((record["key"], record["mark"]), record)
    return list(found.values())


def _whole_bytes(path: Path) -> int:
    """The length of ``path`` up to its last line end."""
    content = path.read_bytes() if path.exists() else b""
    return content.rfind(b"\n") + 1


def _compare(there: dict[str, Any], asked: dict[str, Any], folder: Path) -> None:
    """Refuse another fingerprint, naming the first difference."""
    old, new = there["fingerprint"], json.loads(json.dumps(asked["fingerprint"]))
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            raise UsageError(
                f"{str(folder)!r} holds another run: its {key} is {old.get(key)!r}, not {new.get(key)!r}",
                "give another --output, or the same settings",
            )
