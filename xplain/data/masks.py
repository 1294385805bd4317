"""Find the masks of images, and map them to the model input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from xplain.core.errors import InputError, emit_note
from xplain.data.class_names import ClassNames
from xplain.data.coco_masks import read_coco
from xplain.data.file_index import FileIndex
from xplain.data.folders import walk_files
from xplain.data.mask_categories import CategoryClasses, read_category_table
from xplain.data.mask_folders import read_mask_folder
from xplain.data.mask_geometry import place_mask
from xplain.data.mask_regions import ImageFacts, MaskEntry, MaskTable
from xplain.data.preprocessing import Preprocessing
from xplain.data.xml_masks import read_xml_masks

Difficult = Literal["keep", "ignore"]
FORMS = "pass a folder of PNG or Pascal VOC XML, or a COCO JSON file"
ANY_OBJECT = "the masks name no categories, so that any object counts for every target"


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of the images of a data set. entries: by key of the image. classes: which classes their categories stand for."""

    entries: Mapping[str, MaskEntry] = field(repr=False)
    classes: CategoryClasses
    has_categories: bool

    def locate(self, images: Sequence[ImageFacts], targets: Sequence[int], preprocessing: Preprocessing) -> Tensor:
        """Return the masks of images in pixels of the model input: float64 (images, 1, H, W).

        1 on objects of the target's class, 0 elsewhere, NaN where the mask says nothing. All NaN if an image has no object of its target.
        Raises InputError if a mask cannot be read, does not fit its image, or has a category that is unknown.
        """
        located = torch.full((len(images), 1, *preprocessing.size), torch.nan, dtype=torch.float64)
        for i, (image, target) in enumerate(zip(images, targets, strict=True)):
            entry = self.entries.get(image.key)
            region = None if entry is None else entry.read(image, partial(self.classes.has, target=target))
            if region is not None:
                located[i, 0] = torch.from_numpy(place_mask(*region, preprocessing, image.size))
        return located


def find_masks(
    path: str, index: FileIndex, class_names: ClassNames, categories: str | None = None, difficult: Difficult = "keep"
) -> Masks:
    """Return the masks of the images of a data set, which are found by name as those of label tables are.

    path: a folder of PNG masks or of Pascal VOC XML files, or a COCO JSON file. categories: a CSV file with the columns category and
    class; without it, categories are names of classes. difficult: whether difficult objects of XML files are ignored pixels.
    Emits a note if masks belong to no image, or if more than half of the images have none.
    Raises InputError if no image has a mask, if an image has two masks or a mask belongs to several images, or if a file cannot be read.
    """
    table = _read(path, _find_state(path), difficult)
    if categories is not None and not table.categories:
        raise InputError(f"the masks in {path!r} name no categories", f"remove categories={categories}")
    if not table.categories:
        emit_note(f"{ANY_OBJECT} ({path!r})")
    classes_by_category = None if categories is None else read_category_table(categories, table.categories, class_names)
    entries = _assign(table, index, Path(path) if Path(path).is_dir() else Path(path).parent)
    classes = CategoryClasses(path, class_names, classes_by_category)
    classes.check(sorted({category for entry in entries.values() for category in entry.list_categories()}))
    return Masks(entries, classes, bool(table.categories))


def _find_state(path: str) -> int:
    """Return a number that changes when a file, or a file of a folder, is modified."""
    root = Path(path)
    files = sorted(walk_files(root)) if root.is_dir() else [root]
    states = [file.stat() for file in files if file.is_file()]
    return hash((*map(str, files), *((state.st_mtime_ns, state.st_size) for state in states)))


@lru_cache(maxsize=4)
def _read(path: str, _state: int, difficult: Difficult) -> MaskTable:
    """Read what a file or folder lists. Raises InputError if it is of no known form."""
    root = Path(path)
    if root.is_dir():
        suffixes = {file.suffix.lower() for file in walk_files(root)}
        if ".png" in suffixes:
            return read_mask_folder(root)
        if ".xml" in suffixes:
            return read_xml_masks(root, ignore_difficult=difficult == "ignore")
        raise _refuse_folder(path, suffixes)
    if root.suffix.lower() == ".txt":
        raise InputError(f"{path!r} looks like YOLO text, which is not read", "convert it to COCO with globox")
    if root.suffix.lower() in (".png", ".xml"):
        raise InputError(f"{path!r} is a single file", "pass the folder of the masks")
    return read_coco(root)


def _refuse_folder(path: str, suffixes: set[str]) -> InputError:
    """Return the error of a folder that holds no masks."""
    if ".json" in suffixes:
        return InputError(
            f"{path!r} holds JSON files, such as those of LabelMe, which are not read",
            "convert them to COCO with labelme2coco, or pass a single COCO file",
        )
    if ".txt" in suffixes:
        return InputError(
            f"{path!r} holds text files, such as those of YOLO, which are not read", "convert them to COCO with globox"
        )
    return InputError(f"no mask in {path!r}", FORMS)


def _assign(table: MaskTable, index: FileIndex, folder: Path) -> dict[str, MaskEntry]:
    """Return the masks of images by key."""
    entries: dict[str, MaskEntry] = {}
    unused: list[MaskEntry] = []
    for entry in table.entries:
        positions = next(filter(None, (index.find(name, folder) for name in entry.names)), [])
        if len(positions) > 1:
            first, second = (index.keys[i] for i in positions[:2])
            raise InputError(
                f"the mask {entry.place} fits {first!r} and {second!r}",
                "name each mask after the whole path of its image",
            )
        if not positions:
            unused.append(entry)
            continue
        key = index.keys[positions[0]]
        if key in entries:
            raise InputError(
                f"{entries[key].place} and {entry.place} are both masks of {key!r}", "keep one mask per image"
            )
        entries[key] = entry
    _check_matches(table, index, entries, unused)
    return entries


def _check_matches(
    table: MaskTable, index: FileIndex, entries: Mapping[str, MaskEntry], unused: Sequence[MaskEntry]
) -> None:
    """Emit notes on masks without image and images without mask. Raises InputError if no image has a mask."""
    if not entries:
        names = ", ".join(repr(entry.names[0]) for entry in unused[:3])
        searched = repr(index.keys[0]) if index.keys else "no image"
        raise InputError(
            f"no mask in {table.source!r} belongs to an image of the data set: looked for {names} among {searched}, ...",
            "name masks after their images",
        )
    if unused:
        emit_note(
            f"{len(unused)} of {len(table.entries)} masks in {table.source!r} belong to no image of the data set, such as "
            f"{unused[0].names[0]!r}"
        )
    missing = len(index.keys) - len(entries)
    if 2 * missing > len(index.keys):
        emit_note(f"{missing} of {len(index.keys)} images have no mask in {table.source!r}")
