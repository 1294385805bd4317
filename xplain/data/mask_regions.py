"""The masks of images, whatever file holds them: what a source of masks offers, and what is read of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from xplain.data.mask_shapes import Pixels

MAX_PIXELS = 1 << 27  # of a mask
IsWanted = Callable[[str], bool]  # whether a category stands for the target


class Region(NamedTuple):
    """The objects of a class in an image: pixels (h, w), upright, of the image or of one with its aspect ratio.

    ignored: pixels of which the mask says nothing.
    """

    inside: Pixels
    ignored: Pixels


class ImageFacts(NamedTuple):
    """What masks need to know of an image file. size: (height, width), upright. orientation: of EXIF, 1 to 8."""

    key: str
    size: tuple[int, int]
    orientation: int


class MaskEntry(Protocol):
    """The mask of one image."""

    @property
    def names(self) -> Sequence[str]:
        """The names under which its image is looked up, the fullest first."""

    @property
    def place(self) -> str:
        """Where the mask is, for messages."""

    def list_categories(self) -> Sequence[str]:
        """Return the categories that occur, as far as they are known without reading pixels."""

    def read(self, image: ImageFacts, is_wanted: IsWanted) -> Region | None:
        """Return the objects of the wanted categories, or None if there are none. Raises InputError if the mask does not fit the image."""


@dataclass(frozen=True, eq=False)
class MaskTable:
    """All masks of a file or folder.

    categories: all names of categories; empty if the masks have none, so that they count for every class.
    """

    source: str
    entries: Sequence[MaskEntry]
    categories: Sequence[str] = ()
