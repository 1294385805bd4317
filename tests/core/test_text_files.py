"""Tests of xplain.core.text_files."""

from __future__ import annotations

import codecs

import pytest

from xplain.core.config_file import read_config_file
from xplain.core.errors import InputError
from xplain.core.text_files import decode_text, read_csv_rows, read_lines, split_lines

TEXT = "köln/ä.png\r\n雪.png\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
    ],
)
def test_decode_text_knows_byte_order_marks(content):
    assert decode_text(content) == TEXT


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("é".encode("latin-1"), "not UTF-8 text"),
        (b"\xff\xfea", "not UTF-16 text"),
        ("a".encode("utf-16-le"), "NUL bytes"),
        (b"a\0b", "NUL bytes"),
    ],
)
def test_decode_text_refuses_other_bytes(content, reason):
    with pytest.raises(ValueError, match=reason):
        decode_text(content)


def test_split_lines_ends_lines_at_newlines_only():
    names = ["a\u2028b", "c\x85d", "e\x0bf", "g\x0ch", "i\x1cj\x1dk\x1el", "m\u2029n", "", " o "]
    for newline in ("\n", "\r\n", "\r"):
        assert split_lines(newline.join(names)) == names
        assert split_lines(newline.join(names) + newline) == names
    assert split_lines("") == []
    assert split_lines("\n\n") == ["", ""]


def test_read_csv_rows_keeps_quoted_newlines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes('name,class\r\n\r\n"a\nb.png",1\rc\u2028d.png,2\n'.encode("utf-16"))
    rows = read_csv_rows(path, "the labels", "write CSV")
    assert rows == [["name", "class"], ["a\nb.png", "1"], ["c\u2028d.png", "2"]]


def test_read_lines_names_file_and_hint(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(InputError, match=r"cannot read the names '.*a\.txt': .*No such file.*; write names"):
        read_lines(path, "the names", "write names")
    path.write_bytes(b"\xe9\n")
    with pytest.raises(InputError, match=r"cannot read the names '.*a\.txt': it is not UTF-8 text .*; write names"):
        read_lines(path, "the names", "write names")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_config_file_knows_byte_order_marks(tmp_path, encoding):
    path = tmp_path / "c.toml"
    path.write_bytes('seed = 3\r\n[explain]\r\ntarget = "Käfer"\r\n'.encode(encoding))
    assert read_config_file(path, "explain", ["seed", "target"], ["explain"]) == {"seed": 3, "target": "Käfer"}
