"""Tests of xplain.data.folders and xplain.data.globs: links, loops, and what is skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers.folders import make_files
from xplain.core.errors import ModelNote
from xplain.data.annotations import read_annotations
from xplain.data.folders import SkippedFiles, is_output_folder, walk_files, walk_images
from xplain.data.sources import find_images
from xplain.data.splits import find_entries

BOX = (
    "<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
    "</object></annotation>"
)


def link(name: str, target: str) -> None:
    """Make a link to a folder, by its absolute path."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).symlink_to(Path(target).absolute(), target_is_directory=True)


def walk(root: str) -> list[str]:
    return [path.as_posix() for path in walk_images(Path(root), SkippedFiles())]


def test_walk_images_follows_links(folder):
    make_files(folder, "full/wolf/1.png", "full/wolf/deep/2.jpg", "far/3.png", "set/own.png")
    link("set/fox", "full/wolf")
    link("set/den/inner", "far")
    link("entry", "set")
    expected = ["own.png", "den/inner/3.png", "fox/1.png", "fox/deep/2.jpg"]
    assert walk("set") == [f"set/{name}" for name in expected]
    assert walk("entry") == [f"entry/{name}" for name in expected]


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ({"set/a/self": "set/a"}, ["set/a/1.png", "set/b/2.png"]),
        ({"set/a/top": "set"}, ["set/a/1.png", "set/b/2.png"]),
        ({"set/a/outside": "."}, ["set/a/1.png", "set/b/2.png"]),
        (
            {"set/a/other": "set/b", "set/b/other": "set/a"},
            ["set/a/1.png", "set/a/other/2.png", "set/b/2.png", "set/b/other/1.png"],
        ),
        ({"set/c": "far", "far/up": "set"}, ["set/a/1.png", "set/b/2.png", "set/c/3.png"]),
    ],
)
def test_walk_images_does_not_run_in_circles(folder, links, expected):
    make_files(folder, "set/a/1.png", "set/b/2.png", "far/3.png")
    for name, target in links.items():
        link(name, target)
    skipped = SkippedFiles()
    assert [path.as_posix() for path in walk_images(Path("set"), skipped)] == expected
    assert skipped.loops
    assert [reason.split(" link")[0] for reason in skipped.reasons()] == [f"skipped {len(skipped.loops)}"]


def test_walk_images_keeps_names_of_both_ways(folder):
    """A link to a folder of the same walk gives its images a second name, as torchvision's ImageFolder does."""
    make_files(folder, "set/a/1.png")
    link("set/alias", "set/a")
    assert walk("set") == ["set/a/1.png", "set/alias/1.png"]


@pytest.mark.filterwarnings("ignore::xplain.core.errors.ModelNote")
def test_recursive_glob_follows_links_once(folder):
    make_files(folder, "set/a/1.png", "far/3.png", "set/.hidden/4.png", "set/a/notes.txt")
    link("set/far", "far")
    for i in range(20):  # pathlib and glob would visit 2^20 paths or more
        link(f"set/a/loop{i}", "set")
    names = ["set/a/1.png", "set/far/3.png"]
    assert [str(source.path) for source in find_images(["set/**/*.png"])] == names
    assert [str(source.path) for source in find_images(["s*/**/**/*.png"])] == names
    assert [str(source.path) for source in find_images([f"{folder}/set/**/[13].png"])] == [
        f"{folder}/{n}" for n in names
    ]
    assert [str(source.path) for source in find_images(["**/1.png"])] == names[:1]
    assert [str(source.path) for source in find_images(["set/**"])] == [
        "set/a/1.png",
        "set/a/notes.txt",
        "set/far/3.png",
    ]


def test_broken_links_fail_when_read(folder):
    make_files(folder, "set/1.png")
    Path("set/gone.png").symlink_to("nowhere.png")
    Path("set/turn.png").symlink_to("turn.png")
    Path("set/gone").symlink_to("nowhere")
    assert walk("set") == ["set/1.png", "set/gone.png", "set/turn.png"]
    with pytest.warns(ModelNote, match=r"^skipped 1 broken link: 'set/gone'$"):
        find_images(["set"])


def test_boxes_and_training_sets_follow_links(folder):
    for name in ("boxes/1.xml", "far/2.xml"):
        make_files(folder, name)
        Path(name).write_text(BOX)
    link("boxes/more", "far")
    assert sorted(row.name for row in read_annotations("boxes").rows) == ["1", "more/2"]
    make_files(folder, *(f"full/{c}/{i}.png" for c in "ab" for i in range(3)))
    link("part/train", "full")
    link("part/test/a", "full/a")
    link("part/test/b", "full/b")
    train, test, classes, _ = find_entries("part", 0)
    assert (len(train), len(test), classes) == (6, 6, ("a", "b"))


def test_unread_images_are_counted_in_one_note(folder):
    make_files(
        folder, "d/1.png", "d/a/2.HEIC", "d/a/3.heic", "d/4.jpe", "d/5.dcm", "d/.6.tga", "d/readme.md", "e/7.tga"
    )
    with pytest.warns(ModelNote) as notes:
        assert len(find_images(["d", "e/7.tga"])) == 2
    (note,) = notes
    text = str(note.message)
    assert text.startswith("4 files that look like images are not read (2 .heic, ")
    assert "pip install pillow-heif" in text
    assert "convert them to PNG" in text


def test_training_set_has_one_note(folder):
    make_files(
        folder, *(f"d/{part}/a/{i}.{suffix}" for part in ("train", "test") for i, suffix in ((1, "png"), (2, "jp2")))
    )
    with pytest.warns(ModelNote) as notes:
        find_entries("d", 0)
    assert [str(note.message).split(" are")[0] for note in notes] == ["2 files that look like images"]


def test_is_output_folder(folder):
    make_files(folder, "xplain-out/a.png", "photos/a.png", "empty.txt", "run/run.json", "class/run.json", "class/1.png")
    Path("empty").mkdir()
    for name in ("run", "class"):
        Path(name, "run.json").write_text('{"fingerprint": {}, "methods": {}, "metrics": {}}')
    names = ("xplain-out", "photos", "empty", "run", "class")
    assert [name for name in names if is_output_folder(Path(name))] == ["xplain-out", "run"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_walk_images_does_not_open_pipes(folder):
    make_files(folder, "d/1.png")
    os.mkfifo("d/2.png")
    assert walk("d") == ["d/1.png"]


def test_walk_files_follows_links(folder):
    make_files(folder, "d/b/1.txt", "d/.a/2", "far/3")
    link("d/far", "far")
    link("d/b/loop", "d")
    assert [path.as_posix() for path in walk_files(Path("d"))] == ["d/.a/2", "d/b/1.txt", "d/far/3"]
