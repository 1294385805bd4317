"""Image files that are assembled byte by byte, with tags and chunks that Pillow does not write."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

Tag = tuple[int, int, int, bytes]  # number, type, count, value
SHORT, LONG, ASCII, SRATIONAL = 3, 4, 2, 10


def short(tag: int, value: int, order: str = "<") -> Tag:
    """Return a TIFF tag with one 16-bit value."""
    return tag, SHORT, 1, struct.pack(f"{order}H", value)


def make_directory(tags: Sequence[Tag], start: int, order: str = "<") -> bytes:
    """Return a TIFF directory at the offset ``start``, with the values that are longer than 4 bytes behind it."""
    tags = sorted(tags)
    tail, position = b"", start + 2 + 12 * len(tags) + 4
    directory = struct.pack(f"{order}H", len(tags))
    for tag, kind, count, value in tags:
        if len(value) > 4:
            tail, value = tail + value, struct.pack(f"{order}I", position + len(tail))
        directory += struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")
    return directory + struct.pack(f"{order}I", 0) + tail


def make_tiff(
    data: bytes,
    width: int,
    bits: int,
    *,
    photometric: int = 1,
    sample_format: int | None = None,
    order: str = "<",
    deflate: bool = False,
    extra: Sequence[Tag] = (),
) -> bytes:
    """Return a gray TIFF of one row. extra: further tags."""
    data = zlib.compress(data) if deflate else data
    values = {256: width, 257: 1, 258: bits, 259: 8 if deflate else 1, 262: photometric, 273: 8, 277: 1, 278: 1}
    values[279] = len(data)
    if sample_format is not None:
        values[339] = sample_format
    tags = [short(tag, value, order) for tag, value in values.items()]
    start = 8 + len(data) + len(data) % 2
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return header + data.ljust(start - 8, b"\0") + make_directory([*tags, *extra], start, order)


def make_planar_tiff(samples: np.ndarray, order: str = "<", *, photometric: int = 2) -> bytes:
    """Return a TIFF of 16-bit samples (C, H, W), whose channels follow each other, with two strips per channel."""
    channels, height, width = samples.shape
    rows = height // 2
    data = samples.astype(f"{order}u2").tobytes()
    sizes = [2 * width * rows, 2 * width * (height - rows)] * channels
    offsets = [8 + sum(sizes[:i]) for i in range(len(sizes))]
    values = {256: width, 257: height, 259: 1, 262: photometric, 277: channels, 278: height - rows, 284: 2}
    tags = [short(tag, value, order) for tag, value in values.items()]
    tags.append((258, SHORT, channels, struct.pack(f"{order}{channels}H", *[16] * channels)))
    for tag, numbers in ((273, offsets), (279, sizes)):
        tags.append((tag, LONG, len(numbers), struct.pack(f"{order}{len(numbers)}I", *numbers)))
    if channels == 4 and photometric == 2:
        tags.append(short(338, 2, order))  # the fourth is opacity
    start = 8 + len(data)
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return header + data + make_directory(tags, start, order)


def make_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def make_png(samples: np.ndarray, bits: int, transparent: Sequence[int] = (), extra: bytes = b"") -> bytes:
    """Return a PNG of samples (H, W) or (H, W, 3). transparent: its transparent color. extra: chunks before the pixels."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if bits == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    else:
        levels = rows.astype(np.uint8)[:, :, None] >> np.arange(bits)[::-1] & 1
        packed = [np.packbits(row).tobytes() for row in levels]
    header = struct.pack(">IIBBBBB", width, height, bits, 2 if samples.ndim == 3 else 0, 0, 0, 0)
    transparency = make_chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    pixels = make_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in packed)))
    start = b"\x89PNG\r\n\x1a\n" + make_chunk(b"IHDR", header)
    return start + transparency + extra + pixels + make_chunk(b"IEND", b"")


def make_exif(*tags: Tag, orientation: int = 6) -> bytes:
    """Return an EXIF block with an orientation and other tags."""
    return b"II*\0" + struct.pack("<I", 8) + make_directory([short(0x112, orientation), *tags], 8)


def make_segment(marker: int, content: bytes) -> bytes:
    """Return a JPEG segment."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def make_jpeg(*segments: bytes, width: int = 32, height: int = 16) -> bytes:
    """Return a JPEG, black on the left and white on the right, with segments at its start."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, width // 2 :] = 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=100)
    content = stream.getvalue()
    return content[:2] + b"".join(segments) + content[2:]
