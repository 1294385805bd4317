"""Store the records of a run directory as append-only JSON lines, and resume after an interruption.

``run.json`` describes the run and holds its fingerprint; it is written first. Each rank appends its records to
``items/<rank>.jsonl``, which one process at a time locks and writes. Files that are computed from the records are written last.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from xplain.core.errors import InputError, UsageError
from xplain.core.files import FileState, lock_directory, lock_file, to_json, write_error, write_json
from xplain.core.types import PYTORCH

SCHEMA = 1
KeysByMark = defaultdict[str, set[str]]  # with interned strings, 50 bytes per record
Record = dict[str, Any]
NONE = type(None)
LATE_ENTRIES = ("class_names", "per_class")  # of the fingerprint; None or missing, as in earlier versions, is unknown
METHOD_SCHEMA: Record = {"method": str, "params": dict, "score": str, "method_version": int}
METRIC_SCHEMA: Record = {"metric": str, "params": dict, "version": int, "better": str, "unit": str}
RUN_SCHEMA: Record = {  # what ``run.json`` must hold for a summary or a comparison
    "schema": int,
    "fingerprint": {"model": (dict, NONE), "target": str},
    "dataset": {"location": str, "items": int},
    "methods": dict,
    "metrics": dict,
}


class DifferentRunError(UsageError):
    """A run directory holds a run with other settings."""


class StoredItem(NamedTuple):
    """What a run has stored of an image: the SHA-256 of its bytes, its label, and all labels if it can have several."""

    sha256: str
    label: int | None
    labels: tuple[int, ...] | None = None


@dataclass(eq=False)
class RunStore:
    """The records of one run. Open it with ``RunStore.open``, use it as a context manager, and write with ``append``.

    A record is a dictionary with at least ``key`` (the item) and ``mark`` (the settings digest, or a kind such as "item"),
    which are unique together, except for the mark "file". Memory holds only these two, and whether a record has a ``curve``.
    Records with the mark "item" or "file" have a ``sha256`` and, under ``file``, a state of the file in which it had this hash.
    items: the records with the mark "item", by key.
    """

    folder: Path
    rank: int
    _stream: FileIO
    _known: KeysByMark = field(default_factory=lambda: defaultdict(set))
    _without_curve: KeysByMark = field(default_factory=lambda: defaultdict(set))
    items: dict[str, StoredItem] = field(default_factory=dict)
    _hashed: defaultdict[str, set[tuple[str, FileState]]] = field(default_factory=lambda: defaultdict(set))

    @classmethod
    def open(
        cls, folder: Path, rank: int, description: Record, check: Callable[[RunStore], None] | None = None
    ) -> RunStore:
        """Create or resume the run in ``folder``.

        rank: number of this process; it writes ``items/<rank>.jsonl``.
        description: content of ``run.json``. Its ``fingerprint``, a dictionary of all settings that change numbers, must equal
        the fingerprint of an existing run.
        check: called with the records of an existing run before its description is extended; raises to refuse.
        Raises DifferentRunError that names the first difference of the fingerprints, and InputError if the folder cannot be written,
        is not a run directory, or another process is writing the items of this rank.
        """
        try:
            with ExitStack() as resources:
                stream = resources.enter_context(_open_items(folder, rank, description, extend=check is None))
                store = cls(folder, rank, stream)
                complete = 0  # bytes of this rank's file
                for path in _item_files(folder):
                    for batch, end in _read_batches(path):
                        store._remember(batch)
                        if path.name == f"{rank}.jsonl":
                            complete = end
                stream.truncate(complete)  # drop a batch that an interruption left incomplete
                resources.pop_all()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unusable_folder(folder, error) from None
        if check is not None:
            store._check_and_extend(check, description)
        return store

    def _check_and_extend(self, check: Callable[[RunStore], None], description: Record) -> None:
        """Extend the description of the run if the check passes; close the store if it raises."""
        with ExitStack() as resources:
            resources.callback(self._stream.close)
            check(self)
            with lock_directory(self.folder / "items", wait=True):
                _write_description(self.folder, description)
            resources.pop_all()

    def append(self, records: Sequence[Record]) -> None:
        """Append records as one batch: after an interruption, all of them are kept or none.

        The operating system has the batch when this returns.
        Raises InputError if the disk is full or the file was deleted or replaced.
        """
        batch = [*({**record, "more": True} for record in records[:-1]), *records[-1:]]
        content = memoryview("".join(to_json(record) + "\n" for record in batch).encode())
        path = Path(os.fsdecode(self._stream.name))
        try:
            if not os.path.samestat(os.fstat(self._stream.fileno()), path.stat()):
                raise FileNotFoundError
            while content:
                written = self._stream.write(content) or 0
                content = content[written:]
        except FileNotFoundError:
            raise InputError(
                f"{str(path)!r} was deleted or replaced during the run", "run the same command again"
            ) from None
        except OSError as error:
            raise write_error(path, error) from None
        self._remember(records)

    def has(self, key: str, mark: str) -> bool:
        """Return whether any rank has a record of this key and mark."""
        return key in self._known[mark]

    def has_curve(self, key: str, mark: str) -> bool:
        """Return whether any rank has a record of this key and mark that holds a curve."""
        return self.has(key, mark) and key not in self._without_curve[mark]

    def is_unchanged(self, key: str, state: FileState) -> bool:
        """Return whether the file of an item had its stored hash when it was in this state."""
        return key in self.items and (self.items[key].sha256, state) in self._hashed[key]

    def _remember(self, records: Sequence[Record]) -> None:
        for record in records:
            key, mark = intern(record["key"]), intern(record["mark"])
            self._known[mark].add(key)
            if record.get("curve") is None:
                self._without_curve[mark].add(key)
            if mark == "item":
                labels = record.get("labels")
                stored = StoredItem(
                    str(record.get("sha256")), record.get("label"), None if labels is None else tuple(labels)
                )
                self.items.setdefault(key, stored)
            if mark in ("item", "file") and record.get("file"):
                size, modified, changed = record["file"]
                self._hashed[key].add((record["sha256"], (size, modified, changed)))

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _open_items(folder: Path, rank: int, description: Record, *, extend: bool) -> FileIO:
    """Open and lock the rank's item file, and write ``run.json`` if it is missing or to be extended. Raises as ``RunStore.open``."""
    path = folder / "items" / f"{rank}.jsonl"
    with lock_directory(path.parent, wait=True), ExitStack() as resources:  # ranks that start together take turns
        is_new = _check_description(folder, description) is None
        stream = resources.enter_context(FileIO(path, "a"))
        if not lock_file(stream.fileno(), wait=False):
            raise InputError(
                f"another process is writing to {str(path)!r}",
                "wait for it to finish or use another --shard or --output",
            )
        if is_new or extend:
            _write_description(folder, description)
        resources.pop_all()
    return stream


def _unusable_folder(folder: Path, error: Exception) -> InputError:
    return InputError(f"cannot use the run directory {str(folder)!r}: {error}", "choose another --output")


def read_fingerprint(folder: Path) -> Record | None:
    """Return the fingerprint of the run in ``folder``, or None if there is no run. Raise InputError if it cannot be read."""
    if not (folder / "run.json").exists():
        return None
    try:
        fingerprint: Record = _read_description(folder)["fingerprint"]
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable_folder(folder, error) from None
    return fingerprint


def read_run(folder: Path) -> tuple[Record, Iterator[Record]]:
    """Return the description of a run and an iterator over its records. Raise InputError if ``folder`` is not a run directory."""
    try:
        return _read_description(folder), read_records(folder)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{str(folder)!r} is not a run directory: {error}", 'pass an output directory of "xplain evaluate"'
        ) from None


def read_records(folder: Path) -> Iterator[Record]:
    """Yield the complete records of all ranks, one per pair of key and settings digest. Raise InputError if a line is invalid."""
    known: KeysByMark = defaultdict(set)
    for path in _item_files(folder):
        for batch, _ in _read_batches(path):
            for record in batch:
                if record["key"] not in known[record["mark"]]:
                    known[record["mark"]].add(record["key"])
                    yield record


def _item_files(folder: Path) -> list[Path]:
    return sorted(folder.joinpath("items").glob("*.jsonl"))


def _read_batches(path: Path) -> Iterator[tuple[list[Record], int]]:
    """Yield complete batches of records, each with the byte at which it ends. Skips an incomplete batch at the end."""
    batch: list[Record] = []
    end = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                record = json.loads(line)
                is_last = not record.pop("more", False)
                record["key"], record["mark"] = intern(record["key"]), intern(record["mark"])
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise InputError(
                    f"line {number} of {str(path)!r} is not a valid record: {error}",
                    "remove the line and run evaluate again",
                ) from None
            batch.append(record)
            if is_last:
                yield batch, end
                batch = []


def _read_description(folder: Path) -> Record:
    """Read ``run.json``. Raises OSError or ValueError if it is missing or does not describe a run."""
    content = json.loads((folder / "run.json").read_text("utf-8"))
    if not isinstance(content, dict) or not all(
        isinstance(content.get(table), dict) for table in ("fingerprint", "methods", "metrics")
    ):
        raise ValueError("run.json has no run description")
    return content


def _check_description(folder: Path, description: Record) -> Record | None:
    """Return the description of an existing run, or None. Raises UsageError if its fingerprint or its baselines differ."""
    if not (folder / "run.json").exists():
        return None
    existing = _read_description(folder)
    defaults = {"device": "cpu", "engine": PYTORCH}  # which fingerprints do not name
    old = defaults | existing["fingerprint"]
    new = defaults | json.loads(json.dumps(description["fingerprint"]))  # as JSON returns it: lists instead of tuples
    for key in sorted({*old, *new}):
        if _without_notes(old.get(key)) != _without_notes(new.get(key)) and not _is_undecided(key, old, new):
            raise DifferentRunError(
                f"{str(folder)!r} contains a run with a different {key}: {old.get(key)!r} instead of {new.get(key)!r}",
                "use the same settings or another --output",
            )
    _check_references(folder, existing["methods"], description["methods"])
    return existing


def _without_notes(entry: Any) -> Any:
    """Return an entry of a fingerprint without the notes of a model, whose wording may change."""
    return {key: value for key, value in entry.items() if key != "notes"} if isinstance(entry, dict) else entry


def _is_undecided(key: str, old: Record, new: Record) -> bool:
    """Return whether an entry is still open, such as the model of a run with dataset metrics only, or unknown."""
    if key in LATE_ENTRIES:
        return old.get(key) is None or new.get(key) is None
    if key == "output":  # missing for a softmax over the outputs, as in earlier versions
        return old.get("model") is None
    return key in old and old[key] is None


def _check_references(folder: Path, old: Record, new: Record) -> None:
    """Raise UsageError if the images that a method uses as baselines have changed; earlier versions stored no hash of them."""
    for label in [label for label in new if label in old]:
        hashes = [method.get("references") for method in (old[label], new[label]) if isinstance(method, dict)]
        if None not in hashes and len(set(hashes)) > 1:
            raise UsageError(
                f"{str(folder)!r} holds a run with other baseline images of {label}",
                "restore the images or choose another --output",
            )


def _write_description(folder: Path, description: Record) -> None:
    """Write ``run.json``, with the methods and metrics of an existing run before the new ones."""
    existing = _check_description(folder, description)
    if existing is not None:
        merged = {table: existing[table] | description[table] for table in ("methods", "metrics")}
        known = {
            key: value for key, value in existing["fingerprint"].items() if key in LATE_ENTRIES and value is not None
        }
        description = description | merged | {"fingerprint": description["fingerprint"] | known}
    write_json(folder / "run.json", description)


def fingerprint(*parts: Any) -> str:
    """Return a digest of settings: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def settings_digest(method: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    """Return a digest of everything that determines a method's scores by a metric, from their descriptions in ``run.json``."""
    method_keys = ["method", "params", "score", "method_version"]
    metric_keys = ["metric", "params", "version", "better", "unit"]
    if "files" in metric:  # hashes of the files that parameters name
        metric_keys.append("files")
    return fingerprint({key: method[key] for key in method_keys}, {key: metric[key] for key in metric_keys})[:16]


def map_digest(method: Mapping[str, Any]) -> str:
    """Return a digest of everything that determines a method's maps, from its description in ``run.json`` or by ``MethodRun``."""
    keys = ("method", "params", "score", "method_version", "inner")
    return fingerprint({key: method[key] for key in keys if key in method})[:16]


def check_run(description: Mapping[str, Any], folder: str) -> None:
    """Validate the description of a run. Raise InputError if a field is missing or invalid."""
    tables: list[tuple[Record, Any, str]] = [(RUN_SCHEMA, description, "run.json")]
    tables += [(METHOD_SCHEMA, table, label) for label, table in description["methods"].items()]
    tables += [(METRIC_SCHEMA, table, label) for label, table in description["metrics"].items()]
    if model := description["fingerprint"].get("model"):
        tables.append(({"name": str}, model, "model"))
    if accuracy := description.get("accuracy"):
        tables.append(({"top1": (int, float, NONE), "source": str}, accuracy, "accuracy"))
    wrong = [name for schema, table, name in tables if not _matches(table, schema)]
    if not isinstance(description.get("classes"), int | NONE):
        wrong.append("classes")
    if not description["methods"]:
        wrong.append("methods")
    if wrong:
        raise InputError(
            f"run.json in {folder!r} has an invalid entry {wrong[0]!r}", "use another --output and run evaluate again"
        )


def _matches(value: object, schema: Any) -> bool:
    """Return whether a value has a type, or is a dictionary that has a schema's keys with matching values."""
    if not isinstance(schema, dict):
        return isinstance(value, schema)
    return isinstance(value, dict) and all(key in value and _matches(value[key], schema[key]) for key in schema)
