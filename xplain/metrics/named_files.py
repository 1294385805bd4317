"""Files that a metric's parameters name: there when the request is read, and part of what determines its numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xplain.core.parameters import EXISTING_PATH
from xplain.core.registry import Spec


def digests(spec: Spec, settings: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of what each parameter's file holds; of a folder, of its files' names and bytes in order."""
    named = {name: settings[name] for name, each in spec.parameters.items() if each.bounds is EXISTING_PATH}
    return {name: _digest(Path(path)) for name, path in named.items() if path is not None}


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if each.is_file():
            found.update(b"" if each == path else each.relative_to(path).as_posix().encode() + b"\0")
            found.update(each.read_bytes())
    return found.hexdigest()
