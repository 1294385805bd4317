"""Tests of xplain.data.images."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, features

import xplain
from xplain.core.errors import InputError
from xplain.data.images import decode_image, sha256
from xplain.data.preprocessing import Preprocessing

BLACK, WHITE, RED, GREEN, BLUE = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encode(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def make_noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Image.Image:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def decode(content: bytes) -> np.ndarray:
    image = decode_image(content, "a.png")
    assert image.mode == "RGB"
    return np.asarray(image)


def test_empty_file_raises():
    with pytest.raises(InputError, match=r"'a\.png' is empty \(0 bytes\)"):
        decode_image(b"", "a.png")


def test_text_file_raises():
    with pytest.raises(InputError, match=r"'a\.jpg' is not an image"):
        decode_image(b"hello, this is text", "a.jpg")


@pytest.mark.parametrize(
    ("file_format", "fraction"), [("JPEG", 0.5), ("PNG", 0.5), ("GIF", 0.5), ("BMP", 0.5), ("TIFF", 0.3)]
)
def test_truncated_file_raises(file_format, fraction):
    content = encode(make_noise(40, 40), file_format)
    with pytest.raises(InputError, match=r"'a'.*(damaged|not an image)") as error:
        decode_image(content[: int(len(content) * fraction)], "a")
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_damaged_avif_raises():
    content = encode(make_noise(12, 15), "AVIF")
    damaged = content.replace(b"pitm", b"pit\xce")
    assert damaged != content
    with pytest.raises(InputError, match=r"'a\.avif'"):
        decode_image(damaged, "a.avif")


def test_decompression_bomb_raises(monkeypatch):
    content = encode(make_noise(20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="too large"):
        decode_image(content, "a.png")


def test_rgb_is_unchanged():
    image = make_noise(3, 4)
    assert np.array_equal(decode(encode(image)), np.asarray(image))


def test_gray_becomes_three_channels():
    image = make_noise(3, 4, channels=1)
    assert np.array_equal(decode(encode(image)), np.repeat(np.asarray(image)[:, :, None], 3, axis=2))


def test_palette_becomes_rgb():
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([2, 0, 1])
    assert decode(encode(image)).tolist() == [[list(BLUE), list(RED), list(GREEN)]]


def test_transparent_palette_entry_becomes_white():
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([2, 0, 1])
    assert decode(encode(image, transparency=0)).tolist() == [[list(BLUE), list(WHITE), list(GREEN)]]


def test_transparent_color_becomes_white():
    image = Image.new("RGB", (2, 1))
    image.putdata([RED, GREEN])
    assert decode(encode(image, transparency=RED)).tolist() == [[list(WHITE), list(GREEN)]]
    gray = Image.new("L", (2, 1))
    gray.putdata([10, 20])
    assert decode(encode(gray, transparency=10)).tolist() == [[list(WHITE), [20] * 3]]


def test_rgba_is_blended_with_white():
    image = Image.new("RGBA", (4, 1))
    image.putdata([(0, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 51), (100, 200, 0, 102)])
    # alpha 0.2 of black over white is 204; alpha 0.4 of (100, 200, 0) is (40, 80, 0) + 0.6 * 255
    assert decode(encode(image)).tolist() == [[list(BLACK), list(WHITE), [204] * 3, [193, 233, 153]]]


def test_gray_alpha_is_blended_with_white():
    image = Image.new("LA", (3, 1))
    image.putdata([(7, 255), (7, 0), (0, 51)])
    assert decode(encode(image)).tolist() == [[[7] * 3, [255] * 3, [204] * 3]]


def test_16_bit_gray_is_scaled():
    values = np.array([[0, 128, 129, 257, 257 * 100, 32768, 65535]], dtype=np.uint16)
    expected = [0, 0, 1, 1, 100, 128, 255]  # value / 257, rounded
    for file_format in ("PNG", "TIFF"):
        assert decode(encode(Image.fromarray(values), file_format))[0].tolist() == [[level] * 3 for level in expected]


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (4, 1))
    image.putdata([(0, 0, 0, 0), (0, 0, 0, 255), (255, 0, 0, 0), (0, 255, 255, 0)])
    assert decode(encode(image, "TIFF")).tolist() == [[list(WHITE), list(BLACK), [0, 255, 255], list(RED)]]


def test_bilevel_becomes_black_and_white():
    image = Image.new("1", (2, 1))
    image.putdata([0, 1])
    assert decode(encode(image)).tolist() == [[list(BLACK), list(WHITE)]]


def test_animation_uses_first_frame():
    frames = [Image.new("RGB", (2, 2), color) for color in (RED, BLUE)]
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(content).reshape(-1, 3).tolist() == [list(RED)] * 4


# How an upright image is stored for each EXIF orientation: the inverse of what a viewer applies.
STORE = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),  # displayed rotated clockwise, so stored rotated counterclockwise
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORE)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_decode_applies_exif_orientation(orientation, file_format):
    upright = np.asarray(make_noise(5, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORE[orientation](upright)))
    assert np.array_equal(decode(encode(stored, file_format, exif=exif)), upright)


def test_exif_orientation_of_other_modes():
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 8, axis=1).repeat(8, axis=0))  # black left half
    shown = np.asarray(decode_image(encode(jpeg, "JPEG", exif=exif, quality=100), "a.jpg"))
    assert shown.shape == (16, 8, 3)
    assert shown[:8].max() == 0  # rotated clockwise: the left half is on top
    assert shown[8:].min() == 255
    gray = Image.fromarray(np.array([[0, 65535]], dtype=np.uint16))
    assert decode(encode(gray, exif=exif))[:, 0, 0].tolist() == [0, 255]
    transparent = Image.new("RGBA", (2, 1))
    transparent.putdata([(0, 0, 0, 255), (0, 0, 0, 0)])
    assert decode(encode(transparent, exif=exif))[:, 0].tolist() == [list(BLACK), list(WHITE)]


def test_read_image_resizes_and_crops(tmp_path):
    path = tmp_path / "a.png"
    image = make_noise(300, 280)
    image.save(path)
    resized = np.asarray(image.resize((256, int(256 * 300 / 280)), Image.Resampling.BICUBIC))
    expected = resized[25:249, 16:240].astype(np.float32) / 255  # 274 rows: 25 above, 25 below
    x = xplain.read_image(path)
    assert torch.equal(x, torch.tensor(expected).permute(2, 0, 1))
    assert torch.equal(xplain.read_image(str(path)), x)
    assert x.is_contiguous()


def test_read_image_with_size_or_preprocessing(tmp_path):
    path = tmp_path / "a.png"
    make_noise(64, 80).save(path)
    preprocessing = Preprocessing((32, 48), 64, "nearest")
    expected = np.asarray(Image.open(path))[16:48, 16:64].astype(np.float32) / 255
    assert torch.equal(xplain.read_image(path, preprocessing=preprocessing), torch.tensor(expected).permute(2, 0, 1))
    assert xplain.read_image(path, 32).shape == (3, 32, 32)
    assert xplain.read_image(path, size=(32, 40)).shape == (3, 32, 40)


def test_read_image_of_missing_file_raises(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        xplain.read_image(tmp_path / "gone.png")


def test_sha256_of_bytes():
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
