"""Refuse a run directory among the images that are evaluated."""

from __future__ import annotations

from pathlib import Path

from xplain.core.errors import UsageError
from xplain.data.folders import has_images


def check_run_directory(location: str, output: Path) -> None:
    """Raise UsageError if a run directory is the folder of the data set, or one of its folders of images.

    Also if its folder ``gallery``, which evaluate replaces, holds images of the user.
    """
    hint = "choose another --output"
    data, run = Path(location).resolve(), output.resolve()
    if data.is_dir() and run == data:
        raise UsageError(f"the output {str(output)!r} is the folder of the data set", hint)
    if data.is_dir() and data in run.parents and _has_images(run):
        raise UsageError(f"the output {str(output)!r} is a folder of images of the data set", hint)
    if _has_images(run / "gallery"):
        raise UsageError(f"evaluate would replace the images in {str(output / 'gallery')!r}", hint)


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and has_images(folder)
