"""Tell by a file's name whether it is an image that is read, and register the decoder of HEIC."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".avif")
)
HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))  # read if pillow-heif is installed
UNREAD_SUFFIXES = frozenset(  # of images that are not looked for in folders
    (
        *(".jpe", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jxl", ".jxr", ".wdp", ".mpo", ".apng", ".avifs", ".heics"),
        *(".tga", ".icb", ".vda", ".vst", ".pnm", ".pam", ".pfm", ".pcx", ".dcx", ".sgi", ".rgb", ".rgba", ".ras", ".qoi", ".bpg"),
        *(".dib", ".ico", ".cur", ".icns", ".psd", ".psb", ".xcf", ".dds", ".xbm", ".xpm", ".svg", ".svgz", ".emf", ".wmf"),
        *(".exr", ".hdr", ".dpx", ".cin", ".fits", ".fit", ".fts"),
        *(".dcm", ".dicom", ".nii", ".nrrd", ".mha", ".mhd", ".svs", ".ndpi", ".scn", ".mrxs", ".czi", ".lif", ".nd2", ".btf"),
        *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw"),
        *(".3fr", ".dcr", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".rwl", ".x3f"),
    )
)  # fmt: skip
ARRAY_SUFFIXES = frozenset((".npy", ".npz"))  # read from folders without other images
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIF_HINT = "pip install pillow-heif"


def has_heif() -> bool:
    """Return whether pillow-heif is installed, which decodes HEIC."""
    return find_spec("pillow_heif") is not None


@cache
def register_heif() -> None:
    """Let Pillow decode HEIC if pillow-heif is installed."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def is_heif(content: bytes) -> bool:
    """Return whether the bytes of a file are HEIC or HEIF."""
    return content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS


def suggest_format(content: bytes) -> str:
    """Return the way out for an image that Pillow cannot read."""
    if is_heif(content) and not has_heif():
        return HEIF_HINT
    return "use JPEG, PNG, WebP, TIFF or a similar format"


def read_suffixes() -> frozenset[str]:
    """Return the suffixes of the images that are read from folders, in lower case."""
    return SUFFIXES | HEIF_SUFFIXES if has_heif() else SUFFIXES


def is_read_suffix(suffix: str) -> bool:
    """Return whether images with this suffix, in lower case and with the dot, are read from folders and tar shards."""
    return suffix in SUFFIXES or (suffix in HEIF_SUFFIXES and has_heif())


def is_image_name(path: Path) -> bool:
    """Return whether a name has the suffix of an image or array, read or not."""
    return path.suffix.lower() in SUFFIXES | HEIF_SUFFIXES | UNREAD_SUFFIXES | ARRAY_SUFFIXES


def is_unread_image(path: Path) -> bool:
    """Return whether a name is that of an image, but folders are not searched for its format."""
    suffix = path.suffix.lower()
    return suffix in UNREAD_SUFFIXES or (suffix in HEIF_SUFFIXES and not has_heif())


def describe_unread(paths: Sequence[Path]) -> tuple[str, str]:
    """Return what is wrong with image files that are not read, with counts by suffix, and the way out."""
    counts = Counter(path.suffix.lower() for path in paths)
    listed = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
    are = "file that looks like an image is" if len(paths) == 1 else "files that look like images are"
    message = f"{len(paths)} {are} not read ({listed}; the first is {str(paths[0])!r})"
    others = counts.keys() - HEIF_SUFFIXES
    hints = [f"{HEIF_HINT} to read HEIC"] if counts.keys() & HEIF_SUFFIXES else []
    if others:
        hints.append("rename .jpe to .jpg" if others == {".jpe"} else "convert them to PNG or JPEG")
    return message, ", and ".join(hints)
