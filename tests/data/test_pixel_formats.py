"""Tests of xplain.data.pixel_formats: integer depths, and transparent colors of PNG."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.helpers.image_files import make_planar_tiff, make_png, make_tiff
from xplain.core.errors import InputError
from xplain.data.images import decode_image


def read_levels(content: bytes) -> list[int]:
    """Return the gray levels of the first row."""
    pixels = np.asarray(decode_image(content, "a.tif"))
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[0, :, 0].tolist()


def pack_12_bits(values: list[int]) -> bytes:
    text = "".join(f"{value:012b}" for value in values)
    return int(text, 2).to_bytes(len(text) // 8, "big")


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize(
    ("photometric", "order", "expected"),
    [(1, "<", [0, 1, 128, 254, 255]), (1, ">", [0, 1, 128, 254, 255]), (0, "<", [255, 254, 127, 1, 0])],
)
def test_16_bit_tiff_follows_photometric(photometric, order, expected, deflate):
    data = np.array([0, 200, 32800, 65300, 65535], f"{order}u2").tobytes()
    tiff = make_tiff(data, 5, 16, photometric=photometric, order=order, deflate=deflate)
    assert read_levels(tiff) == expected


def test_12_bit_tiff_spans_all_levels():
    assert read_levels(make_tiff(pack_12_bits([0, 9, 2048, 4095]), 4, 12)) == [0, 1, 128, 255]


def test_32_bit_unsigned_tiff_spans_all_levels():
    data = np.array([0, 2**24, 2**31 - 1, 2**31, 3 * 2**30, 2**32 - 1], "<u4").tobytes()
    for sample_format in (None, 1):
        assert read_levels(make_tiff(data, 6, 32, sample_format=sample_format)) == [0, 1, 127, 128, 191, 255]


@pytest.mark.parametrize(("bits", "order"), [(8, "<"), (8, ">"), (16, "<"), (16, ">"), (32, "<"), (32, ">")])
def test_signed_tiff_is_refused(bits, order):
    data = np.array([0, 1, 100, 127], f"{order}i{bits // 8}").tobytes()
    with pytest.raises(InputError, match=rf"'a\.tif' has signed {bits}-bit pixels, .*; set it with --range LOW,HIGH"):
        read_levels(make_tiff(data, 4, bits, sample_format=2, order=order))


@pytest.mark.parametrize(("photometric", "bits"), [(0, 16), (1, 32)])
def test_tiff_that_pillow_cannot_read_names_what_it_reads(photometric, bits):
    hint = r"save it as PNG, or as little-endian TIFF with 1 or 3 channels of 8 or 16 bits$"
    with pytest.raises(InputError, match=rf"'a\.tif' is not an image that Pillow can read; {hint}"):
        read_levels(make_tiff(bytes(8), 2, bits, photometric=photometric, order=">"))
    assert len(read_levels(make_tiff(bytes(4), 2, 16, photometric=photometric))) == 2


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_channels_one_after_the_other(order, channels):
    samples = np.random.default_rng(0).integers(0, 1 << 16, (channels, 4, 5))
    if channels == 4:
        samples[3] = 65535
    pixels = np.asarray(decode_image(make_planar_tiff(samples, order), "a.tif"))
    assert (pixels == (samples[:3] >> 8).transpose(1, 2, 0)).all()


def test_16_bit_cmyk_channels_one_after_the_other_are_refused():
    tiff = make_planar_tiff(np.zeros((4, 4, 4), int), photometric=5)
    with pytest.raises(InputError, match=r"^'a\.tif' has 16-bit CMYK channels one after the other; save it as RGB$"):
        decode_image(tiff, "a.tif")


def test_16_bit_pgm_is_scaled_by_its_maximum():
    data = np.array([0, 500, 1000], ">u2").tobytes()
    assert read_levels(b"P5 3 1 1000\n" + data) == [0, 128, 255]


def test_integers_of_other_formats_are_refused():
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(stream, "IM")
    with pytest.raises(InputError, match=r"'a\.tif' is IM with integer pixels, whose range is not defined; save it as"):
        decode_image(stream.getvalue(), "a.tif")


def test_16_bit_gray_png_with_transparent_level():
    samples = np.array([[0, 0x1234, 0x1235, 0x1334, 65535]])
    assert read_levels(make_png(samples, 16, [0x1234])) == [0, 255, 18, 19, 255]


def test_16_bit_rgb_png_with_transparent_color():
    color = [0x1234, 0x5678, 0x9ABC]
    samples = np.array([[color, [0x1234, 0x5678, 0x9ABD], [0x1334, 0x5678, 0x9ABC]]])
    pixels = np.asarray(decode_image(make_png(samples, 16, color), "a.png"))
    assert pixels[0].tolist() == [[255] * 3, [0x12, 0x56, 0x9A], [0x13, 0x56, 0x9A]]


@pytest.mark.parametrize(("bits", "level"), [(1, 0), (2, 2), (4, 9), (8, 77)])
def test_gray_png_with_transparent_level(bits, level):
    top = 2**bits - 1
    samples = np.array([[level, top, level - 1 if level else top]])
    opaque = (samples[0, 2] * 255 / top).round().astype(int)
    assert read_levels(make_png(samples, bits, [level])) == [255, 255, opaque]
