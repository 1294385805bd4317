"""Folders, lists and tables as people have them: links, output of xplain inside, byte order marks, other formats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import SAMPLES, TINY

QUICK = (*TINY, "-a", "sm")
EVALUATE = (*QUICK, "-M", "deletion:steps=2")


def photo(name: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(SAMPLES / "cat.jpg", name)


def count_items(run: str) -> int:
    lines = [line for path in Path(run, "items").glob("*.jsonl") for line in path.read_text().splitlines()]
    return sum(json.loads(line)["mark"] == "item" for line in lines)


def list_pictures(folder: str) -> list[str]:
    return sorted(path.as_posix() for path in Path(folder).rglob("*.png"))


def test_evaluate_follows_linked_class_folders(xp):
    for name in ("full/cat/1.jpg", "full/cat/2.jpg", "store/r/3.jpg", "set/espresso/4.jpg"):
        photo(name)
    Path("set/cat").symlink_to(Path("full/cat").absolute())
    Path("set/rocket").symlink_to("../store/r")
    Path("full/cat/round").symlink_to(Path("full").absolute())
    ran = xp("evaluate", "set", *EVALUATE, "-o", "run")
    assert (ran.code, count_items("run")) == (0, 4)
    assert ran.err.count("note: skipped 1 link to a folder that contains the link") == 1
    assert json.loads(Path("run/run.json").read_text())["dataset"]["labelled"] == 4


def test_explain_and_compare_follow_links(xp):
    photo("far/a.jpg")
    Path("d/sub").mkdir(parents=True)
    Path("d/sub/far").symlink_to(Path("far").absolute())
    assert xp("explain", "d", *QUICK).lines == ["xplain-out/sub/far/a.saliency.overlay.png"]
    assert xp("compare", "d", *QUICK, "--no-metrics").code == 0
    Path("elsewhere").mkdir()
    shutil.copy(SAMPLES / "rocket.jpg", "elsewhere/b.jpg")
    Path("references/more").mkdir(parents=True)
    Path("references/more/linked").symlink_to(Path("elsewhere").absolute())
    assert xp("explain", "d", *TINY, "-a", "eg:samples=2,baselines=references").code == 0


@pytest.mark.parametrize("output", [(), ("-o", "results"), ("-o", "."), ("-o", "a/deep")])
def test_explain_twice_in_the_folder_of_the_images(xp, output):
    photo("a/1.jpg")
    photo("2.png")
    first = xp("explain", ".", *QUICK, *output)
    pictures = list_pictures(".")
    second = xp("explain", ".", *QUICK, *output)
    assert (first.code, second.code, second.lines) == (0, 0, first.lines)
    assert list_pictures(".") == pictures
    assert second.err.startswith("xplain: note: skipped output of xplain: ")
    files = sorted(path.name for path in Path().iterdir())  # as the shell expands *
    assert xp("explain", *files, *QUICK, *output).code == 0
    assert len(list_pictures(".")) <= 2 * len(pictures) - 1  # no picture of a picture


@pytest.mark.parametrize("output", [(), ("-o", "run"), ("-o", "cat/run")])
def test_evaluate_twice_in_the_folder_of_the_images(xp, method_calls, output):
    for name in ("cat/1.jpg", "cat/2.jpg", "rocket/3.jpg"):
        photo(name)
    xp("explain", ".", *QUICK, "-o", "why")
    xp("compare", "cat", *QUICK, "-a", "ig:steps=2", "--no-metrics", "-o", "figures")
    first = xp("evaluate", ".", *EVALUATE, *output)
    del method_calls.sizes[:]
    second = xp("evaluate", ".", *EVALUATE, *output)
    assert (first.code, second.code, second.out) == (0, 0, first.out)
    assert method_calls.sizes == []
    assert second.out.startswith("3 images ")


def test_compare_twice_in_the_folder_of_the_images(xp, method_calls):
    photo("d/1.jpg")
    for output in ("d", "d/figures"):
        arguments = ("compare", "d", *QUICK, "-a", "ig:steps=2", "--no-metrics", "-o", output)
        assert xp(*arguments).code == 0
        del method_calls.sizes[:]
        ran = xp(*arguments)
        assert (ran.code, method_calls.sizes) == (0, [])
        assert len(json.loads(Path(output, "compare.json").read_text())["rows"]) == 1


def test_roar_twice_in_the_folder_of_the_images(xp):
    for name in (f"{part}/{c}/{i}.jpg" for part in ("train", "test") for c in "ab" for i in range(2)):
        photo(name)
    roar = ("-a", "sm", "-M", "roar:fractions=50,trials=1,epochs=1,size=8")
    first = xp("evaluate", ".", "--device", "cpu", *roar, "-o", "train/run")
    second = xp("evaluate", ".", "--device", "cpu", *roar, "-o", "train/run")
    assert (first.code, second.code, second.out) == (0, 0, first.out)


def test_box_folder_with_output_inside_is_unchanged(xp, method_calls):
    """The digest of a folder of boxes does not change with the output of the command."""
    photo("voc/a.jpg")
    box = "<bndbox><xmin>100</xmin><ymin>50</ymin><xmax>350</xmax><ymax>250</ymax></bndbox>"
    Path("voc/a.xml").write_text(f"<annotation><object><name>cat</name>{box}</object></annotation>")
    arguments = ("evaluate", "voc", *QUICK, "-M", "pointing-game:boxes=voc", "-o", "voc/run", "--target", "auto")
    codes = [xp(*arguments).code]
    xp("explain", "voc", *QUICK, "--save", "raw", "-o", "voc/maps")
    del method_calls.sizes[:]
    codes.append(xp(*arguments).code)
    assert codes[0] == codes[1]
    assert method_calls.sizes == []


@pytest.mark.parametrize("output", ["d", "./d", "d/cat"])
def test_evaluate_into_the_images_is_refused(xp, output):
    photo("d/cat/1.jpg")
    ran = xp("evaluate", "d", *EVALUATE, "-o", output)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"xplain: error: the output '{Path(output)}' is ")
    assert ran.err.endswith("; choose another --output\n")
    assert list(Path().rglob("*.json")) == []


def test_other_formats_are_noted_once(xp):
    for name in ("d/cat/1.jpg", "d/rocket/2.jpg"):
        photo(name)
    for name in ("d/cat/3.heic", "d/cat/4.HEIC", "d/rocket/5.tga"):
        Path(name).write_bytes(b"x")
    for arguments in (
        ("evaluate", "d", *EVALUATE, "-o", "run"),
        ("evaluate", "d", *EVALUATE, "-m", "python:tests.helpers.factories:single", "-o", "runs"),
        ("explain", "d", *QUICK),
        ("compare", "d", *QUICK, "--no-metrics"),
    ):
        ran = xp(*arguments)
        assert ran.code == 0
        assert ran.err.count("note: 3 files that look like images are not read (2 .heic, 1 .tga;") == 1
        assert "pip install pillow-heif" in ran.err
    assert xp("explain", "d", *QUICK, "-q").err == ""


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_every_text_input_has_a_byte_order_mark(xp, encoding):
    photo("d/a\x85.jpg")
    photo("d/b\u2028.jpg")
    texts = {
        "list.txt": "d/a\x85.jpg\tcat\r\nd/b\u2028.jpg\trocket\r\n",
        "labels.csv": "a\x85.jpg,cat\r\nb\u2028.jpg,rocket\r\n",
        "boxes.csv": "a\x85.jpg,100,50,350,250\r\nb\u2028.jpg,100,50,350,250\r\n",
        "classes.txt": "cat\r\nespresso\r\nrocket\r\nastro\u2028naut\r\nnothing\r\n",
        "c.toml": "seed = 3\r\n",
        "paths.txt": "d/a\x85.jpg\r\nd/b\u2028.jpg\r\n",
    }
    for name, text in texts.items():
        Path(name).write_bytes(text.encode(encoding))
    ran = xp("explain", "@paths.txt", *QUICK, "--config", "c.toml", "--classes", "classes.txt", "--json")
    assert [json.loads(line)["seed"] for line in ran.out.removesuffix("\n").split("\n")] == [3, 3]
    boxes = ("-M", "pointing-game:boxes=boxes.csv")
    for arguments in (("list.txt", "-o", "r1"), ("d", "--labels", "labels.csv", "-o", "r2")):
        ran = xp("evaluate", *QUICK, *boxes, "--target", "label", *arguments)
        assert (ran.code, ran.out[:9]) == (0, "2 images ")


def test_null_reads_the_output_of_find(xp):
    photo("d/a\nb.jpg")
    photo("d/ c")
    Path("list").write_bytes(b"d/a\nb.jpg\0d/ c\0")
    ran = xp("explain", "--files-from", "list", "-0", *QUICK)
    assert (ran.code, len(list_pictures("xplain-out"))) == (0, 2)
    assert xp("compare", "--files-from", "list", "--null", *QUICK, "--no-metrics").code == 0
    ran = xp("explain", "d", "-0", *QUICK)
    assert (ran.code, ran.err) == (2, "xplain: error: --null requires --files-from; add --files-from FILE or -\n")
