"""Tests of xplain.data.own_outputs and xplain.data.output_checks."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xplain.core.array_store import encode_arrays
from xplain.core.errors import InputError, ModelNote, UsageError
from xplain.core.options import RenderOptions
from xplain.data.class_folders import list_class_folders
from xplain.data.output_checks import check_run_directory
from xplain.data.own_outputs import is_own_file, is_own_picture
from xplain.data.sources import find_images
from xplain.reports.render import CHUNK, draw

PIXELS = np.zeros((8, 8, 3), np.uint8)
VALUES = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
RUN = '{"fingerprint": {}, "methods": {}, "metrics": {}}'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current directory with the photographs ``p/1.png`` and ``p/2.jpg``."""
    monkeypatch.chdir(tmp_path)
    write_photo("p/1.png")
    write_photo("p/2.jpg")
    return tmp_path


def write_photo(name: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(name)


def write_own(name: str, kind: str = "overlay", **record: object) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(draw(kind, PIXELS, VALUES, RenderOptions(), {"method": "x", **record}))


def paths(*arguments: str, output: str | None = None) -> list[str]:
    return [str(s.path) for s in find_images(arguments, output=None if output is None else Path(output))]


@pytest.mark.parametrize("kind", ["overlay", "heatmap", "masked", "figure"])
def test_is_own_picture_for_every_kind(folder, kind):
    write_own("a.png", kind, input="ü雪.png", long="x" * 5000)
    assert is_own_picture(Path("a.png"))
    assert not is_own_picture(Path("p/1.png"))


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of chunks (type, content)."""
    parts = [struct.pack(">I4s", len(c), kind) + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png((b"IHDR", bytes(13)), (b"iCCP", bytes(9000)), (b"zTXt", b"xplain\0\0abc")), True),
        (png((b"IHDR", bytes(13)), (b"tEXt", b"Comment\0xplain\0"), (b"IDAT", b"")), False),
        (png((b"IHDR", bytes(13)), (b"IDAT", b"1"), (b"tEXt", b"xplain\0{}")), False),
        (b"\x89PNG\r\n\x1a\n\xff\xff\xff\xfftEXt", False),
        (b"\x89PNG", False),
        (b"", False),
    ],
)
def test_is_own_picture_reads_chunks(folder, content, expected):
    assert CHUNK == "xplain"
    Path("a.png").write_bytes(content)
    assert is_own_picture(Path("a.png")) is expected


def test_figures_of_compare_are_known_by_the_record(folder):
    write_photo("c/compare.png")
    Path("c/compare.svg").write_text("<svg/>")
    assert not is_own_picture(Path("c/compare.png"))
    Path("c/compare.json").write_text('{"fingerprint": "1", "files": []}')
    with pytest.warns(ModelNote, match=r"^skipped output of xplain: 2 pictures \('c/compare.png', ...\)$"):
        assert paths("c", "p/1.png") == ["p/1.png"]


def test_is_own_file_reads_npz(folder):
    Path("a.npz").write_bytes(encode_arrays({"values": VALUES}, {"key": "a"}))
    np.savez("b.npz", values=VALUES)
    Path("c.npz").write_bytes(b"PK")
    assert [is_own_file(Path(f"{name}.npz")) for name in "abcd"] == [True, False, False, False]


@pytest.mark.parametrize("argument", ["p", ".", "**/*.*", "p/**/*", "*"])
def test_pictures_of_xplain_are_skipped(folder, argument):
    before = paths(argument)
    assert len(before) == 2
    write_own("p/1.saliency.overlay.png")
    write_own("p/results/deep/1.figure.png", "figure")
    write_photo("p/xplain-compare/compare.png")
    Path("p/run").mkdir()
    Path("p/run/run.json").write_text(RUN)
    with pytest.warns(ModelNote, match="skipped output of xplain: ") as notes:
        assert paths(argument) == before
    assert len(notes) == 1


def test_images_of_the_user_in_an_output_folder_are_read(folder):
    write_own("p/results/1.overlay.png")
    write_photo("p/results/3.png")
    with pytest.warns(ModelNote, match=r"skipped output of xplain: 1 picture \('p/results/1.overlay.png'\)"):
        assert paths("p") == ["p/1.png", "p/2.jpg", "p/results/3.png"]


def test_named_pictures_of_xplain_are_read_unless_in_the_output(folder):
    write_own("out/1.masked.png", "masked")
    assert paths("out/1.masked.png", output="out") == ["out/1.masked.png"]
    assert paths("out/1.masked.png", "p/1.png", output="other") == ["out/1.masked.png", "p/1.png"]
    with pytest.warns(ModelNote, match="skipped output of xplain: 1 picture"):
        assert paths("p/1.png", "out/1.masked.png", output="out") == ["p/1.png"]


def test_output_folder_next_to_other_arguments_is_skipped(folder):
    """The shell expands ``xplain explain *`` to the images and to the output of the first run."""
    write_own("results/1.overlay.png")
    with pytest.warns(ModelNote, match="skipped output of xplain"):
        assert paths("p/1.png", "results") == ["p/1.png"]
    with pytest.raises(
        InputError, match=r"no images found in the directory 'results' that xplain did not write; pass files by name"
    ):
        paths("results")


@pytest.mark.parametrize(
    ("data", "output", "refused"),
    [
        ("p", "p", "is the folder of the data set"),
        ("p", "q/../p/", "is the folder of the data set"),
        ("link", "p", "is the folder of the data set"),
        ("classes", "classes/a", "is a folder of images of the data set"),
        ("classes", "link2/a", "is a folder of images of the data set"),
        ("g/gallery", "g", "would replace the images in 'g/gallery'"),
        ("list.txt", "g", "would replace the images in 'g/gallery'"),
        ("p", "p/run", None),
        ("classes/a", "classes", None),
        ("torchvision:MNIST:p", "p2", None),
        ("list.txt", "p", None),
    ],
)
def test_check_run_directory(folder, data, output, refused):
    for name in ("classes/a/1.png", "g/gallery/1.png"):
        write_photo(name)
    write_own("p/run/gallery/best-0.png")
    Path("link").symlink_to("p")
    Path("link2").symlink_to("classes")
    Path("list.txt").write_text("p/1.png\n")
    if refused is None:
        check_run_directory(data, Path(output))
        return
    with pytest.raises(UsageError, match=f"{refused}.*; choose another --output"):
        check_run_directory(data, Path(output))


def test_folder_of_raw_attributions_is_no_class(folder):
    for name in ("ant", "cow", "bee/raw"):
        Path(name).mkdir(parents=True)
    Path("bee/raw/a.ig.npz").write_bytes(encode_arrays({"values": VALUES}, {"key": "a"}))
    np.savez("cow/features.npz", values=VALUES)
    assert list_class_folders(folder) == ["ant", "cow", "p"]
