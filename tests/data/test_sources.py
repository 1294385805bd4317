"""Tests of xplain.data.sources."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from tests.helpers.folders import make_files
from xplain.core.errors import InputError, UsageError
from xplain.data.sources import find_images


def stems(sources) -> list[str]:
    return [source.stem for source in sources]


def test_named_files_need_no_suffix(folder):
    make_files(folder, "b.jpg", "sub/a.dat")
    sources = find_images(["b.jpg", "sub/a.dat"])
    assert [(str(source.path), source.stem, source.folder) for source in sources] == [
        ("b.jpg", "b", folder.name),
        ("sub/a.dat", "a", "sub"),
    ]


def test_directory_is_searched_recursively(folder):
    make_files(
        folder, "d/z.PNG", "d/b/2.jpeg", "d/b/1.jpg", "d/notes.txt", "d/.hidden.png", "d/.cache/3.png", "d/b/.4.jpg"
    )
    sources = find_images(["d"])
    assert sorted(stems(sources)) == ["b/1", "b/2", "z"]
    assert stems(sources) == stems(find_images(["d"]))
    assert {source.stem: source.folder for source in sources} == {"z": "d", "b/1": "b", "b/2": "b"}


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "avif"])
def test_directory_finds_every_suffix(folder, suffix):
    make_files(folder, f"d/a.{suffix}", "d/a.npz", "d/jpg")
    assert [source.path.name for source in find_images(["d"])] == [f"a.{suffix}"]


def test_globs_expand_in_order(folder):
    make_files(folder, "d/b.png", "d/a.png", "d/c.jpg", "d/e/f.png", "d/.x.png")
    assert stems(find_images(["d/*.png"])) == ["a", "b"]
    assert stems(find_images(["d/**/*.png"])) == ["a", "b", "f"]
    assert stems(find_images([str(folder / "d" / "[bc].*")])) == ["b", "c"]


def test_existing_file_is_no_glob(folder):
    make_files(folder, "img[1].png", "img1.png")
    assert [source.path.name for source in find_images(["img[1].png"])] == ["img[1].png"]


def test_glob_expands_matching_directories(folder):
    make_files(folder, "d1/a.png", "d2/b.png")
    assert stems(find_images(["d*"])) == ["a", "b"]


def test_lists_of_paths_are_read(folder):
    make_files(folder, "a.png", "b.png", "d/c.png")
    Path("list.txt").write_text("b.png\n\nd\r\nmissing.png\n")
    for sources in (find_images(["@list.txt"]), find_images([], files_from="list.txt")):
        assert stems(sources) == ["b", "c", "missing"]
    assert stems(find_images(["a.png"], files_from="list.txt")) == ["a", "b", "c", "missing"]


def test_existing_file_is_no_list(folder):
    make_files(folder, "@a.png")
    assert stems(find_images(["@a.png"])) == ["@a"]


def test_standard_input_is_list_or_image(folder, monkeypatch):
    make_files(folder, "a.png", "b.png")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.png\nb.png\n")))
    assert stems(find_images([], files_from="-")) == ["a", "b"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x89PNG...")))
    (source,) = find_images(["-"])
    assert (source.stem, source.name, source.path, source.read()) == ("stdin", "-", None, b"\x89PNG...")


def test_standard_input_cannot_be_both():
    with pytest.raises(UsageError, match="both"):
        find_images(["-"], files_from="-")


def test_missing_file_fails_when_read(folder):
    make_files(folder, "a.png")
    sources = find_images(["a.png", "gone.png"])
    assert stems(sources) == ["a", "gone"]
    with pytest.raises(InputError, match=r"^no such file: 'gone\.png'") as error:
        sources[1].read()
    assert error.value.exit_code == 3


def test_read_of_directory_raises(folder):
    make_files(folder, "a.png")
    (source,) = find_images(["a.png"])
    Path("a.png").unlink()
    Path("a.png").mkdir()
    with pytest.raises(InputError, match=r"'a\.png'"):
        source.read()


def test_repeated_file_is_one_image(folder):
    make_files(folder, "d/a.png")
    assert stems(find_images(["d/a.png", "d", "d/*.png", "./d/a.png"])) == ["a"]


def test_equal_stems_are_made_distinct(folder):
    make_files(folder, "d/a.jpg", "d/a.png", "d/b.png", "e/b.png")
    assert stems(find_images(["d/a.jpg", "d/a.png", "d/b.png"])) == ["a.jpg", "a.png", "b"]
    both = stems(find_images(["d/b.png", "e/b.png"]))
    root = "/".join(folder.parts[1:])
    assert both == [f"{root}/d/b.png", f"{root}/e/b.png"]
    make_files(folder, "d/a.jpg.png")
    unique = stems(find_images(["d"]))
    assert len(set(unique)) == len(unique) == 4


def test_other_spellings_of_path_are_equal(folder):
    make_files(folder, "d/a.png")
    unique = stems(find_images(["d/a.png", str(folder / "d" / "a.png"), "d/../d/a.png"]))
    assert len(set(unique)) == len(unique)


def test_directory_without_images_raises(folder):
    Path("empty").mkdir()
    with pytest.raises(InputError, match=r"no images found in the directory 'empty'; .*\.jpg"):
        find_images(["empty"])


def test_glob_without_match_raises(folder):
    with pytest.raises(InputError, match=r"no file matches 'x/\*\.png'"):
        find_images(["x/*.png"])


def test_no_argument_raises():
    with pytest.raises(UsageError, match="no images specified") as error:
        find_images([])
    assert error.value.exit_code == 2


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_empty_list_raises(folder, content):
    Path("list.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"'list\.txt' contains no path"):
        find_images(["@list.txt"])


def test_unreadable_list_raises(folder):
    with pytest.raises(InputError, match=r"cannot read the list 'gone\.txt'"):
        find_images(["@gone.txt"])
    Path("bin.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"cannot read the list 'bin\.txt'"):
        find_images([], files_from="bin.txt")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission_raises(folder):
    make_files(folder, "a.png")
    Path("a.png").chmod(0)
    (source,) = find_images(["a.png"])
    with pytest.raises(InputError, match="cannot read"):
        source.read()


NAMES = ["a\u2028b.png", "c\x85d.png", "e\x0bf.png", "\x0cg.png", "h\u2029"]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_names_in_lists_end_at_newlines(folder, newline):
    make_files(folder, *NAMES)
    Path("list.txt").write_bytes("".join(name + newline for name in NAMES).encode())
    assert [source.path.name for source in find_images(["@list.txt"])] == NAMES


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_lists_have_byte_order_marks(folder, monkeypatch, encoding):
    content = "ä.png\r\nb.png\r\n".encode(encoding)
    Path("list.txt").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    for files_from in ("list.txt", "-"):
        assert [source.path.name for source in find_images([], files_from)] == ["ä.png", "b.png"]


def test_null_separates_names(folder, monkeypatch):
    names = [b"a\nb.png", b" c.png ", "\ufeffd.png".encode(), b"latin-\xe9.png", b"\x85.png"]
    for name in names:
        Path(os.fsdecode(name)).write_bytes(b"x")
    for content in (b"\0".join(names), b"\0".join(names) + b"\0"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        sources = find_images([], "-", null=True)
        assert [os.fsencode(source.path) for source in sources] == names
        assert [source.read() for source in sources] == [b"x"] * 5
    Path("list.txt").write_bytes(b"".join(name + b"\n" for name in names[3:]))
    assert [os.fsencode(source.path) for source in find_images(["@list.txt"])] == names[3:]


@pytest.mark.parametrize(
    ("content", "null", "text"),
    [
        (b"a.png\0b.png\0", False, "holds NUL bytes; for a list that find -print0 wrote, use --null"),
        (b"a.png\nb.png\n", True, "has lines but no NUL bytes; omit --null"),
        (b"\0\0", True, "contains no path; write one path per NUL byte"),
    ],
)
def test_lists_with_other_separator_raise(folder, content, null, text):
    Path("list.txt").write_bytes(content)
    with pytest.raises(InputError, match=text):
        find_images([], "list.txt", null=null)


def test_null_without_list_raises(folder):
    with pytest.raises(UsageError, match="--null requires --files-from"):
        find_images(["a.png"], null=True)
