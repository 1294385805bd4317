"""Write folders of files."""

from __future__ import annotations

from pathlib import Path


def make_files(folder: Path, *names: str) -> Path:
    """Write small files that are no images under these names, and return the folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder
