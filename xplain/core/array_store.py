"""Arrays that a run keeps when asked, raw attributions and whole curves: NPZ files under names that any item can have."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xplain.core.files import write_file

Floats = NDArray[np.floating[Any]]
LONGEST = 60  # letters of a key, and of a label, in a file's name
# of reading a file; damaged lengths ask for more memory than there is
DAMAGED = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class ArrayStore:
    """A folder of NPZ files, one for each item and mark. folder None: nothing is kept, and nothing lacks."""

    folder: Path | None
    array: str  # what the files call their array

    def path(self, key: str, label: str, mark: str) -> Path:
        """``<key>.<label>.<digest>.npz``: the plain letters of the key and label, to be read; the digest tells apart.

        A mark is a digest of what determines the numbers, so that other settings have other files.
        """
        assert self.folder is not None
        digest = hashlib.sha256(f"{key}\0{mark}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return self.folder / f"{_plain(key)}.{_plain(label)}.{digest}.npz"

    def is_missing(self, key: str, label: str, mark: str) -> bool:
        """Whether a file is to be written."""
        return self.folder is not None and not self.path(key, label, mark).exists()

    def save(self, key: str, label: str, mark: str, array: Floats, record: Mapping[str, Any]) -> None:
        """Write an array as float32, and the record, by rename. Raises InputError when the place cannot be written."""
        if self.folder is not None:
            write_file(self.path(key, label, mark), encode_arrays({self.array: array}, record))

    def load(self, key: str, label: str, mark: str) -> tuple[Floats, dict[str, Any]] | None:
        """An array and its record; None where there is none, or the file is damaged."""
        if self.folder is None:
            return None
        try:
            with np.load(self.path(key, label, mark), allow_pickle=False) as content:
                array, record = content[self.array], json.loads(str(content["record"]))
        except DAMAGED:
            return None
        return (array, record) if isinstance(record, dict) else None


def _plain(text: str) -> str:
    """The ASCII letters, digits and ``_ = , -`` of a text, cut at LONGEST; runs of others become one hyphen."""
    return re.sub(r"[^A-Za-z0-9_=,]+", "-", text).strip("-")[:LONGEST] or "item"


def encode_arrays(arrays: Mapping[str, Floats], record: Mapping[str, Any]) -> bytes:
    """NPZ bytes: arrays as float32, and the record as JSON text."""
    stream = io.BytesIO()
    content = {name: array.astype(np.float32) for name, array in arrays.items()}
    np.savez_compressed(stream, allow_pickle=False, **content, record=np.array(json.dumps(record)))
    return stream.getvalue()
