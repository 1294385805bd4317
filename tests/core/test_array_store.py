"""Tests of xplain.core.array_store."""

from __future__ import annotations

import re

import numpy as np
import pytest

from xplain.core.array_store import ArrayStore
from xplain.core.errors import InputError
from xplain.reports.render import read_record

HOSTILE = [
    "a/b.jpg", "a-b.jpg", "a b.jpg", "a/b-jpg", "../../etc/passwd", "/abs", "-rf", "--output=x", ".hidden", "..", "", "é/中.png",
    "x" * 500, "x" * 501, "a\nb", "a\0b", "nul", "A/B.jpg", "\udcff.jpg", "a;b|c&d$(e)`f`", "日本", "日木",
]  # fmt: skip


def test_hostile_keys_get_distinct_safe_paths(tmp_path):
    store = ArrayStore(tmp_path / "maps", "attribution")
    for number, key in enumerate(HOSTILE):
        store.save(key, "ig:steps=5/é", "mark", np.full((1, 2, 2), number), {"key": key})
    names = [path.name for path in (tmp_path / "maps").iterdir()]
    assert len(set(map(str.lower, names))) == len(HOSTILE)
    assert all(re.fullmatch(r"[A-Za-z0-9_=,][A-Za-z0-9_=,.-]{0,200}\.npz", name) for name in names)
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]
    for number, key in enumerate(HOSTILE):
        array, record = store.load(key, "ig:steps=5/é", "mark")
        assert (array.dtype, array.tolist(), record) == ("float32", np.full((1, 2, 2), number).tolist(), {"key": key})


def test_is_missing_for_other_mark(tmp_path):
    store = ArrayStore(tmp_path, "curve")
    store.save("a", "m", "one", np.zeros(3), {})
    assert not store.is_missing("a", "m", "one")
    assert store.is_missing("a", "m", "two")
    assert store.load("a", "m", "two") is None


@pytest.mark.parametrize("at", [0, 5, 60, 200, 400, -40, -10])
def test_load_returns_none_for_damaged_file(tmp_path, at):
    store = ArrayStore(tmp_path, "curve")
    store.save("a", "m", "one", np.random.default_rng(0).normal(size=300), {"key": "a"})
    path = store.path("a", "m", "one")
    content = path.read_bytes()
    path.write_bytes(content[:at])
    assert store.load("a", "m", "one") is None
    assert read_record(path) is None
    path.write_bytes(content[:at] + b"\x00\xff\x00\xff" + content[at:][4:])
    loaded = store.load("a", "m", "one")
    assert loaded is None or loaded[1] == {"key": "a"}  # the damaged bytes may be unused


@pytest.mark.parametrize(("at", "value"), [(8, 1), (10, 99)])
def test_load_returns_none_for_unreadable_member(tmp_path, at, value):
    """Sets the flags and the compression type in the archive's directory. Found by make fuzz."""
    store = ArrayStore(tmp_path, "curve")
    store.save("a", "m", "one", np.zeros(3), {"key": "a"})
    path = store.path("a", "m", "one")
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + at] = value
    path.write_bytes(content)
    assert read_record(path) is None
    assert store.load("a", "m", "one") is None


def test_store_without_folder_saves_nothing():
    store = ArrayStore(None, "curve")
    store.save("a", "m", "one", np.zeros(3), {})
    assert not store.is_missing("a", "m", "one")
    assert store.load("a", "m", "one") is None


def test_save_into_unwritable_folder_raises(tmp_path):
    (tmp_path / "maps").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*; choose another --output"):
        ArrayStore(tmp_path / "maps", "curve").save("a", "m", "one", np.zeros(3), {})
