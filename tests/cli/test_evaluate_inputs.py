"""Errors of ``xplain evaluate`` for data sets, labels and run directories: one line, with an exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import SAMPLES, TINY

QUICK = (*TINY, "-M", "deletion:steps=2", "-a", "sm", "-o", "run")


def make(files: dict[str, str | None]) -> None:
    """Write files with these texts. None: a photograph; a name that ends in a slash: a folder."""
    for name, text in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif text is None:
            shutil.copy(SAMPLES / "cat.jpg", path)
        else:
            path.write_text(text, "utf-8")


FLAT = {"d/a.jpg": None, "d/b.jpg": None}


@pytest.mark.parametrize(
    ("files", "args", "code", "text"),
    [
        ({"d/": ""}, ["d"], 3, "no images found in the directory 'd'; supported suffixes are "),
        ({"d/cat/": "", "d/readme.txt": "no"}, ["d"], 3, "no images found in the directory 'd'"),
        ({"list.txt": "\n \n"}, ["list.txt"], 3, "the list 'list.txt' contains no path; write one path per line"),
        ({"list.txt": "a.jpg\tcatt\n"}, ["list.txt"], 3, "line 1 of 'list.txt': unknown class 'catt'; did you mean 'cat'?"),
        ({"d/cat/a.jpg": None, "d/dog/b.jpg": None}, ["d"], 3, "folder 'dog' does not match any class"),
        ({"d/n01440764/a.jpg": None}, ["d"], 3, "the folders are named by wnids (n01440764, ...), but the wnids of"),
        (FLAT | {"l.csv": "x.jpg,cat\n"}, ["d", "--labels", "l.csv"], 3, "'l.csv' has no label for 2 of the images, such as 'a.jpg'"),
        (FLAT | {"l.csv": "a.jpg,cat\nb.jpg,dog\n"}, ["d", "--labels", "l.csv"], 3, "line 2 of 'l.csv': unknown class 'dog'"),
        (FLAT | {"l.csv": "a.jpg\nb.jpg\n"}, ["d", "--labels", "l.csv"], 3, "line 1 of 'l.csv' has 1 column: 'a.jpg'; write file,class or"),
        (FLAT | {"l.csv": ""}, ["d", "--labels", "l.csv"], 3, "'l.csv' has no label for 2 of the images, such as 'a.jpg'; add"),
        (FLAT, ["d", "--labels", "none.csv"], 3, "cannot read the labels 'none.csv': "),
        (FLAT, ["d", "--target", "label"], 2, "--target label requires labels; use class folders or --labels"),
        ({"list.txt": "a.jpg"}, ["list.txt", "--labels", "l.csv"], 2, "--labels requires a directory of images, but"),
        (FLAT | {"run": "a file"}, ["d"], 3, "cannot write 'run/items': Not a directory"),
        (FLAT | {"run/run.json": "{}"}, ["d"], 3, "cannot use the run directory 'run': "),
        (FLAT | {"run/run.json": "nonsense"}, ["d"], 3, "cannot use the run directory 'run': "),
        (FLAT | {"run/items": "a file"}, ["d"], 3, "cannot write 'run/items': File exists"),
        (FLAT | {"run/items/0.jsonl": "[1]\n"}, ["d"], 3, "line 1 of 'run/items/0.jsonl' is not a valid record: "),
    ],
)  # fmt: skip
def test_invalid_input_is_one_line(xp, files, args, code, text):
    make(files)
    ran = xp("evaluate", *args, *QUICK)
    assert (ran.code, ran.out) == (code, "")
    assert f"xplain: error: {text}" in ran.err
    assert ran.err.count("\n") == 1
    assert not Path("run/summary.json").exists()


def test_run_accepts_other_data_set(xp):
    make({"d/a.jpg": None, "e/b.jpg": None})
    assert xp("evaluate", "d", *QUICK).code == 0
    ran = xp("evaluate", "e", *QUICK, "--json")
    assert ran.code == 0
    assert {json.loads(line)["key"] for line in Path("run/items/0.jsonl").read_text().splitlines()} == {
        "a.jpg",
        "b.jpg",
    }


def test_all_failed_images_is_input_error(xp):
    make({"d/a.jpg": "nonsense", "d/b.png": "", "list.txt": "d/a.jpg\nd/b.png\nd/none.jpg\n"})
    ran = xp("evaluate", "list.txt", *QUICK, "--json")
    assert ran.code == 3
    assert ran.records[0]["items"] == {"evaluated": 0, "failed": 3, "of": 3}
    assert [row["mean"] for row in ran.records[0]["rows"]] == [None, None]
    for text in (
        "'d/a.jpg' is not an image that Pillow can read",
        "'d/b.png' is empty (0 bytes)",
        "no such file: 'd/none.jpg'",
    ):
        assert text in ran.err
    assert ran.err.count("xplain: error: ") == 3


def test_bad_logits_fail_the_image(xp):
    from PIL import Image

    make({"d/a.jpg": None})
    Image.new("RGB", (32, 32)).save("d/dark.png")
    ran = xp("evaluate", "d", "-m", "python:tests.helpers.factories:broken", "--device", "cpu", *QUICK[4:], "--json")
    assert ran.code == 5
    assert "the logits of 'dark.png' contain NaN or infinity; check the weights" in ran.err
    assert ran.records[0]["items"] == {"evaluated": 1, "failed": 1, "of": 2}


def test_unusual_file_names_are_evaluated(xp):
    names = ["-rf.jpg", "a b.jpg", "é日.jpg", "$(x).jpg", "a;b'\".jpg", "x" * 200 + ".jpg"]
    make(dict.fromkeys(f"d/{name}" for name in names))
    ran = xp("evaluate", "d", *QUICK, "--save-maps", "--json")
    assert ran.code == 0
    assert ran.records[0]["items"]["evaluated"] == len(names)
    assert len(list(Path("run/maps").glob("*.npz"))) == 2 * len(names)
