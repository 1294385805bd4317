"""Read the orientation of an image, and remove metadata that Pillow cannot parse: metadata never decides whether pixels are read."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

ORIENTATION = 0x0112  # tag of EXIF and TIFF
EXIF_START = b"Exif\0\0"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_ORIENTATION_TEXT = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
JPEG_START, JPEG_SCAN, JPEG_APP1 = b"\xff\xd8", 0xDA, 0xE1
JPEG_METADATA = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))  # APPn and comments, without JFIF (APP0) and Adobe (APP14)
# Header of a TIFF -> byte order, format of the number of entries, format of an offset (the second two are BigTIFF).
TIFF_HEADERS = {
    b"II*\0": ("<", "H", "I"),
    b"MM\0*": (">", "H", "I"),
    b"II+\0": ("<", "Q", "Q"),
    b"MM\0+": (">", "Q", "Q"),
}
TIFF_XMP = 700
TIFF_PIXEL_TAGS = frozenset(
    (
        *(254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284),  # size, depth, compression, strips
        *(
            292,
            293,
            317,
            320,
            322,
            323,
            324,
            325,
            332,
            338,
            339,
            347,
        ),  # fax, predictor, palette, tiles, inks, JPEG tables
        *range(512, 522),  # old JPEG
        *(529, 530, 531, 532, 50674, 0xBC01),  # YCbCr, LERC, Windows Media Photo (which Pillow refuses)
    )
)


def read_orientation(image: Image) -> int:
    """Return the EXIF orientation of a loaded image, 1 to 8; 1 if there is none or if it cannot be read."""
    try:
        orientation = _exif_orientation(image.info.get("exif")) or image.getexif().get(ORIENTATION, 1)
    except Exception:  # the parser of Pillow raises many types
        return 1
    return next((number for number in range(1, 9) if number == orientation), 1)


def _exif_orientation(block: bytes | None) -> object:
    """Return the orientation in an EXIF block, whatever its other tags hold; None if it has none."""
    from PIL.Image import Exif

    content = (block or b"").removeprefix(EXIF_START).removeprefix(EXIF_START)
    if content[:4] not in TIFF_HEADERS:
        return None
    exif = Exif()
    exif.load(EXIF_START + _filter_tiff(content, frozenset([ORIENTATION])))
    return exif.get(ORIENTATION)


def turn_upright(image: Image, orientation: int) -> Image:
    """Return the image as an EXIF orientation displays it."""
    from PIL.Image import Transpose

    transpositions = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(transpositions[orientation]) if orientation in transpositions else image


def turn_array_upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return bands (C, H, W) as an EXIF orientation displays them."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(1, 2)
    if orientation in (2, 3, 6, 7):
        values = values[:, :, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[:, ::-1]
    return values


def strip_metadata(content: bytes) -> Iterator[bytes]:
    """Yield the contents of an image file with less and less metadata: the orientation is removed last.

    Everything that determines pixels is kept. The first is the file itself, or the only one in a format other than PNG, JPEG and
    TIFF; for a TIFF it has no other metadata than the orientation, because a broken tag hides the tags behind it from Pillow.
    """
    previous = None
    for stripped in _strip(content):
        if stripped != previous:
            yield stripped
        previous = stripped


def _strip(content: bytes) -> Iterator[bytes]:
    if content[:4] in TIFF_HEADERS:
        yield _filter_tiff(content, TIFF_PIXEL_TAGS | {ORIENTATION, TIFF_XMP})
        yield _filter_tiff(content, TIFF_PIXEL_TAGS | {ORIENTATION})
        yield _filter_tiff(content, TIFF_PIXEL_TAGS)
        return
    yield content
    if content.startswith(PNG_SIGNATURE):
        yield _filter_png(content, lambda kind, start: kind == b"eXIf" or start.startswith(PNG_ORIENTATION_TEXT))
        yield _filter_png(content, lambda kind, start: kind == b"eXIf")
        yield _filter_png(content, lambda kind, start: False)
    elif content.startswith(JPEG_START):
        yield _filter_jpeg(content, JPEG_METADATA - {JPEG_APP1})
        yield _filter_jpeg(content, JPEG_METADATA)


def _filter_png(content: bytes, is_kept: Callable[[bytes, bytes], bool]) -> bytes:
    """Return a PNG file with the chunks that determine pixels and those for which ``is_kept(type, first bytes)`` holds."""
    parts, position = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if end > len(content):
            break
        is_critical = kind[:1].isupper() or kind == b"tRNS"
        if is_critical or is_kept(kind, content[position + 8 : position + 32]):
            parts.append(content[position:end])
        position = end
    return b"".join((*parts, content[position:]))


def _filter_jpeg(content: bytes, removed: frozenset[int]) -> bytes:
    """Return a JPEG file without the segments with the ``removed`` markers before the first scan."""
    parts, position = [JPEG_START], len(JPEG_START)
    while position + 4 <= len(content) and content[position] == 0xFF and content[position + 1] != JPEG_SCAN:
        marker = content[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        length = int.from_bytes(content[position + 2 : position + 4], "big")  # includes itself
        end = position + 2 + length
        if length < 2 or end > len(content):
            break
        if marker not in removed:
            parts.append(content[position:end])
        position = end
    return b"".join((*parts, content[position:]))


def _filter_tiff(content: bytes, kept: frozenset[int]) -> bytes:
    """Return a TIFF file whose first directory has only the ``kept`` tags. Nothing else in the file changes or moves."""
    order, count_format, offset_format = TIFF_HEADERS[content[:4]]
    entry_size = 12 if offset_format == "I" else 20
    try:
        (start,) = struct.unpack_from(order + offset_format, content, 4 if offset_format == "I" else 8)
        (count,) = struct.unpack_from(order + count_format, content, start)
    except (struct.error, OverflowError):
        return content
    first = start + struct.calcsize(count_format)
    end = min(first + count * entry_size, len(content))
    entries = [content[position : position + entry_size] for position in range(first, end - entry_size + 1, entry_size)]
    entries = [entry for entry in entries if struct.unpack_from(order + "H", entry)[0] in kept]
    next_directory = content[end : end + struct.calcsize(offset_format)]
    directory = b"".join((struct.pack(order + count_format, len(entries)), *entries, next_directory))
    return content[:start] + directory + content[start + len(directory) :]
