"""Store arrays as NPZ files, one per item, label and settings digest."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xplain.core.files import DAMAGED, write_file

Floats = NDArray[np.floating[Any]]
MAX_NAME_PART = 60  # characters of a key or label in a file name


@dataclass(frozen=True)
class ArrayStore:
    """A folder of NPZ files. Without a folder the store saves nothing and reports nothing as missing.

    folder: where the files are, or None. array: name of the array inside each file.
    Arrays are stored by key (of the item), label (of the method or metric) and mark (the settings digest).
    """

    folder: Path | None
    array: str

    def path(self, key: str, label: str, mark: str) -> Path:
        """Return ``<key>.<label>.<digest>.npz``: plain characters of key and label, and a digest of key and mark."""
        assert self.folder is not None
        digest = hashlib.sha256(f"{key}\0{mark}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return self.folder / f"{_to_name_part(key)}.{_to_name_part(label)}.{digest}.npz"

    @staticmethod
    def name_label(label: str) -> str:
        """Return the label as file names contain it."""
        return _to_name_part(label)

    def labels(self) -> list[str]:
        """Return the labels of the saved arrays, as the file names contain them."""
        if self.folder is None:
            return []
        return [path.name.split(".")[-3] for path in self.folder.glob("*.*.*.npz")]

    def is_missing(self, key: str, label: str, mark: str) -> bool:
        """Return whether the array must still be saved."""
        return self.folder is not None and not self.path(key, label, mark).exists()

    def save(self, key: str, label: str, mark: str, array: Floats, record: Mapping[str, Any]) -> None:
        """Atomically write an array as float32 together with its record. Raise InputError if the file cannot be written."""
        if self.folder is not None:
            write_file(self.path(key, label, mark), encode_arrays({self.array: array}, record))

    def load(self, key: str, label: str, mark: str) -> tuple[Floats, dict[str, Any]] | None:
        """Return an array and its record, or None if the file is missing or corrupted."""
        if self.folder is None:
            return None
        try:
            with np.load(self.path(key, label, mark), allow_pickle=False) as content:
                array = content[self.array]
                record = json.loads(str(content["record"]))
        except DAMAGED:
            return None
        return (array, record) if isinstance(record, dict) else None


def _to_name_part(text: str) -> str:
    """Return a text as part of a file name.

    ASCII letters, digits, ``_``, ``=`` and ``,`` are kept, every other run of characters becomes a hyphen, and the result is truncated.
    """
    return re.sub(r"[^A-Za-z0-9_=,]+", "-", text).strip("-")[:MAX_NAME_PART] or "item"


def encode_arrays(arrays: Mapping[str, Floats], record: Mapping[str, Any]) -> bytes:
    """Return the bytes of an NPZ file that holds arrays as float32 and the record as JSON text."""
    stream = io.BytesIO()
    content = {name: array.astype(np.float32) for name, array in arrays.items()}
    np.savez_compressed(stream, allow_pickle=False, **content, record=np.array(json.dumps(record)))
    return stream.getvalue()
