"""Keep one label per file: refuse contradictory rows of a table, and count rows that repeat another."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from xplain.core.errors import InputError, emit_note

L = TypeVar("L", bound=Hashable)


@dataclass(frozen=True)
class _First(Generic[L]):
    """The first row of a file. text: the label as it is written."""

    line: int
    label: L | None
    text: str


class UniqueLabels(Generic[L]):
    """The label of each file of a table. source: the table, for messages."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._rows: dict[Hashable, _First[L]] = {}
        self._repeated: set[int] = set()

    def add(self, file: Hashable, name: str, line: int, label: L | None, text: str) -> bool:
        """Add a row, and return whether it is the first of its file. A label wins over None.

        file: identifies the file, whatever path the row spells it with. name: the file in messages.
        Raises InputError if another row gives the file another label.
        """
        first = self._rows.get(file)
        if first is None:
            self._rows[file] = _First(line, label, text)
            return True
        if label is not None and first.label is not None and label != first.label:
            raise InputError(
                f"lines {first.line} and {line} of {self._source!r} contradict each other: {name!r} is {first.text!r} and {text!r}",
                "remove the wrong line",
            )
        if line != first.line:
            self._repeated.add(line)
        if first.label is None:
            self._rows[file] = _First(first.line, label, text)
        return False

    def get(self, file: Hashable) -> L | None:
        """Return the label of a file, or None if it has none."""
        row = self._rows.get(file)
        return None if row is None else row.label

    def note_repeated(self) -> None:
        """Emit a note if rows repeat another."""
        if self._repeated:
            count, line = len(self._repeated), min(self._repeated)
            verb = "line repeats an earlier line and counts" if count == 1 else "lines repeat earlier lines and count"
            emit_note(f"{count} {verb} once in {self._source!r}, such as line {line}")
