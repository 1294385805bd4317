"""Images of any number of bands from NPY, NPZ and TIFF files: axes, ranges, resizing, and refusals with a way out."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import xplain
from tests.conftest import SAMPLES
from xplain.core.errors import InputError, ModelNote, UsageError
from xplain.data.bands import PixelFormat
from xplain.data.images import read_model_input
from xplain.data.preprocessing import Preprocessing

tifffile = pytest.importorskip("tifffile")

H, W = 20, 24
PLAIN = Preprocessing((H, W), H)  # images of H x W pixels are neither resized nor cropped
BANDS = np.random.default_rng(3).random((H, W, 4))
FLOATS = BANDS.astype(np.float32)
TWELVE_BIT = (BANDS * 4095).round().astype(np.uint16)


def read(content: bytes, channels: int = 4, **settings) -> tuple[np.ndarray, list[str]]:
    """Return the pixels (C, H, W) and the notes."""
    preprocessing = replace(PLAIN, pixels=PixelFormat(channels, **settings))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = read_model_input(content, "x", preprocessing)
    notes = [str(warning.message) for warning in caught if warning.category is ModelNote]
    return result.pixels.numpy(), notes


def refusal(content: bytes, channels: int = 4, **settings) -> str:
    with pytest.raises((InputError, UsageError)) as error:
        read(content, channels, **settings)
    return str(error.value)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def assert_bands(pixels: np.ndarray, expected: np.ndarray) -> None:
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, expected.transpose(2, 0, 1), rtol=1e-6)


@pytest.mark.parametrize(
    "content",
    [
        npy(FLOATS),
        npy(FLOATS.transpose(2, 0, 1)),
        npy(BANDS),
        npz(anything=FLOATS),
        npz(image=FLOATS, other=FLOATS[..., :2]),
    ],
    ids=["hwc", "chw", "float64", "npz", "npz of several"],
)
def test_floats_in_0_to_1(content):
    pixels, notes = read(content)
    assert_bands(pixels, FLOATS)
    assert notes == []


@pytest.mark.parametrize(
    ("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535), (np.uint32, 2**32 - 1), (">u2", 65535), (bool, 1)]
)
def test_unsigned_integers_of_full_range(dtype, top):
    stored = (BANDS * top).round().astype(dtype)
    pixels, notes = read(npy(stored))
    assert_bands(pixels, stored.astype(np.float64) / top)
    bits = 8 * stored.dtype.itemsize
    scaled = f"pixels of {bits} bits are scaled from 0..{top} to 0..1; use --range for another range"
    assert notes == ([scaled] if bits > 8 else [])


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.int64])
def test_range_of_the_user(dtype):
    stored = (BANDS * 10000).astype(dtype)
    pixels, notes = read(npy(stored), value_range=(0, 10000))
    assert_bands(pixels, stored.astype(np.float64) / 10000)
    assert notes == []


def test_values_outside_the_range_are_refused_or_clipped():
    stored = BANDS * 10 - 2
    assert "outside the range 0 to 4; use a wider --range, or add --clip-range" in refusal(
        npy(stored), value_range=(0, 4)
    )
    pixels, _ = read(npy(stored), value_range=(0, 4), clip_range=True)
    assert_bands(pixels, np.clip(stored / 4, 0, 1))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (BANDS * 7, "'x' has floating-point pixels from 0.00"),
        (BANDS + 0.5, "to 1.4998, whose range is not defined; set it with --range LOW,HIGH"),
        (BANDS - 0.5, "HIGH; if they are normalized, save the pixels before the normalization instead"),
        (
            (BANDS * 99).astype(np.int16),
            "'x' has signed 16-bit pixels, whose range is not defined; set it with --range",
        ),
        (np.where(BANDS > 0.9, np.nan, BANDS), "'x' has pixels that are NaN or infinite"),
        (BANDS.astype(complex), "'x' has pixels of type complex128"),
        (
            BANDS[..., :3],
            "the shape (20, 24, 3), but the model takes 4 channels; save (H, W, 4) or (4, H, W), or choose",
        ),
        (BANDS[..., 0], "'x' has 1 band, but the model takes 4 channels; pass images with 4 bands"),
        (
            BANDS[:4],
            "the first and the last axis of 'x' (4, 24, 4) could both be its bands; use --axes hwc or --axes chw",
        ),
        (BANDS[None], "'x' has the shape (1, 20, 24, 4), which is not an image; save one image per file"),
        (BANDS[:0], "which is not an image"),
        (np.array([[None]]), "'x' holds pickled Python objects, which are not loaded"),
    ],
)
def test_array_is_refused(array, message):
    assert message in refusal(npy(array))


def test_archive_of_several_arrays_is_refused():
    assert "'x' holds 2 arrays ('a', 'b'); call the image 'image'" in refusal(npz(a=FLOATS, b=FLOATS))


def test_huge_header_is_refused_before_data_are_read():
    content = npy(np.zeros((1, 1, 4), np.uint8)).replace(b"(1, 1, 4), }", b"(9999999, 999, 4), }")
    assert "'x' is too large" in refusal(content)


def test_axes_of_the_user():
    cube = np.random.default_rng(0).random((4, 4, 4))
    small = Preprocessing((4, 4), 4)
    for axes, expected in (("hwc", cube.transpose(2, 0, 1)), ("chw", cube)):
        pixels = read_model_input(npy(cube), "x", replace(small, pixels=PixelFormat(4, axes=axes))).pixels
        np.testing.assert_allclose(pixels, expected, rtol=1e-6)
    assert_bands(read(npy(FLOATS.transpose(2, 0, 1)), axes="chw")[0], FLOATS)
    assert "'x' has 20 bands, but the model takes 4 channels; choose the bands with --input-bands" in refusal(
        npy(FLOATS), axes="chw"
    )


def test_bands_for_the_model():
    content = npy(FLOATS)
    pixels, _ = read(content, 2, axes="hwc", input_bands=(4, 1))
    assert_bands(pixels, FLOATS[..., [3, 0]])
    assert "the axes of 'x' are not known" in refusal(content, 2, input_bands=(4, 1))
    assert "'x' has 4 bands, but --input-bands names band 5" in refusal(content, 2, axes="hwc", input_bands=(5, 1))
    assert_bands(read(tiff(TWELVE_BIT), 3, input_bands=(3, 2, 1))[0], TWELVE_BIT[..., [2, 1, 0]] / 65535)


OPTIONS = {
    "YXS": (TWELVE_BIT, {"photometric": "minisblack", "planarconfig": "contig"}),
    "YXS, RGB and transparency": (TWELVE_BIT, {"photometric": "rgb"}),
    "YXS with zlib": (TWELVE_BIT, {"photometric": "minisblack", "planarconfig": "contig", "compression": "zlib"}),
    "SYX": (TWELVE_BIT.transpose(2, 0, 1), {"photometric": "minisblack", "planarconfig": "separate"}),
    "QYX": (TWELVE_BIT.transpose(2, 0, 1), {"photometric": "minisblack"}),
    "QYX of rows": (TWELVE_BIT, {"photometric": "minisblack", "metadata": {}, "volumetric": False}),
    "CYX": (TWELVE_BIT.transpose(2, 0, 1), {"photometric": "minisblack", "metadata": {"axes": "CYX"}}),
    "OME-TIFF": (
        TWELVE_BIT.transpose(2, 0, 1),
        {"photometric": "minisblack", "ome": True, "metadata": {"axes": "CYX"}},
    ),
    "pages without axes": (TWELVE_BIT.transpose(2, 0, 1), {"photometric": "minisblack", "metadata": None}),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_tiff_of_four_bands(kind):
    array, options = OPTIONS[kind]
    pixels, notes = read(tiff(array, **options))
    assert_bands(pixels, TWELVE_BIT / 65535)
    dark = "an image of 16 bits per pixel uses the lowest 12 bits only and is dark; if its range is smaller, set it, such as --range 0,4095"
    assert notes[0] == dark
    pixels, notes = read(tiff(array, **options), value_range=(0, 4095))
    assert_bands(pixels, TWELVE_BIT / 4095)
    assert notes == []


def test_tiff_of_twelve_bands_whose_rows_became_pages():
    """tifffile writes (H, W, 12) as H pages of (W, 12)."""
    bands = np.random.default_rng(1).random((H, W, 12)).astype(np.float32)
    assert_bands(read(tiff(bands), 12)[0], bands)
    assert_bands(read(tiff(bands.transpose(2, 0, 1)), 12)[0], bands)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_orientation(orientation):
    codes = [(274, 3, 1, orientation, True)]
    content = tiff(TWELVE_BIT, photometric="minisblack", planarconfig="contig", extratags=codes)
    gray = tiff(TWELVE_BIT[..., 0], extratags=codes)
    preprocessing = Preprocessing((4, 4), 4, "nearest", squash=True, pixels=PixelFormat(4, value_range=(0, 4095)))
    first = read_model_input(content, "x", preprocessing)
    reference = read_model_input(gray, "x", replace(preprocessing, pixels=PixelFormat(3)))
    assert first.size == reference.size == ((W, H) if orientation > 4 else (H, W))
    np.testing.assert_allclose(first.pixels[0] * 4095, reference.pixels[0] * 65535, atol=200)


@pytest.mark.parametrize(
    ("content", "channels", "message"),
    [
        (
            tiff(TWELVE_BIT.transpose(2, 0, 1)[:2], photometric="minisblack"),
            4,
            "'x' has 2 pages; save each page as a file of its own",
        ),
        (tiff(TWELVE_BIT.transpose(2, 0, 1)[:2], photometric="minisblack"), 3, "'x' has 2 pages"),
        (tiff(TWELVE_BIT.transpose(2, 0, 1)[:3], photometric="minisblack", metadata=None), 3, "'x' has 3 pages"),
        (tiff((np.stack([BANDS[..., :3]] * 2) * 255).astype(np.uint8), photometric="rgb"), 3, "'x' has 2 pages"),
        (tiff((np.stack([BANDS[..., :3]] * 2) * 255).astype(np.uint8), photometric="rgb"), 4, "'x' has 2 pages"),
        (
            tiff(TWELVE_BIT.transpose(2, 0, 1), imagej=True, metadata={"axes": "ZYX"}),
            4,
            "'x' is a stack of 4 images (axes ZYX); save one image per file, with its bands as channels",
        ),
        (
            tiff(TWELVE_BIT, photometric="minisblack", planarconfig="contig"),
            3,
            "'x' has 4 bands, but the model takes 3 channels; choose the bands with --input-bands, such as --input-bands 1,2,3",
        ),
        (tiff(TWELVE_BIT[..., :3], photometric="rgb"), 4, "'x' has 3 bands, but the model takes 4 channels"),
        (
            tiff(FLOATS * 9, photometric="minisblack", planarconfig="contig"),
            4,
            "whose range is not defined; set it with --range",
        ),
        (tiff(TWELVE_BIT)[:300], 4, "cannot read the bands of 'x'"),
        (
            (SAMPLES / "cat.jpg").read_bytes(),
            4,
            "'x' has 3 bands, but the model takes 4 channels; pass images with 4 bands",
        ),
    ],
)
def test_file_is_refused(content, channels, message):
    assert message in refusal(content, channels)


def test_pages_are_not_bands_of_other_models():
    pages = TWELVE_BIT.transpose(2, 0, 1)
    options = {"photometric": "minisblack", "metadata": None}
    assert "'x' has 2 pages" in refusal(tiff(pages[:2], **options))
    assert "'x' has 3 pages" in refusal(tiff(pages[:3], **options), 3, value_range=(0, 4095))
    pixels, _ = read(tiff(pages[:3], **options), 3, value_range=(0, 4095), axes="chw")
    assert_bands(pixels, TWELVE_BIT[..., :3] / 4095)


def test_interpolation_does_not_leave_0_to_1():
    edges = np.zeros((8, 8, 4), np.float32)
    edges[:, 4:] = 1
    preprocessing = Preprocessing((32, 32), 32, "lanczos", pixels=PixelFormat(4))
    pixels = read_model_input(npy(edges), "x", preprocessing).pixels
    assert (float(pixels.min()), float(pixels.max())) == (0, 1)


def test_missing_tifffile_is_named(monkeypatch):
    monkeypatch.setattr("xplain.data.tiff_images.find_spec", lambda name: None)
    assert "reading the bands of 'x' requires tifffile; pip install 'xplain-vision[tiff]'" in refusal(tiff(TWELVE_BIT))


def test_reduced_copies_of_a_page_are_ignored():
    stream = io.BytesIO()
    photo = (BANDS[..., :3] * 255).astype(np.uint8)
    with tifffile.TiffWriter(stream) as writer:
        writer.write(photo, photometric="rgb")
        writer.write(photo[::2, ::2], photometric="rgb", subfiletype=1)
    assert_bands(read(stream.getvalue(), 3)[0], photo / np.float32(255))


@pytest.mark.parametrize("top", [4095, 65535])
def test_planes_of_16_bits_are_right_for_rgb_models(top):
    """Pillow reads planes of 16 bits as planes of 8 bits."""
    stored = (BANDS[..., :3] * top).astype(np.uint16)
    pixels, _ = read(tiff(stored.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), 3)
    assert_bands(pixels, stored / 65535)


@pytest.mark.parametrize(
    "content",
    [
        tiff(TWELVE_BIT[..., 0]),
        tiff(TWELVE_BIT[..., :3], photometric="rgb"),
        tiff(TWELVE_BIT, photometric="rgb"),
    ],
    ids=["gray", "RGB", "RGBA"],
)
def test_dark_tiff_is_noted_for_rgb_models(content):
    _, notes = read(content, 3)
    assert "uses the lowest 12 bits only and is dark" in notes[0]
    assert notes[0].endswith("such as --range 0,4095")


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_range_of_gray_for_rgb_models(form):
    stream = io.BytesIO()
    Image.fromarray(TWELVE_BIT[..., 0]).save(stream, form)
    pixels, notes = read(stream.getvalue(), 3, value_range=(0, 4095))
    assert_bands(pixels, TWELVE_BIT[..., [0, 0, 0]] / 4095)
    assert notes == []


def test_range_of_8_bit_photograph_is_checked():
    content = (SAMPLES / "cat.jpg").read_bytes()
    assert "'x' has 8-bit pixels, but --range ends at 4095; set the range of these pixels" in refusal(
        content, 3, value_range=(0, 4095)
    )


def test_float_tiff_for_rgb_models():
    assert_bands(read(tiff(FLOATS[..., 0]), 3)[0], FLOATS[..., [0, 0, 0]])
    assert_bands(read(tiff(FLOATS[..., :3], photometric="rgb"), 3)[0], FLOATS[..., :3])


def test_white_is_zero():
    pixels, _ = read(tiff(TWELVE_BIT[..., 0], photometric="miniswhite"), 3, value_range=(0, 4095))
    np.testing.assert_allclose(pixels[0], 1 - TWELVE_BIT[..., 0] / 4095, atol=1e-6)


def test_transparency_of_a_png_is_the_fourth_band():
    stored = (BANDS * 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(stored).save(stream, "PNG")
    pixels, notes = read(stream.getvalue(), 4)
    assert_bands(pixels, stored / np.float32(255))
    assert notes == ["the transparency of images is used as band 4"]


def test_8_bit_array_gives_the_input_of_a_png():
    photo = np.asarray(Image.open(SAMPLES / "cat.jpg").convert("RGB"))
    stream = io.BytesIO()
    Image.fromarray(photo).save(stream, "PNG")
    preprocessing = Preprocessing((64, 48), 80)
    expected = read_model_input(stream.getvalue(), "x", preprocessing).pixels
    for array in (photo, photo.transpose(2, 0, 1)):
        assert torch.equal(read_model_input(npy(array), "x", preprocessing).pixels, expected)


def test_bands_are_resized_with_the_geometry_of_photographs():
    photo = np.asarray(Image.open(SAMPLES / "cat.jpg").convert("RGB"))
    for preprocessing in (
        Preprocessing((64, 48), 80),
        Preprocessing((100, 300), 90),
        Preprocessing((50, 60), 60, squash=True),
    ):
        expected = read_model_input(npy(photo), "x", preprocessing).pixels
        bands = np.concatenate([photo, photo[..., :1]], axis=2).astype(np.float32) / 255
        pixels = read_model_input(npy(bands), "x", replace(preprocessing, pixels=PixelFormat(4))).pixels
        assert pixels.shape == (4, *preprocessing.size)
        assert float((pixels[:3] - expected).abs().max()) < 2.1 / 255  # photographs are rounded to 8 bits twice
        assert torch.equal(pixels[3], pixels[0])


def test_read_image_of_the_library(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(npy((FLOATS * 10000).astype(np.int32)))
    preprocessing = replace(PLAIN, pixels=PixelFormat(4))
    pixels = xplain.read_image(path, preprocessing=preprocessing, value_range=(0, 10000))
    assert_bands(pixels.numpy(), (FLOATS * 10000).astype(np.int32) / 10000)
    with pytest.raises(InputError, match="signed 32-bit pixels"):
        xplain.read_image(path, preprocessing=preprocessing)
    with pytest.raises(UsageError, match=r"invalid value_range \(5, 5\)"):
        xplain.read_image(path, preprocessing=preprocessing, value_range=(5, 5))
    with pytest.raises(UsageError, match="unknown axes 'whc'; use hwc, chw or auto"):
        xplain.read_image(path, preprocessing=preprocessing, axes="whc")
