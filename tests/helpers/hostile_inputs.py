"""Unusual and broken image files: kind -> (file name, bytes, expected error text; "" if the image is valid)."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image, ImageCms

from tests.helpers.image_files import make_chunk, make_png, make_tiff

DRAWN = np.linspace(0, 255, 40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
PICTURE = Image.fromarray(DRAWN)
ORIENTATION = 0x0112
DAMAGED, UNKNOWN = "is damaged", "is not an image that Pillow can read"


def encode_image(image: Image.Image, form: str, **options: object) -> bytes:
    """Return an image encoded in a file format."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def encode_array(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def encode_animation(form: str) -> bytes:
    """Return an animation of two frames."""
    return encode_image(PICTURE, form, save_all=True, append_images=[PICTURE.rotate(180)], duration=100)


def make_rotated_jpeg(orientation: int) -> bytes:
    """Return a JPEG with an EXIF orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode_image(PICTURE, "JPEG", exif=exif)


def make_huge_exif() -> bytes:
    """Return a JPEG whose EXIF block has nearly the maximum size of a segment."""
    exif = Image.Exif()
    exif[0x9286] = b"x" * 65000  # the user's comment
    return encode_image(PICTURE, "JPEG", exif=exif)


def make_bomb() -> bytes:
    """Return a small PNG whose header declares 60 000 x 60 000 pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"\0" * 999))
    framed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def make_zip() -> bytes:
    """Return a ZIP file that contains an image."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a.jpg", encode_image(PICTURE, "JPEG"))
    return stream.getvalue()


def remove_adobe_marker(content: bytes) -> bytes:
    """Remove the APP14 segment, which marks inverted inks, from a CMYK JPEG."""
    start = content.index(b"\xff\xee")
    return content[:start] + content[start + 2 + int.from_bytes(content[start + 2 : start + 4], "big") :]


def make_broken_huffman() -> bytes:
    """Return a JPEG whose first Huffman table declares too many codes."""
    content = bytearray(encode_image(PHOTO, "JPEG"))
    table = content.index(b"\xff\xc4")
    content[table + 5 : table + 21] = b"\xff" * 16
    return bytes(content)


JPEG, PNG = encode_image(PHOTO, "JPEG"), encode_image(PICTURE, "PNG")
PALETTE = PICTURE.quantize(16)
CMYK = encode_image(PICTURE.convert("CMYK"), "JPEG")
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()

FILES: dict[str, tuple[str, bytes, str]] = {
    "zero bytes": ("a.jpg", b"", "is empty"),
    **{
        f"cut after {at} %": ("a.jpg", JPEG[: len(JPEG) * at // 100], DAMAGED)
        for at in (30, 40, 50, 60, 70, 80, 90, 95)
    },
    "cut in the header": ("a.jpg", JPEG[:12], DAMAGED),
    "cut after the mark": ("a.png", PNG[:8], UNKNOWN),
    "half a PNG": ("a.png", PNG[: len(PNG) // 2], DAMAGED),
    "text": ("a.jpg", b"not a picture\n", UNKNOWN),
    "HTML": ("a.jpg", b"<!doctype html><html><body>404</body></html>", UNKNOWN),
    "PDF": ("a.jpg", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF", UNKNOWN),
    "ZIP": ("a.jpg", make_zip(), UNKNOWN),
    "SVG": ("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", UNKNOWN),
    "decompression bomb": ("a.png", make_bomb(), "is too large"),
    "broken Huffman table": ("a.jpg", make_broken_huffman(), DAMAGED),
    "32-bit float TIFF": (
        "a.tif",
        encode_image(Image.fromarray(DRAWN[..., 0].astype(np.float32)), "TIFF"),
        "floating-point pixels from 0 to",
    ),
    "32-bit float TIFF in [0, 1]": (
        "a.tif",
        encode_image(Image.fromarray(DRAWN[..., 0] / np.float32(255)), "TIFF"),
        "",
    ),
    "NPY": ("a.npy", encode_array(DRAWN), ""),
    "half an NPY": ("a.npy", encode_array(DRAWN)[:200], "cannot read the array"),
    "NPY of objects": ("a.npy", encode_array(np.array([[None]]), allow_pickle=True), "pickled Python objects"),
    "1 x 1": ("a.png", encode_image(PICTURE.crop((0, 0, 1, 1)), "PNG"), ""),
    "1 x 300": ("a.png", encode_image(PICTURE.resize((1, 300)), "PNG"), ""),
    "20000 x 1": ("a.png", encode_image(PICTURE.resize((20000, 1)), "PNG"), ""),
    "1 x 20000": ("a.png", encode_image(PICTURE.resize((1, 20000)), "PNG"), ""),
    "CMYK": ("a.jpg", remove_adobe_marker(CMYK), ""),
    "inverted CMYK": ("a.jpg", CMYK, ""),
    "16-bit grey": ("a.png", encode_image(Image.fromarray(DRAWN[..., 0].astype(np.uint16) * 257), "PNG"), ""),
    "bilevel": ("a.png", encode_image(PICTURE.convert("1"), "PNG"), ""),
    "16-bit TIFF in which 0 is white": ("a.tif", make_tiff(bytes(range(20)), 10, 16, photometric=0), ""),
    "12-bit TIFF": ("a.tif", make_tiff(bytes(range(15)), 10, 12), ""),
    "32-bit TIFF": ("a.tif", make_tiff(bytes(range(40)), 10, 32), ""),
    "signed TIFF": ("a.tif", make_tiff(bytes(range(20)), 10, 16, sample_format=2), "signed 16-bit pixels"),
    "16-bit RGB with a transparent color": ("a.png", make_png(DRAWN.astype(int) * 257, 16, [0, 257, 514]), ""),
    "much metadata": (
        "a.png",
        make_png(DRAWN, 8, extra=make_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(3 << 20)))),
        "",
    ),
    "palette": ("a.png", encode_image(PALETTE, "PNG"), ""),
    "palette with transparency": ("a.png", encode_image(PALETTE, "PNG", transparency=bytes(range(16))), ""),
    "LA": ("a.png", encode_image(PICTURE.convert("LA"), "PNG"), ""),
    "RGBA": ("a.png", encode_image(PICTURE.convert("RGBA"), "PNG"), ""),
    "animated GIF": ("a.gif", encode_animation("GIF"), ""),
    "APNG": ("a.png", encode_animation("PNG"), ""),
    "animated WebP": ("a.webp", encode_animation("WEBP"), ""),
    "TIFF of several pages": ("a.tiff", encode_animation("TIFF"), "pages"),
    **{f"orientation {k}": ("a.jpg", make_rotated_jpeg(k), "") for k in range(1, 9)},
    "orientation 99": ("a.jpg", make_rotated_jpeg(99), ""),
    "wrong suffix": ("a.jpg", PNG, ""),
    "no suffix": ("a", PNG, ""),
    "ICC profile": ("a.jpg", encode_image(PICTURE, "JPEG", icc_profile=PROFILE), ""),
    "broken ICC profile": ("a.jpg", encode_image(PICTURE, "JPEG", icc_profile=b"nonsense" * 99), ""),
    "progressive JPEG": ("a.jpg", encode_image(PHOTO, "JPEG", progressive=True), ""),
    "huge EXIF": ("a.jpg", make_huge_exif(), ""),
    "broken EXIF": ("a.jpg", encode_image(PICTURE, "JPEG", exif=b"Exif\0\0nonsense"), ""),
    "rubbish behind the image": ("a.jpg", JPEG + b"\0" * 5000, ""),
    "unicode name": ("катя 猫 é.png", PNG, ""),
    "name with a new line": ("a\nb.png", PNG, ""),
    "name with a dash before": ("-a.png", PNG, ""),
    "name of dots": ("...png", PNG, ""),
    "name with markup": ("<b>&'\".png", PNG, ""),
    "name with an escape": ("\x1b[31mred.png", PNG, ""),
}
