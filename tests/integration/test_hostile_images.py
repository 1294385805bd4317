"""Unusual and broken images: valid ones are explained, and every other image gives one error line and the right exit code."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import xplain
from tests.conftest import TINY
from tests.helpers.commands import read_messages
from tests.helpers.hostile_inputs import DRAWN, FILES, ORIENTATION, PNG, encode_image
from xplain.data.images import decode_image
from xplain.data.preprocessing import Preprocessing, preprocess

EXPLAIN = ("explain", *TINY, "-a", "random", "-o", "out", "--save", "raw")

DARK = "xplain: note: an image of 16 bits per pixel uses the lowest 13 bits only and is dark; if its range is smaller, set it, "
NOTES = {"16-bit TIFF in which 0 is white": [DARK + "such as --range 0,8191"]}


def write(name: str, content: bytes) -> Path:
    path = Path("in", name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", FILES)
def test_explain_single_file(xp, kind):
    name, content, error = FILES[kind]
    ran = xp(*EXPLAIN, write(name, content))
    lines = read_messages(ran.err)
    if error:
        assert ran.code == 3
        assert len(lines) == 1
        assert error in lines[0]
        assert ran.out == ""
    else:
        assert (ran.code, lines) == (0, NOTES.get(kind, []))
        (written,) = Path("out").rglob("*.npz")
        assert written.resolve().is_relative_to(Path("out").resolve())
        with np.load(written) as file:
            assert np.isfinite(file["attribution"]).all()
            assert 0 <= file["image"].min() <= file["image"].max() <= 1


def test_explain_folder_of_files(xp):
    """explain and evaluate process the valid images and count the others."""
    for number, (name, content, _) in enumerate(FILES.values()):
        write(f"{number:02d}{name}", content)
    images = {key: row for key, row in FILES.items() if Path(row[0]).suffix not in ("", ".npy")}
    bad = sum(bool(error) for _, _, error in images.values())
    ran = xp(*EXPLAIN, "in")
    assert ran.code == 5
    assert len([line for line in read_messages(ran.err) if "error:" in line]) == bad
    assert len(list(Path("out").rglob("*.npz"))) == len(images) - bad
    (summary,) = xp("evaluate", "in", *TINY, "-a", "random", "-M", "deletion:steps=2", "-o", "run", "--json").records
    assert (summary["items"]["failed"], summary["items"]["evaluated"]) == (bad, len(images) - bad)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_image_applies_orientation(orientation):
    """The stored pixels are transposed inversely and saved without loss."""
    upright = Image.fromarray(DRAWN)
    names = ["FLIP_LEFT_RIGHT", "FLIP_TOP_BOTTOM", "ROTATE_90", "ROTATE_180", "ROTATE_270", "TRANSPOSE", "TRANSVERSE"]
    inverse = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = upright if inverse is None else upright.transpose(Image.Transpose[names[inverse]])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert np.array_equal(np.asarray(decode_image(encode_image(stored, "PNG", exif=exif), "a.png")), DRAWN)


def test_pillow_warnings_name_every_image(xp, monkeypatch):
    """A warning with the same text is printed for each image, once, on one line, and not with -q."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    for name in ("a.png", "b.png", "c.png"):
        write(name, PNG)  # 1200 pixels
    large = encode_image(Image.fromarray(DRAWN).resize((40, 50)), "PNG")
    write("a.png", large)
    write("b.png", large)
    lines = read_messages(xp(*EXPLAIN, "in").err)
    for name in ("a.png", "b.png"):
        assert len([line for line in lines if line.startswith(f"xplain: warning: 'in/{name}': Image size (2000 ")]) == 1
    assert not any("c.png" in line for line in lines)
    assert xp(*EXPLAIN, "in", "-q", "--overwrite").err == ""


def test_preprocess_long_thin_image():
    """A 20000 x 1 image would be 5 120 000 x 256 after the resize; only its center is resized."""
    ramp = np.linspace(0, 255, 2000).astype(np.uint8)
    thin = Image.fromarray(np.stack([np.broadcast_to(ramp, (8, 2000))] * 3, axis=2))
    whole = thin.resize((2000 * 64 // 8, 64), Image.Resampling.BICUBIC)
    left = round((whole.width - 56) / 2)
    expected = np.asarray(whole.crop((left, 4, left + 56, 60)), dtype=np.float32).transpose(2, 0, 1) / 255
    pixels = preprocess(thin, Preprocessing((56, 56), 64)).numpy()
    assert np.abs(pixels - expected).max() <= 1 / 255 + 1e-6


def test_explain_skips_pipes(xp):
    Path("in").mkdir()
    os.mkfifo("in/a.png")
    ran = xp(*EXPLAIN, "in/a.png")
    assert ran.code == 3
    assert "is a named pipe" in read_messages(ran.err)[0]
    write("b.png", PNG)
    ran = xp(*EXPLAIN, "in")
    assert (ran.code, read_messages(ran.err)) == (0, [])


def test_explain_circular_links(xp):
    write("a.png", PNG)
    Path("in/loop.png").symlink_to("loop.png")
    Path("in/deep").symlink_to(Path("in").resolve(), target_is_directory=True)
    Path("in/folder.png").mkdir()
    Path("in/folder.png/b.png").write_bytes(PNG)
    ran = xp(*EXPLAIN, "in")
    assert sorted(Path("out").rglob("*.npz")) == [Path("out/a.random.raw.npz"), Path("out/folder.png/b.random.raw.npz")]
    assert ran.code == 5
    link, failure, _ = read_messages(ran.err)
    assert "skipped 1 link to a folder that contains the link" in link
    assert "loop.png" in failure
    ran = xp(*EXPLAIN, "in/loop.png")
    assert ran.code == 3
    assert len(read_messages(ran.err)) == 1


def test_explain_shrinking_file(xp, monkeypatch):
    read_bytes = Path.read_bytes
    path = write("a.png", PNG)
    monkeypatch.setattr(Path, "read_bytes", lambda self: read_bytes(self)[: len(PNG) // 3 if self == path else None])
    ran = xp(*EXPLAIN, path)
    assert ran.code == 3
    assert "is damaged" in read_messages(ran.err)[0]


def test_read_image_unreadable_file(xp, monkeypatch):
    path = write("a.png", PNG)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # chmod does not keep root out
    with pytest.raises(xplain.core.errors.InputError, match="Permission denied"):
        xplain.read_image(path)
