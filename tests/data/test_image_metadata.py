"""Tests of xplain.data.image_metadata: broken and oversized metadata hides neither the pixels nor the orientation."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from tests.helpers.image_files import (
    ASCII,
    LONG,
    SRATIONAL,
    make_chunk,
    make_exif,
    make_jpeg,
    make_png,
    make_segment,
    make_tiff,
    short,
)
from xplain.core.errors import InputError
from xplain.data.image_metadata import strip_metadata
from xplain.data.images import decode_image

ODD_TAGS = {
    "no odd tag": (),
    "resolution as text": ((0x11A, ASCII, 4, b"72\0\0"),),
    "height as text": ((0x101, ASCII, 4, b"xyz\0"),),
    "width as a signed fraction": ((0x100, SRATIONAL, 1, struct.pack("<ii", -97, 0)),),
    "value beyond the end, before the orientation": ((0x10F, ASCII, 9, struct.pack("<I", 2**31)),),
    "value beyond the end, after the orientation": ((0x8769, LONG, 1, struct.pack("<I", 2**32 - 1)),),
    "unknown type": ((0x110, 99, 3, b"abcd"),),
    "zero values": ((0x11B, LONG, 0, b""),),
}
SAMPLES = np.tile(np.repeat([0, 255], 16), (16, 1))  # black on the left, white on the right
MEGABYTES = zlib.compress(bytes(3 << 20))


def assert_rotated(content: bytes) -> None:
    """Assert that an image, stored black on the left, is shown black at the top, as orientation 6 requires."""
    shown = np.asarray(decode_image(content, "a.jpg"))
    assert shown.shape == (32, 16, 3)
    assert (shown[:16].max(), shown[16:].min()) == (0, 255)


@pytest.mark.parametrize("tags", ODD_TAGS.values(), ids=ODD_TAGS)
def test_orientation_next_to_odd_exif_tag(tags):
    exif = make_exif(*tags)
    assert_rotated(make_jpeg(make_segment(0xE1, b"Exif\0\0" + exif)))
    assert_rotated(make_png(SAMPLES, 8, extra=make_chunk(b"eXIf", exif)))


@pytest.mark.parametrize("tags", ODD_TAGS.values(), ids=ODD_TAGS)
@pytest.mark.parametrize("deflate", [False, True])
def test_tiff_with_odd_tag(tags, deflate):
    known = (0x100, 0x101)  # the size, which cannot be odd here
    extra = [tag for tag in tags if tag[0] not in known]
    content = make_tiff(b"\0\x40\xff", 3, 8, deflate=deflate, extra=[short(0x112, 6), *extra])
    assert np.asarray(decode_image(content, "a.tif"))[:, :, 0].tolist() == [[0], [64], [255]]


def test_signed_tiff_behind_odd_tag_is_refused():
    """A value beyond the end of the file hides the tags behind it from Pillow, among them the sample format."""
    odd = (0x11A, ASCII, 9, struct.pack("<I", 2**31))
    with pytest.raises(InputError, match=r"signed 8-bit"):
        decode_image(make_tiff(b"\0\x40\xff", 3, 8, sample_format=2, extra=[odd]), "a.tif")


def test_libtiff_prints_nothing(capfd):
    odd = (37500, 13, 2, bytes(8))
    decode_image(make_tiff(b"\0\x40\xff", 3, 8, deflate=True, extra=[odd]), "a.tif")
    sound = make_tiff(b"\0\x40\xff", 3, 8, deflate=True)
    with pytest.raises(InputError):
        decode_image(sound[:8] + b"nonsense" + sound[16:], "a.tif")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "chunk",
    [
        make_chunk(b"zTXt", b"key\0\0" + MEGABYTES),
        make_chunk(b"iTXt", b"key\0\1\0\0\0" + MEGABYTES),
        make_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + MEGABYTES),
        make_chunk(b"iCCP", b"profile\0\0" + MEGABYTES),
        make_chunk(b"iCCP", b"profile\0\7nonsense"),
        make_chunk(b"pHYs", b"short"),
        make_chunk(b"acTL", b""),
        make_chunk(b"tEXt", b"key\0value")[:-4] + b"\0\0\0\0",  # wrong checksum
    ],
    ids=lambda chunk: chunk[4:20].decode("ascii", "replace"),
)
def test_png_with_broken_or_large_metadata(chunk):
    assert_rotated(make_png(SAMPLES, 8, extra=make_chunk(b"eXIf", make_exif()) + chunk))


def test_png_with_much_text():
    chunks = make_chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(1 << 20))) * 70
    assert_rotated(make_png(SAMPLES, 8, extra=chunks + make_chunk(b"eXIf", make_exif())))


@pytest.mark.parametrize(
    "segment",
    [
        make_segment(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
        make_segment(0xE2, b"ICC_PROFILE\0"),
        make_segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0"),
        make_segment(0xEF, b"nonsense"),
    ],
    ids=["MPF", "ICC", "Photoshop", "APP15"],
)
def test_jpeg_with_broken_metadata(segment):
    assert_rotated(make_jpeg(segment, make_segment(0xE1, b"Exif\0\0" + make_exif())))


def test_unreadable_orientation_is_ignored():
    for exif in (make_exif(orientation=99), b"II*\0\x08", b"II*\0\xff\xff\xff\xff", b"nonsense"):
        shown = decode_image(make_jpeg(make_segment(0xE1, b"Exif\0\0" + exif)), "a.jpg")
        assert shown.size == (32, 16)


def test_damaged_pixels_are_reported_as_such():
    text = make_chunk(b"zTXt", b"key\0\0" + MEGABYTES)
    content = make_png(SAMPLES, 8, extra=text)
    with pytest.raises(InputError, match=r"is damaged: (?!.*Decompressed)"):
        decode_image(content[:-30], "a.png")


def test_strip_metadata_keeps_files_without_metadata():
    plain = make_png(SAMPLES, 8, transparent=[3])
    assert list(strip_metadata(plain)) == [plain]
    assert list(strip_metadata(b"GIF89a")) == [b"GIF89a"]
    assert list(strip_metadata(make_png(SAMPLES, 8, [3], make_chunk(b"tEXt", b"a\0b"))))[1:] == [plain]
