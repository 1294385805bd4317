"""Files that are odd or broken, each made here: name -> (file name, bytes, what the command must say; "" if it is explained)."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image, ImageCms

DRAWN = np.linspace(0, 255, 40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
PICTURE = Image.fromarray(DRAWN)
ORIENTATION = 0x0112
DAMAGED, UNKNOWN = "is damaged", "is not an image that Pillow can read"


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    """The image as a file of a format."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def frames(form: str) -> bytes:
    """An animation of two frames."""
    return saved(PICTURE, form, save_all=True, append_images=[PICTURE.rotate(180)], duration=100)


def turned(orientation: int) -> bytes:
    """A JPEG with an EXIF orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(PICTURE, "JPEG", exif=exif)


def huge_exif() -> bytes:
    """A JPEG whose EXIF block is as large as a segment may be."""
    exif = Image.Exif()
    exif[0x9286] = b"x" * 65000  # the user's comment
    return saved(PICTURE, "JPEG", exif=exif)


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60 000 x 60 000 pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"\0" * 999))
    sealed = [struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(sealed)


def archive() -> bytes:
    """A ZIP file with an image in it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a.jpg", saved(PICTURE, "JPEG"))
    return stream.getvalue()


def without_adobe_marker(content: bytes) -> bytes:
    """A CMYK JPEG whose APP14 segment, which says that its inks are inverted, is cut out."""
    start = content.index(b"\xff\xee")
    return content[:start] + content[start + 2 + int.from_bytes(content[start + 2 : start + 4], "big") :]


def broken_huffman() -> bytes:
    """A JPEG whose first Huffman table claims more codes than there are."""
    content = bytearray(saved(PHOTO, "JPEG"))
    table = content.index(b"\xff\xc4")
    content[table + 5 : table + 21] = b"\xff" * 16
    return bytes(content)


JPEG, PNG = saved(PHOTO, "JPEG"), saved(PICTURE, "PNG")
PALETTE = PICTURE.quantize(16)
CMYK = saved(PICTURE.convert("CMYK"), "JPEG")
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
    "ZIP": ("a.jpg", archive(), UNKNOWN),
    "SVG": ("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", UNKNOWN),
    "decompression bomb": ("a.png", bomb(), "is too large"),
    "broken Huffman table": ("a.jpg", broken_huffman(), DAMAGED),
    "32-bit float TIFF": ("a.tif", saved(Image.fromarray(DRAWN[..., 0] / np.float32(255)), "TIFF"), "floating-point"),
    "1 x 1": ("a.png", saved(PICTURE.crop((0, 0, 1, 1)), "PNG"), ""),
    "1 x 300": ("a.png", saved(PICTURE.resize((1, 300)), "PNG"), ""),
    "20000 x 1": ("a.png", saved(PICTURE.resize((20000, 1)), "PNG"), ""),
    "1 x 20000": ("a.png", saved(PICTURE.resize((1, 20000)), "PNG"), ""),
    "CMYK": ("a.jpg", without_adobe_marker(CMYK), ""),
    "inverted CMYK": ("a.jpg", CMYK, ""),
    "16-bit grey": ("a.png", saved(Image.fromarray(DRAWN[..., 0].astype(np.uint16) * 257), "PNG"), ""),
    "bilevel": ("a.png", saved(PICTURE.convert("1"), "PNG"), ""),
    "palette": ("a.png", saved(PALETTE, "PNG"), ""),
    "palette with transparency": ("a.png", saved(PALETTE, "PNG", transparency=bytes(range(16))), ""),
    "LA": ("a.png", saved(PICTURE.convert("LA"), "PNG"), ""),
    "RGBA": ("a.png", saved(PICTURE.convert("RGBA"), "PNG"), ""),
    "animated GIF": ("a.gif", frames("GIF"), ""),
    "APNG": ("a.png", frames("PNG"), ""),
    "animated WebP": ("a.webp", frames("WEBP"), ""),
    "TIFF of several pages": ("a.tiff", frames("TIFF"), ""),
    **{f"orientation {k}": ("a.jpg", turned(k), "") for k in range(1, 9)},
    "orientation 99": ("a.jpg", turned(99), ""),
    "wrong suffix": ("a.jpg", PNG, ""),
    "no suffix": ("a", PNG, ""),
    "ICC profile": ("a.jpg", saved(PICTURE, "JPEG", icc_profile=PROFILE), ""),
    "broken ICC profile": ("a.jpg", saved(PICTURE, "JPEG", icc_profile=b"nonsense" * 99), ""),
    "progressive JPEG": ("a.jpg", saved(PHOTO, "JPEG", progressive=True), ""),
    "huge EXIF": ("a.jpg", huge_exif(), ""),
    "broken EXIF": ("a.jpg", saved(PICTURE, "JPEG", exif=b"Exif\0\0nonsense"), ""),
    "rubbish behind the image": ("a.jpg", JPEG + b"\0" * 5000, ""),
    "unicode name": ("катя 猫 é.png", PNG, ""),
    "name with a new line": ("a\nb.png", PNG, ""),
    "name with a dash before": ("-a.png", PNG, ""),
    "name of dots": ("...png", PNG, ""),
    "name with markup": ("<b>&'\".png", PNG, ""),
    "name with an escape": ("\x1b[31mred.png", PNG, ""),
}
