"""A run directory: what was asked, what was found for each item, and going on after an interruption.

``run.json`` is written first and holds the fingerprint. ``items/<rank>.jsonl`` is appended to. Whatever is
computed from the items is written last, by rename. One process at a time writes a rank's file: it holds a lock that ends with it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from sys import intern
from typing import Any

from xplain.core.errors import InputError, UsageError
from xplain.core.files import cannot_write, lock_directory, lock_file, to_json, write_json

SCHEMA = 1
Known = defaultdict[str, set[str]]  # keys by mark: with strings shared, 50 bytes a record
NONE = type(None)
METHOD: dict[str, Any] = {"method": str, "params": dict, "score": str, "method_version": int}
METRIC: dict[str, Any] = {"metric": str, "params": dict, "version": int, "better": str, "unit": str}
RUN: dict[str, Any] = {  # what ``run.json`` must hold to be summarised or compared
    "schema": int,
    "fingerprint": {"model": (dict, NONE), "target": str},
    "dataset": {"location": str, "items": int},
    "methods": dict,
    "metrics": dict,
}


@dataclass(eq=False)
class RunStore:
    """The records of one run. Open with ``RunStore.open``, append with ``append``, use as a context.

    A record is a dict with at least ``key``, the item, and ``mark``, what is known of it; the two together are unique.
    Only these two are kept in memory, and whether a record has a ``curve``.
    """

    folder: Path
    rank: int
    _stream: FileIO
    _known: Known = field(default_factory=lambda: defaultdict(set))
    _flat: Known = field(default_factory=lambda: defaultdict(set))

    @classmethod
    def open(cls, folder: Path, rank: int, description: dict[str, Any]) -> RunStore:
        """Make or continue the run in ``folder``.

        description: what the run is; its ``fingerprint`` (a dict of what changes numbers) must be that of the run that is there.
        Raises UsageError naming the first difference, and InputError when the folder cannot be written, is no run, or another
        process is writing this rank's items.
        """
        items = folder / "items"
        try:
            with ExitStack() as undo:
                with lock_directory(items, wait=True):  # processes that start at once come here one after the other
                    _describe(folder, description, write=False)
                    stream = undo.enter_context(FileIO(items / f"{rank}.jsonl", "a"))
                    if not lock_file(stream.fileno(), wait=False):
                        raise InputError(
                            f"another process is writing {str(items / f'{rank}.jsonl')!r}",
                            "wait for it, or give another --shard or --output",
                        )
                    _describe(folder, description, write=True)
                store = cls(folder, rank, stream)
                whole = 0
                for path in _item_files(folder):
                    for batch, end in _batches(path):
                        for record in batch:
                            store._note(record)
                        whole = end if path.name == f"{rank}.jsonl" else whole
                stream.truncate(whole)  # what an interruption tore
                undo.pop_all()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"cannot use the run directory {str(folder)!r}: {error}", "choose another --output"
            ) from None
        return store

    def append(self, records: Sequence[dict[str, Any]]) -> None:
        """Append records that belong together: an interruption keeps all of them or none.

        The operating system has them when this returns. Raises InputError when there is no space, or the file was taken away.
        """
        marked = [*({**record, "more": True} for record in records[:-1]), *records[-1:]]
        left = memoryview("".join(to_json(record) + "\n" for record in marked).encode())
        path = Path(os.fsdecode(self._stream.name))
        try:
            if not os.path.samestat(os.fstat(self._stream.fileno()), path.stat()):
                raise FileNotFoundError
            while left:
                left = left[self._stream.write(left) or 0 :]
        except FileNotFoundError:
            raise InputError(
                f"{str(path)!r} was taken away while it was written", "run the same command again"
            ) from None
        except OSError as error:
            raise cannot_write(path, error) from None
        for record in records:
            self._note(record)

    def has(self, key: str, mark: str) -> bool:
        """Whether there is a record of this item and kind, from any rank."""
        return key in self._known[mark]

    def has_curve(self, key: str, mark: str) -> bool:
        """Whether there is such a record, and it has a curve."""
        return self.has(key, mark) and key not in self._flat[mark]

    def _note(self, record: dict[str, Any]) -> None:
        key, mark = intern(record["key"]), intern(record["mark"])
        self._known[mark].add(key)
        if record.get("curve") is None:
            self._flat[mark].add(key)

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def read_run(folder: Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """The description of a run directory and its records, one after the other. Raises InputError when it is none."""
    try:
        return _read_description(folder), read_records(folder)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{str(folder)!r} is no run directory: {error}", "give one that evaluate wrote") from None


def read_records(folder: Path) -> Iterator[dict[str, Any]]:
    """All whole records of all ranks, each (key, mark) once. Raises InputError when a line is none."""
    known: Known = defaultdict(set)
    for path in _item_files(folder):
        for batch, _ in _batches(path):
            for record in batch:
                if record["key"] not in known[record["mark"]]:
                    known[record["mark"]].add(record["key"])
                    yield record


def _item_files(folder: Path) -> list[Path]:
    return sorted(folder.joinpath("items").glob("*.jsonl"))


def _batches(path: Path) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Records that were written together, and the byte at which they end; without what was torn or is being written."""
    batch: list[dict[str, Any]] = []
    end = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                record = json.loads(line)
                batch.append(record)
                whole = not record.pop("more", False)
                record["key"], record["mark"] = intern(record["key"]), intern(record["mark"])
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise InputError(f"line {number} of {str(path)!r} is damaged: {error}", "delete the line") from None
            if whole:
                yield batch, end
                batch = []


def _read_description(folder: Path) -> dict[str, Any]:
    """What ``run.json`` holds. Raises OSError or ValueError when it is not there, or no description of a run."""
    there = json.loads((folder / "run.json").read_text("utf-8"))
    if not isinstance(there, dict) or not all(
        isinstance(there.get(table), dict) for table in ("fingerprint", "methods", "metrics")
    ):
        raise ValueError("run.json describes no run")
    return there


def _describe(folder: Path, description: dict[str, Any], *, write: bool) -> None:
    """Compare with ``run.json`` where it is there; then write it, with the methods and metrics that were asked for before."""
    path = folder / "run.json"
    if path.exists():
        there = _read_description(folder)
        _compare(there, description, folder)
        description = description | {table: there[table] | description[table] for table in ("methods", "metrics")}
    if write:
        write_json(path, description)


def _compare(there: dict[str, Any], asked: dict[str, Any], folder: Path) -> None:
    """Refuse another fingerprint, naming the first difference."""
    old, new = there["fingerprint"], json.loads(json.dumps(asked["fingerprint"]))
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key) and not (key in old and old[key] is None):  # None: not decided yet
            raise UsageError(
                f"{str(folder)!r} holds another run: its {key} is {old.get(key)!r}, not {new.get(key)!r}",
                "give another --output, or the same settings",
            )


def fingerprint(*parts: Any) -> str:
    """A hexadecimal digest of what determines numbers and pictures."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def settings_digest(method: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    """A digest of what determines the numbers of a method by a metric, from their descriptions in ``run.json``."""
    named = ("files",) if "files" in metric else ()  # the hashes of files that parameters name
    keys = ("method", "params", "score", "method_version"), ("metric", "params", "version", "better", "unit", *named)
    return fingerprint(*({key: each[key] for key in some} for each, some in zip((method, metric), keys, strict=True)))[
        :16
    ]


def check_run(description: Mapping[str, Any], folder: str) -> None:
    """Raise InputError unless the description of a run has what evaluate writes into it."""
    tables: list[tuple[dict[str, Any], Any, str]] = [(RUN, description, "run.json")]
    for shape, kind in ((METHOD, "methods"), (METRIC, "metrics")):
        tables += [(shape, each, label) for label, each in description[kind].items()]
    if model := description["fingerprint"].get("model"):
        tables.append(({"name": str}, model, "model"))
    if accuracy := description.get("accuracy"):
        tables.append(({"top1": (int, float, NONE), "source": str}, accuracy, "accuracy"))
    wrong = [name for shape, table, name in tables if not _fits(table, shape)]
    if not isinstance(description.get("classes"), int | NONE):
        wrong.append("classes")
    if not description["methods"]:
        wrong.append("methods")
    if wrong:
        raise InputError(f"run.json in {folder!r} is damaged: see {wrong[0]!r}", "evaluate into another --output")


def _fits(value: object, shape: Any) -> bool:
    """Whether a value is of a type, or a table that has the keys of a shape with values that fit."""
    if not isinstance(shape, dict):
        return isinstance(value, shape)
    return isinstance(value, dict) and all(key in value and _fits(value[key], each) for key, each in shape.items())
