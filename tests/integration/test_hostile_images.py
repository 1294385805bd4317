"""Odd and broken images: no traceback, no hang, the right code, one line for each that fails, and the good ones done."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import xplain
from tests.conftest import TINY
from tests.helpers.hostile_inputs import DRAWN, FILES, ORIENTATION, PNG, encode_image
from xplain.data.images import decode_image
from xplain.data.preprocessing import Preprocessing, preprocess

EXPLAIN = ("explain", *TINY, "-a", "random", "-o", "out", "--save", "raw")


def write(name: str, content: bytes) -> Path:
    path = Path("in", name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def one_line_each(err: str) -> list[str]:
    """The lines on stderr, all of which are the command's own."""
    lines = err.splitlines()
    assert all(line.startswith("xplain: ") for line in lines), err
    return lines


@pytest.mark.parametrize("kind", FILES)
def test_each_alone(xp, kind):
    name, content, says = FILES[kind]
    ran = xp(*EXPLAIN, write(name, content))
    lines = one_line_each(ran.err)
    if says:
        assert ran.code == 3
        assert len(lines) == 1
        assert says in lines[0]
        assert ran.out == ""
    else:
        assert (ran.code, lines) == (0, [])
        (written,) = Path("out").rglob("*.npz")
        assert written.resolve().is_relative_to(Path("out").resolve())
        with np.load(written) as file:
            assert np.isfinite(file["attribution"]).all()
            assert 0 <= file["image"].min() <= file["image"].max() <= 1


def test_all_in_one_folder(xp):
    """Good ones are done, bad ones counted, and evaluate agrees with explain on which is which."""
    for number, (name, content, _) in enumerate(FILES.values()):
        write(f"{number:02d}{name}", content)
    suffixed = {key: row for key, row in FILES.items() if Path(row[0]).suffix}
    bad = sum(bool(says) for _, _, says in suffixed.values())
    ran = xp(*EXPLAIN, "in")
    assert ran.code == 5
    assert len([line for line in one_line_each(ran.err) if "error:" in line]) == bad
    assert len(list(Path("out").rglob("*.npz"))) == len(suffixed) - bad
    (summary,) = xp("evaluate", "in", *TINY, "-a", "random", "-M", "deletion:steps=2", "-o", "run", "--json").records
    assert (summary["items"]["failed"], summary["items"]["evaluated"]) == (bad, len(suffixed) - bad)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(orientation):
    """Losslessly: the pixels, not the tag, decide."""
    upright = Image.fromarray(DRAWN)
    names = ["FLIP_LEFT_RIGHT", "FLIP_TOP_BOTTOM", "ROTATE_90", "ROTATE_180", "ROTATE_270", "TRANSPOSE", "TRANSVERSE"]
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = upright if back is None else upright.transpose(Image.Transpose[names[back]])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert np.array_equal(np.asarray(decode_image(encode_image(stored, "PNG", exif=exif), "a.png")), DRAWN)


def test_a_long_thin_image_takes_little_memory_and_gives_the_pixels_of_the_usual_way():
    """20000 x 1 would be 5 120 000 x 256 after the resize; only the centre is made."""
    ramp = np.linspace(0, 255, 2000).astype(np.uint8)
    thin = Image.fromarray(np.stack([np.broadcast_to(ramp, (8, 2000))] * 3, axis=2))
    whole = thin.resize((2000 * 64 // 8, 64), Image.Resampling.BICUBIC)
    left = round((whole.width - 56) / 2)
    expected = np.asarray(whole.crop((left, 4, left + 56, 60)), dtype=np.float32).transpose(2, 0, 1) / 255
    found = preprocess(thin, Preprocessing((56, 56), 64)).numpy()
    assert np.abs(found - expected).max() <= 1 / 255 + 1e-6


def test_pipes_do_not_hang(xp):
    Path("in").mkdir()
    os.mkfifo("in/a.png")
    ran = xp(*EXPLAIN, "in/a.png")
    assert ran.code == 3
    assert "is a pipe" in one_line_each(ran.err)[0]
    write("b.png", PNG)
    ran = xp(*EXPLAIN, "in")
    assert (ran.code, ran.err) == (0, "")


def test_links_in_a_circle_and_folders_with_the_name_of_an_image(xp):
    write("a.png", PNG)
    Path("in/loop.png").symlink_to("loop.png")
    Path("in/deep").symlink_to(Path("in").resolve(), target_is_directory=True)
    Path("in/folder.png").mkdir()
    Path("in/folder.png/b.png").write_bytes(PNG)
    ran = xp(*EXPLAIN, "in")
    assert sorted(Path("out").rglob("*.npz")) == [Path("out/a.random.raw.npz"), Path("out/folder.png/b.random.raw.npz")]
    assert ran.code == 5
    assert "loop.png" in one_line_each(ran.err)[0]
    ran = xp(*EXPLAIN, "in/loop.png")
    assert ran.code == 3
    assert len(one_line_each(ran.err)) == 1


def test_a_file_that_shrinks_while_it_is_read_is_damaged(xp, monkeypatch):
    whole = Path.read_bytes
    path = write("a.png", PNG)
    monkeypatch.setattr(Path, "read_bytes", lambda self: whole(self)[: len(PNG) // 3] if self == path else whole(self))
    ran = xp(*EXPLAIN, path)
    assert ran.code == 3
    assert "is damaged" in one_line_each(ran.err)[0]


def test_an_unreadable_file_is_one_line(xp, monkeypatch):
    path = write("a.png", PNG)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # chmod does not keep root out
    with pytest.raises(xplain.core.errors.InputError, match="Permission denied"):
        xplain.read_image(path)
