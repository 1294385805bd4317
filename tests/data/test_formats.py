"""Tests of xplain.data.formats: HEIC is read if pillow-heif is installed."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
from PIL import Image, ImageFile

from xplain.core.errors import InputError
from xplain.data.formats import SUFFIXES, UNREAD_SUFFIXES, has_heif, register_heif
from xplain.data.images import decode_image
from xplain.data.sources import find_images

HEIC = b"\0\0\0\x18ftypheic" + bytes(40)
without_heif = pytest.mark.skipif(has_heif(), reason="pillow-heif is installed")


class FakeHeifFile(ImageFile.ImageFile):
    """Decodes every HEIC file to the same image."""

    format = "HEIF"

    def _open(self) -> None:
        self._size, self._mode = (3, 2), "RGB"

    def load(self):
        self.im = Image.new("RGB", (3, 2), "red").im
        return None


@pytest.fixture
def pillow_heif(monkeypatch):
    """A module pillow_heif whose decoder is forgotten afterwards."""
    Image.init()
    module = ModuleType("pillow_heif")
    module.__spec__ = ModuleSpec("pillow_heif", None)
    module.register_heif_opener = lambda: Image.register_open("HEIF", FakeHeifFile, lambda head: head[4:8] == b"ftyp")
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    monkeypatch.setattr(Image, "OPEN", Image.OPEN.copy())
    monkeypatch.setattr(Image, "ID", Image.ID.copy())
    register_heif.cache_clear()
    yield module
    register_heif.cache_clear()


@without_heif
def test_heic_is_read_with_pillow_heif(tmp_path, pillow_heif):
    (tmp_path / "a.HEIC").write_bytes(HEIC)
    (tmp_path / "b.hif").write_bytes(HEIC)
    sources = find_images([str(tmp_path)])
    assert [source.stem for source in sources] == ["a", "b"]
    assert decode_image(sources[0].read(), "a.HEIC").size == (3, 2)


@without_heif
def test_heic_without_pillow_heif_names_it(tmp_path):
    register_heif.cache_clear()
    with pytest.raises(InputError, match="not an image that Pillow can read; pip install pillow-heif"):
        decode_image(HEIC, "a.heic")
    (tmp_path / "a.heic").write_bytes(HEIC)
    with pytest.raises(
        InputError, match=r"no images found in the directory .*: 1 file that looks like an image .*pillow-heif"
    ):
        find_images([str(tmp_path)])


def test_read_and_unread_suffixes_are_distinct():
    assert not SUFFIXES & UNREAD_SUFFIXES
    for suffix, name in Image.registered_extensions().items():
        if name in ("JPEG2000", "TGA", "JPEG", "PNG", "PPM", "SGI", "ICO", "PSD", "PCX"):
            assert suffix in SUFFIXES | UNREAD_SUFFIXES | {".bw", ".pnm", ".pfm"}
