"""Standard output whose encoding lacks characters, such as cp1252 on Windows or ASCII."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys

import pytest

from tests.conftest import SAMPLES, TINY
from xplain.__main__ import _accept_all_characters
from xplain.cli._encoding import ERRORS
from xplain.core.errors import system_error
from xplain.core.papers import to_latex


@pytest.fixture
def run_encoded(xp, monkeypatch):
    """Return a function that runs a command whose stdout has an encoding, and returns its exit code and bytes."""
    from xplain.cli.app import run

    def call(encoding: str, *arguments: object) -> tuple[int, bytes]:
        stream = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding=encoding, newline="\n"))
        _accept_all_characters()
        code = run([str(argument) for argument in arguments])
        sys.stdout.flush()
        return code, stream.getvalue()

    return call


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437", "shift_jis"])
def test_tables_are_printed_in_any_encoding(run_encoded, encoding):
    code, out = run_encoded(encoding, "list", "methods", "--search", "agi")
    assert code == 0
    assert "<= 400 F, <= 800 B" in out.decode(encoding).replace("≤", "<=")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-16"])
@pytest.mark.parametrize("arguments", [("list", "methods", "--json"), ("list", "metrics", "--json")])
def test_json_is_utf8_in_any_encoding(run_encoded, encoding, arguments):
    code, out = run_encoded(encoding, *arguments)
    lines = out.decode("utf-8").splitlines()
    assert code == 0
    assert all(json.loads(line) for line in lines)
    assert not out.isascii()


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_paths_are_the_bytes_of_the_file_system(run_encoded, tmp_path, flags):
    name = "žluť 猫 \udcff.jpg"
    shutil.copy(SAMPLES / "cat.jpg", tmp_path / name)
    code, out = run_encoded("cp1252", "explain", name, *TINY, "-a", "sm", "-o", "out", *flags)
    (written,) = (tmp_path / "out").iterdir()
    path = os.path.join("out", written.name)  # noqa: PTH118
    assert code == 0
    if flags:
        assert json.loads(out)["files"]["overlay"] == path
    else:
        assert out == os.fsencode(path) + b"\n"


def test_bibtex_has_latex_letters_only_where_needed(run_encoded):
    assert 'M{\\"u}ller' in run_encoded("ascii", "cite", "lrp")[1].decode("ascii")
    assert "Müller" in run_encoded("cp1252", "cite", "lrp")[1].decode("cp1252")
    assert to_latex("Çelik, Škoda, Åse, Łoś, Ñu") == "{\\c C}elik, {\\v S}koda, {\\r A}se, {\\L}o{\\'s}, {\\~N}u"


def test_characters_without_replacement_are_escaped():
    assert "a ≥ 猫 \udc80".encode("latin-1", ERRORS) == b"a >= \\u732b \x80"


def test_file_name_that_the_locale_cannot_express_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(UnicodeEncodeError) as raised:
        "kočka".encode("ascii")
    assert "PYTHONUTF8=1" in str(system_error(raised.value))
