"""List the class folders of a data set, including empty ones."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from xplain.core.errors import emit_note
from xplain.data.folders import is_output_folder


def list_class_folders(path: Path) -> list[str]:
    """Return the sorted names of the folders in a dataset, without hidden folders and output of xplain."""
    try:
        folders = [child for child in path.iterdir() if child.name[0] != "." and child.is_dir()]
        return sorted(folder.name for folder in folders if not is_output_folder(folder))
    except OSError:
        return []


def note_empty_folders(folders: Collection[str]) -> None:
    """Emit a note that these folders without images count as classes. Emits nothing if there is none."""
    if folders:
        verb = (
            "folder without images counts as a class"
            if len(folders) == 1
            else "folders without images count as classes"
        )
        emit_note(f"{len(folders)} {verb}, such as {min(folders)!r}")


def note_untrained_folders(folders: Collection[str]) -> None:
    """Emit a note that these folders without images are not classes of the network to train. Emits nothing if there is none."""
    if folders:
        emit_note(f"class folders without images are not trained: {len(folders)}, such as {min(folders)!r}")
