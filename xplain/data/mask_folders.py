"""Read folders of PNG masks: binary masks, maps of class indices such as those of Pascal VOC, and ImageNet-S."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xplain.core.errors import InputError, emit_note, first_line
from xplain.core.text_files import read_lines
from xplain.data.class_names import is_wnid
from xplain.data.folders import walk_files
from xplain.data.image_metadata import read_orientation, turn_array_upright
from xplain.data.mask_categories import NAMES_FILE, VOC_NAMES, read_index_names
from xplain.data.mask_geometry import turn_mask
from xplain.data.mask_regions import MAX_PIXELS, ImageFacts, IsWanted, MaskTable, Region
from xplain.data.own_outputs import is_own_file

if TYPE_CHECKING:
    from PIL.Image import Image

VOID = 255  # the border of objects in Pascal VOC
IMAGENET_S_VOID = 1000
IMAGENET_S_COUNTS = (50, 300, 919)  # classes of its versions
INSTANCES_FOLDER = "SegmentationObject"  # of Pascal VOC, whose masks look like those of classes
GRAY_MODES = ("1", "L", "P")
SAVE_HINT = "save masks as PNG of mode 1 or L, or class indices as mode L or P"
NAMES_HINT = f"name the pixel values in {NAMES_FILE} in the folder of the masks (INDEX NAME in each line)"
WNIDS_HINT = f"list the wnids of ImageNet-S in {NAMES_FILE} in the folder of the masks, or save binary masks in mode L"

Kind = Literal["binary", "indices", "colors"]


@dataclass(frozen=True)
class MaskFormat:
    """What the pixels of a folder's masks mean.

    kind: values above 0 are the object; values are the indices of categories; or colors are the indices of ImageNet-S.
    names: categories by pixel value; "" is the background.
    """

    kind: Kind
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def categories(self) -> list[str]:
        """The names of the categories, each once."""
        return list(dict.fromkeys(filter(None, self.names.values())))


def read_mask_folder(folder: Path) -> MaskTable:
    """Return the PNG masks of a folder, which are named after their images. The pixels are read later.

    Raises InputError if the folder holds no PNG file, masks of instances, or names of categories that cannot be read.
    """
    paths = sorted(
        path
        for path in walk_files(folder)
        if path.suffix.lower() == ".png" and not path.name.startswith(".") and not is_own_file(path)
    )
    if not paths:
        raise InputError(
            f"no PNG mask in {str(folder)!r}", "pass a folder of PNG or Pascal VOC XML, or a COCO JSON file"
        )
    if any(path.parent.name == INSTANCES_FOLDER for path in paths):
        raise InputError(
            f"{INSTANCES_FOLDER!r} in {str(folder)!r} holds instances, not classes", "pass the folder SegmentationClass"
        )
    mask_format = _find_format(folder, paths)
    entries = [PngMask(path.relative_to(folder).with_suffix("").as_posix(), path, mask_format) for path in paths]
    return MaskTable(str(folder), entries, mask_format.categories)


def _find_format(folder: Path, paths: Sequence[Path]) -> MaskFormat:
    """Return what the pixels mean, from the names beside the masks and from the first mask."""
    names_file = folder / NAMES_FILE
    has_names = names_file.is_file()
    first = _open(paths[0])
    if first.mode in ("RGB", "RGBA"):
        wnids = _read_wnids(names_file) if has_names else _list_wnid_folders(folder, paths)
        return MaskFormat("colors", dict(enumerate(wnids, 1)))
    if has_names:
        return MaskFormat("indices", read_index_names(names_file))
    if _has_voc_palette(first):
        emit_note(
            f"the masks in {str(folder)!r} have the palette of Pascal VOC; their values are read as its 20 classes"
        )
        return MaskFormat("indices", {index: name if index else "" for index, name in enumerate(VOC_NAMES)})
    return MaskFormat("binary")


def _read_wnids(path: Path) -> list[str]:
    """Read the wnids of ImageNet-S, the first word of each line, and return them sorted."""
    lines = read_lines(path, "the wnids of the masks", WNIDS_HINT)
    wnids = [line.split()[0] for line in lines if line.strip()]
    wrong = next((word for word in wnids if not is_wnid(word)), None)
    if wrong is not None or not wnids or len(set(wnids)) < len(wnids):
        problem = f"{wrong!r} is no wnid" if wrong is not None else "its lines are not different wnids"
        raise InputError(f"cannot read the wnids in {str(path)!r}: {problem}", WNIDS_HINT)
    return sorted(wnids)


def _list_wnid_folders(folder: Path, paths: Sequence[Path]) -> list[str]:
    """Return the wnids after which the folders of masks are named, if they are as many as ImageNet-S has; else []."""
    wnids = sorted({path.relative_to(folder).parts[0] for path in paths})
    return wnids if len(wnids) in IMAGENET_S_COUNTS and all(map(is_wnid, wnids)) else []


def _voc_color(index: int) -> tuple[int, int, int]:
    """Return the color of a class index in Pascal VOC: its bits, from the lowest, set the highest bits of red, green and blue."""
    color = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            color[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return color[0], color[1], color[2]


def _has_voc_palette(image: Image) -> bool:
    palette = image.getpalette() if image.mode == "P" else None
    expected = [value for index in range(len(VOC_NAMES)) for value in _voc_color(index)]
    return palette is not None and palette[: len(expected)] == expected


def _open(path: Path) -> Image:
    """Open a PNG file and decode its pixels. Raises InputError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(path.read_bytes()), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it is too large ({image.width} x {image.height} pixels)")
            image.load()
            return image
    except Image.DecompressionBombError:
        raise InputError(f"the mask {str(path)!r} is too large", "reduce its size") from None
    except Exception as error:  # decoders raise many types
        reason = "it is no PNG image" if isinstance(error, UnidentifiedImageError) else first_line(error)
        raise InputError(f"cannot read the mask {str(path)!r}: {reason}", SAVE_HINT) from None


class _Values(NamedTuple):
    """The pixels of a mask. values: (h, w). void: the value of pixels of which the mask says nothing, or None."""

    values: NDArray[np.int64]
    void: int | None
    is_binary: bool


@dataclass(frozen=True)
class PngMask:
    """The mask of an image in a PNG file. name: its path in the folder, without suffix."""

    name: str
    path: Path
    format: MaskFormat = field(repr=False)

    @property
    def names(self) -> Sequence[str]:
        """The name of the image."""
        return (self.name,)

    @property
    def place(self) -> str:
        """The file, for messages."""
        return repr(str(self.path))

    def list_categories(self) -> Sequence[str]:
        """Return (), because the pixels decide."""
        return ()

    def read(self, image: ImageFacts, is_wanted: IsWanted) -> Region | None:
        """Return the pixels of the wanted categories, or None if there are none. Raises InputError."""
        picture = _open(self.path)
        pixels = self._read_values(picture)
        if pixels.is_binary:
            inside = pixels.values > 0
        else:
            wanted = [value for value in self._list_values(pixels) if is_wanted(self.format.names[value])]
            if not wanted:
                return None
            inside = np.isin(pixels.values, wanted)
        ignored = np.zeros_like(inside) if pixels.void is None else pixels.values == pixels.void
        try:
            return Region(*(_turn(part, picture, image) for part in (inside, ignored)))
        except ValueError as error:
            raise InputError(
                f"the mask {self.place} does not fit {image.key!r}: {error}",
                "use a mask of the image's size or aspect ratio",
            ) from None

    def _list_values(self, pixels: _Values) -> list[int]:
        """Return the values of categories that occur. Raises InputError for a value without a name."""
        names = self.format.names
        present = [value for value in np.unique(pixels.values).tolist() if value != pixels.void]
        unnamed = [value for value in present if value and value not in names]
        if unnamed:
            hint = NAMES_HINT if self.format.kind == "indices" else WNIDS_HINT
            raise InputError(f"the mask {self.place} has the pixel value {unnamed[0]}, which has no name", hint)
        return [value for value in present if names.get(value)]

    def _read_values(self, picture: Image) -> _Values:
        """Return the values of the pixels. Raises InputError if the mask is not of the format of the folder."""
        kind = self.format.kind
        if kind == "colors" and picture.mode in ("RGB", "RGBA"):
            return self._read_colors(np.asarray(picture).astype(np.int64))
        if kind == "colors" or picture.mode not in GRAY_MODES:
            raise InputError(f"the mask {self.place} has the mode {picture.mode}, unlike other masks", SAVE_HINT)
        values = np.asarray(picture).astype(np.int64)
        if kind == "indices":
            return _Values(values, VOID, is_binary=False)
        present = np.unique(values).tolist()
        if picture.mode == "P":
            raise InputError(f"the mask {self.place} has a palette, and its values have no names", NAMES_HINT)
        if len(present) > 2 or (len(present) == 2 and present[0] != 0):
            listed = ", ".join(map(str, present[:4]))
            raise InputError(
                f"the mask {self.place} is not binary (values {listed}{', ...' if len(present) > 4 else ''})",
                NAMES_HINT,
            )
        return _Values(values, None, is_binary=True)

    def _read_colors(self, colors: NDArray[np.int64]) -> _Values:
        """Return red + 256 green, the index of a class of ImageNet-S, or the gray of a binary mask."""
        red, green, blue = (colors[:, :, channel] for channel in range(3))
        is_gray = bool(((red == green) & (green == blue)).all())
        present = np.unique(red).tolist()
        if not self.format.names and is_gray and len(present) <= 2 and (len(present) == 1 or present[0] == 0):
            return _Values(red, None, is_binary=True)
        if not self.format.names or blue.any():
            listed = [tuple(color) for color in np.unique(colors[:, :, :3].reshape(-1, 3), axis=0).tolist()]
            shown = ", ".join(map(str, listed[:4]))
            raise InputError(
                f"the colors of the mask {self.place} are unknown: {shown}{', ...' if len(listed) > 4 else ''}",
                WNIDS_HINT,
            )
        return _Values(red + 256 * green, IMAGENET_S_VOID, is_binary=False)


def _turn(pixels: NDArray[Any], picture: Image, image: ImageFacts) -> NDArray[np.bool_]:
    """Return pixels of a mask on the upright image. The mask's own orientation comes first. Raises ValueError as ``turn_mask``."""
    own = read_orientation(picture)
    if own == 1:
        return turn_mask(pixels, image.size, image.orientation)
    return turn_mask(turn_array_upright(pixels[None], own)[0], image.size, 1)
