"""Read the masks of COCO's JSON files: polygons, run lengths, and boxes of annotations without a segmentation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from xplain.core.errors import InputError, emit_note
from xplain.core.text_files import read_text
from xplain.data.file_index import normalize_name
from xplain.data.mask_geometry import turn_mask
from xplain.data.mask_regions import MAX_PIXELS, ImageFacts, IsWanted, MaskTable, Region
from xplain.data.mask_shapes import Pixels, decode_run_lengths, fill_box, fill_polygon, parse_run_lengths

HINT = "use COCO's format: images, annotations and categories"
SLACK = 1.0  # pixels by which shapes may exceed their image
Draw = Callable[[int, int], Pixels]  # (height, width) -> pixels


@dataclass(frozen=True, eq=False)
class CocoObject:
    """An annotation. is_crowd: a group of objects, of which the mask says nothing. draw: raises ValueError if the shape is damaged."""

    category: str
    is_crowd: bool
    place: str
    draw: Draw = field(repr=False)


@dataclass(frozen=True, eq=False)
class CocoImage:
    """The annotations of an image. name: of its file. size: (height, width) for which they were drawn, or None for those of the file."""

    name: str
    place: str
    size: tuple[int, int] | None
    objects: list[CocoObject] = field(default_factory=list, repr=False)

    @property
    def names(self) -> Sequence[str]:
        """The path of the file, and its name without the folders, which only COCO may know; each with and without suffix."""
        path = PurePosixPath(self.name)
        return list(dict.fromkeys([self.name, path.with_suffix("").as_posix(), path.name, path.stem]))

    def list_categories(self) -> Sequence[str]:
        """Return the categories of the objects."""
        return [item.category for item in self.objects]

    def read(self, image: ImageFacts, is_wanted: IsWanted) -> Region | None:
        """Return the objects of the wanted categories, or None if there are none; groups of objects are ignored. Raises InputError."""
        objects = [item for item in self.objects if not item.is_crowd and is_wanted(item.category)]
        if not objects:
            return None
        crowds = [item for item in self.objects if item.is_crowd]
        size = self.size or _stored_size(image)
        inside, ignored = (self._draw(items, size) for items in (objects, crowds))
        try:
            return Region(*(turn_mask(pixels, image.size, image.orientation) for pixels in (inside, ignored)))
        except ValueError as error:
            raise InputError(
                f"{self.place} does not fit {image.key!r}: {error}", "use masks of the image's size or aspect ratio"
            ) from None

    def _draw(self, objects: Sequence[CocoObject], size: tuple[int, int]) -> Pixels:
        pixels = np.zeros(size, dtype=bool)
        for item in objects:
            try:
                pixels |= item.draw(*size)
            except ValueError as error:
                raise InputError(f"{item.place} is damaged: {error}", HINT) from None
        return pixels


def _stored_size(image: ImageFacts) -> tuple[int, int]:
    """Return the size of an image before it is turned upright."""
    height, width = image.size
    return (height, width) if image.orientation < 5 else (width, height)


def read_coco(path: Path) -> MaskTable:
    """Return the masks of a COCO file. The shapes are drawn later.

    Emits a note on annotations of images that the file does not list. Raises InputError that names the entry that is wrong.
    """
    content = _parse(path)
    _check_kind(path, content)
    names: dict[int | str, str] = {}
    for position, entry in enumerate(content["categories"]):
        with _reading(f"category {position} of {str(path)!r}"):
            number, name = _read_category(_check_mapping(entry))
            if names.setdefault(number, name) != name:
                raise ValueError(f"another category has the id {number!r} too")
    images: dict[int | str, CocoImage] = {}
    for position, entry in enumerate(content["images"]):
        with _reading(f"image {position} of {str(path)!r}") as place:
            number, image = _read_image(_check_mapping(entry), place)
            if number in images:
                raise ValueError(f"another image has the id {number!r} too")
            images[number] = image
    unlisted = 0
    for position, entry in enumerate(content["annotations"]):
        with _reading(f"annotation {position} of {str(path)!r}") as place:
            number, item = _read_object(_check_mapping(entry), names, place)
        if number in images:
            images[number].objects.append(item)
        else:
            unlisted += 1
    if unlisted:
        emit_note(f"{unlisted} of the annotations in {str(path)!r} belong to images that it does not list")
    entries = [image for image in images.values() if image.objects]
    if not entries:
        raise InputError(f"no annotation in {str(path)!r}", HINT)
    return MaskTable(str(path), entries, list(dict.fromkeys(names.values())))


def _parse(path: Path) -> Any:
    try:
        return json.loads(read_text(path, "the masks", HINT))
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read the masks {str(path)!r}: {error}", HINT) from None


def _check_kind(path: Path, content: Any) -> None:
    """Raise InputError unless a JSON document has the three lists of COCO."""
    if isinstance(content, Mapping) and "shapes" in content:
        raise InputError(f"{str(path)!r} is a LabelMe file, which is not read", "convert it to COCO with labelme2coco")
    if isinstance(content, list):
        raise InputError(f"{str(path)!r} holds a list, such as COCO results, without images and categories", HINT)
    keys = ("images", "annotations", "categories")
    if not isinstance(content, Mapping) or not all(isinstance(content.get(key), list) for key in keys):
        raise InputError(f"{str(path)!r} is no COCO file: it lacks the lists {', '.join(keys)}", HINT)


@contextmanager
def _reading(place: str) -> Iterator[str]:
    """Raise InputError with the place for an entry of another form."""
    try:
        yield place
    except KeyError as error:
        raise InputError(f"{place} has no entry {error.args[0]!r}", HINT) from None
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{place} is damaged: {error}", HINT) from None


def _check_mapping(entry: Any) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise TypeError("it is no object")
    return entry


def _read_id(entry: Mapping[str, Any], key: str) -> int | str:
    number: Any = entry[key]
    if isinstance(number, bool) or not isinstance(number, int | str):
        raise TypeError(f"invalid {key} {number!r}")
    return number


def _read_category(entry: Mapping[str, Any]) -> tuple[int | str, str]:
    name = entry["name"]
    if not isinstance(name, str) or not name.strip():
        raise TypeError(f"invalid name {name!r}")
    return _read_id(entry, "id"), name.strip()


def _read_image(entry: Mapping[str, Any], place: str) -> tuple[int | str, CocoImage]:
    """Return the id of an image, and the image without objects."""
    name = entry["file_name"]
    if not isinstance(name, str) or not name.strip():
        raise TypeError(f"invalid file_name {name!r}")
    height, width = entry.get("height"), entry.get("width")
    size = None if height is None and width is None else (_read_side(height), _read_side(width))
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"it is too large ({width} x {height} pixels)")
    if PurePosixPath(name).name in ("", ".."):
        raise ValueError(f"invalid file_name {name!r}")
    return _read_id(entry, "id"), CocoImage(normalize_name(name), place, size)


def _read_side(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise TypeError(f"invalid height or width {value!r}")
    return value


def _read_object(entry: Mapping[str, Any], names: Mapping[int | str, str], place: str) -> tuple[int | str, CocoObject]:
    """Return the id of the image and the object of an annotation."""
    category = _read_id(entry, "category_id")
    if category not in names:
        raise ValueError(f"unknown category_id {category!r}")
    is_crowd = entry.get("iscrowd", 0)
    if is_crowd not in (0, 1):
        raise ValueError(f"invalid iscrowd {is_crowd!r}")
    item = CocoObject(names[category], bool(is_crowd), place, _read_shape(entry))
    return _read_id(entry, "image_id"), item


def _read_shape(entry: Mapping[str, Any]) -> Draw:
    """Return how to draw the segmentation of an annotation, or its box if it has none."""
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, Mapping):
        return _read_run_lengths(segmentation)
    if segmentation:
        if not isinstance(segmentation, list):
            raise TypeError("its segmentation is neither polygons nor run lengths")
        polygons = [_read_numbers(points) for points in segmentation]
        for points in polygons:
            if len(points) < 6 or len(points) % 2:
                raise ValueError("a polygon needs x and y of at least 3 points")
        _refuse_fractions([number for points in polygons for number in points])
        return lambda height, width: _draw_polygons(polygons, height, width)
    numbers = _read_numbers(entry["bbox"])
    if len(numbers) != 4 or min(numbers[2:]) <= 0:
        raise ValueError(f"invalid bbox {entry['bbox']!r}")
    _refuse_fractions(numbers)
    left, top, width_of_box, height_of_box = numbers
    box = (left, top, left + width_of_box, top + height_of_box)
    return lambda height, width: _draw_box(box, height, width)


def _read_numbers(values: Any) -> list[float]:
    if not isinstance(values, list) or any(
        isinstance(value, bool) or not isinstance(value, int | float) for value in values
    ):
        raise TypeError("a shape is no list of numbers")
    numbers = list(map(float, values))
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a coordinate is not finite")
    return numbers


def _refuse_fractions(numbers: Sequence[float]) -> None:
    """Raise ValueError if coordinates are fractions of the image instead of pixels."""
    if max(numbers) <= 1 and any(number % 1 for number in numbers):
        raise ValueError("its coordinates are fractions of the image, from 0 to 1, not pixels")


def _check_inside(xs: Sequence[float], ys: Sequence[float], height: int, width: int) -> None:
    if min(*xs, *ys) < -SLACK or max(xs) > width + SLACK or max(ys) > height + SLACK:
        raise ValueError(f"its shape exceeds the image of {width} x {height} pixels")


def _draw_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> Pixels:
    pixels = np.zeros((height, width), dtype=bool)
    for points in polygons:
        _check_inside(points[::2], points[1::2], height, width)
        pixels |= fill_polygon(points, height, width)
    return pixels


def _draw_box(box: tuple[float, float, float, float], height: int, width: int) -> Pixels:
    _check_inside(box[::2], box[1::2], height, width)
    return fill_box(*box, height, width)


def _read_run_lengths(segmentation: Mapping[str, Any]) -> Draw:
    counts, size = segmentation["counts"], segmentation["size"]
    if isinstance(counts, str):
        counts = parse_run_lengths(counts)
    is_valid = all(
        isinstance(values, list) and all(isinstance(value, int) and not isinstance(value, bool) for value in values)
        for values in (counts, size)
    )
    if not is_valid or len(size) != 2:
        raise TypeError("its run lengths or their size are no whole numbers")
    if min(size) <= 0 or size[0] * size[1] > MAX_PIXELS or sum(counts) != size[0] * size[1]:
        raise ValueError(f"its run lengths sum to {sum(counts)}, not to {size[0]} x {size[1]}")

    def draw(height: int, width: int) -> Pixels:
        if size != [height, width]:
            raise ValueError(
                f"its run lengths are of {size[1]} x {size[0]} pixels, but the image has {width} x {height}"
            )
        return decode_run_lengths(counts, height, width)

    return draw
