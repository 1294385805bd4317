"""Tests of xplain.core.run_store."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT
from xplain.core import run_store
from xplain.core.errors import InputError, UsageError
from xplain.core.run_store import RunStore, StoredItem, read_records, read_run

RUN = {"fingerprint": {"seed": 0}, "methods": {"a": {}}, "metrics": {"b": {}}}


def record(key: str, mark: str = "m", **more: object) -> dict:
    return {"key": key, "mark": mark, **more}


def read_keys(folder: Path) -> list[str]:
    return [entry["key"] for entry in read_records(folder)]


def test_append_and_read_records(tmp_path):
    with RunStore.open(tmp_path, 0, RUN) as store:
        store.append([record("a", value=0.1), record("b/é\udc80", value=None)])
        store.append([])
        assert store.has("a", "m")
        assert not store.has("a", "n")
    description, records = read_run(tmp_path)
    assert description == RUN
    assert list(records) == [record("a", value=0.1), record("b/é\udc80", value=None)]


def test_has_curve_requires_a_curve(tmp_path):
    with RunStore.open(tmp_path, 0, RUN) as store:
        store.append([record("a", curve=[1.0, 0.5]), record("b", curve=None), record("c")])
        store.append([record("a", "n")])
    for opened in (store, RunStore.open(tmp_path, 1, RUN)):
        assert [opened.has_curve(key, "m") for key in "abcd"] == [True, False, False, False]
        assert not opened.has_curve("a", "n")


def test_duplicate_record_is_read_once(tmp_path):
    for rank in (0, 1):
        with RunStore.open(tmp_path, rank, RUN | {"methods": {}}) as store:
            store.append([record("a", value=rank), record("a", "n", value=rank)])
    assert list(read_records(tmp_path)) == [record("a", value=0), record("a", "n", value=0)]


def test_read_batches_returns_end_positions(tmp_path):
    with RunStore.open(tmp_path, 0, RUN) as store:
        store.append([record("a")])
        store.append([record("b"), record("c")])
    path = tmp_path / "items" / "0.jsonl"
    batches = [([entry["key"] for entry in batch], end) for batch, end in run_store._read_batches(path)]
    first = len(path.read_bytes().splitlines(keepends=True)[0])
    assert batches == [(["a"], first), (["b", "c"], path.stat().st_size)]


def test_description_is_written_under_lock(tmp_path, monkeypatch):
    calls, lock_directory, write = [], run_store.lock_directory, run_store.write_json

    @contextmanager
    def recorded_lock(folder, *, wait):
        assert (folder, wait) == (tmp_path / "items", True)
        with lock_directory(folder, wait=wait):
            calls.append("lock")
            yield
        calls.append("unlock")

    monkeypatch.setattr(run_store, "lock_directory", recorded_lock)
    monkeypatch.setattr(run_store, "write_json", lambda *args: (calls.append("write"), write(*args)))
    RunStore.open(tmp_path, 0, RUN).__exit__()
    assert calls == ["lock", "write", "unlock"]


@pytest.mark.parametrize("cut", range(1, 80, 7))
def test_incomplete_batch_is_dropped(tmp_path, cut):
    with RunStore.open(tmp_path, 0, RUN) as store:
        store.append([record("a")])
        store.append([record("b"), record("c"), record("d")])
    path = tmp_path / "items" / "0.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_keys(tmp_path) == ["a"]
    with RunStore.open(tmp_path, 0, RUN) as store:
        assert not store.has("b", "m")
        store.append([record("b")])
    assert read_keys(tmp_path) == ["a", "b"]
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_incomplete_batch_of_other_rank_is_skipped(tmp_path):
    with RunStore.open(tmp_path, 1, RUN) as store:
        store.append([record("a"), record("b")])
    (tmp_path / "items" / "1.jsonl").open("a").write('{"key": "c", "ma')
    with RunStore.open(tmp_path, 0, RUN) as store:
        assert store.has("b", "m")
        store.append([record("c")])
    assert read_keys(tmp_path) == ["c", "a", "b"]


def test_damaged_line_raises_with_number(tmp_path):
    with RunStore.open(tmp_path, 0, RUN) as store:
        store.append([record("a")])
    (tmp_path / "items" / "0.jsonl").open("a").write("nonsense\n")
    with pytest.raises(InputError, match=r"line 2 of .*0\.jsonl' is not a valid record: .*; remove the line"):
        read_keys(tmp_path)
    with pytest.raises(InputError, match="line 2 of"):
        RunStore.open(tmp_path, 0, RUN)


def test_second_writer_of_rank_raises(tmp_path):
    with RunStore.open(tmp_path, 0, RUN) as first:
        first.append([record("a")])
        with pytest.raises(
            InputError, match=r"another process is writing to .*0\.jsonl'; wait for it to finish or use another"
        ):
            RunStore.open(tmp_path, 0, RUN | {"methods": {"c": {}}})
        assert read_run(tmp_path)[0] == RUN  # the rejected description is not written
        with RunStore.open(tmp_path, 1, RUN) as other:
            other.append([record("b")])
        first.append([record("c")])
    with RunStore.open(tmp_path, 0, RUN):
        assert read_keys(tmp_path) == ["a", "c", "b"]


def test_killed_process_releases_lock(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from xplain.core.run_store import RunStore\n"
        f"store = RunStore.open(Path(sys.argv[1]), 0, {RUN!r}); store.append([{record('a')!r}]); print('open', flush=True)\n"
        "sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    assert child.stdout.readline() == "open\n"
    with pytest.raises(InputError, match="another process"):
        RunStore.open(tmp_path, 0, RUN)
    child.kill()
    child.wait()
    with RunStore.open(tmp_path, 0, RUN) as store:
        assert store.has("a", "m")


def test_other_fingerprint_keeps_run_unchanged(tmp_path):
    RunStore.open(tmp_path, 0, RUN).__exit__()
    before = sorted(tmp_path.rglob("*")), (tmp_path / "run.json").read_text()
    with pytest.raises(
        UsageError,
        match="contains a run with a different seed: 0 instead of 1; use the same settings or another --output",
    ):
        RunStore.open(tmp_path, 3, RUN | {"fingerprint": {"seed": 1}})
    assert (sorted(tmp_path.rglob("*")), (tmp_path / "run.json").read_text()) == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ({}, {"device": "cuda"}, "a different device: 'cpu' instead of 'cuda'"),
        ({"device": "cuda"}, {}, "a different device: 'cuda' instead of 'cpu'"),
        ({"b": 1}, {}, "a different b: 1 instead of None"),  # only the existing run has it
        ({}, {"b": 1}, "a different b: None instead of 1"),
        ({"b": 1, "c": 1}, {"b": 2, "c": 2}, "a different b: 1 instead of 2"),
        ({"b": (1, 2)}, {"b": [1, 3]}, r"a different b: \[1, 2\] instead of \[1, 3\]"),
    ],
)
def test_first_fingerprint_difference_is_named(tmp_path, old, new, message):
    RunStore.open(tmp_path, 0, RUN | {"fingerprint": old}).__exit__()
    with pytest.raises(UsageError, match=message):
        RunStore.open(tmp_path, 0, RUN | {"fingerprint": new})
    RunStore.open(tmp_path, 0, RUN | {"fingerprint": old}).__exit__()


def test_undecided_fingerprint_is_set_once(tmp_path):
    RunStore.open(tmp_path, 0, RUN | {"fingerprint": {"model": None}}).__exit__()
    RunStore.open(tmp_path, 0, RUN | {"fingerprint": {"model": "a"}}).__exit__()
    assert read_run(tmp_path)[0]["fingerprint"] == {"model": "a"}
    with pytest.raises(UsageError, match="a different model: 'a' instead of 'b'"):
        RunStore.open(tmp_path, 0, RUN | {"fingerprint": {"model": "b"}})


@pytest.mark.parametrize("key", run_store.LATE_ENTRIES)
def test_late_entries_may_be_unknown(tmp_path, key):
    """A run of an earlier version lacks them; once known, they are kept and must agree."""
    for entries in ({}, {key: None}, {key: "x"}, {}, {key: None}, {key: "x"}):
        RunStore.open(tmp_path, 0, RUN | {"fingerprint": {"seed": 0} | entries}).__exit__()
    assert read_run(tmp_path)[0]["fingerprint"] == {"seed": 0, key: "x"}
    with pytest.raises(UsageError, match=f"a different {key}: 'x' instead of 'y'"):
        RunStore.open(tmp_path, 0, RUN | {"fingerprint": {"seed": 0, key: "y"}})


def test_other_references_are_refused(tmp_path):
    for references in ({}, {"references": "x"}, {"references": "x"}):
        RunStore.open(tmp_path, 0, RUN | {"methods": {"a": references}}).__exit__()
    with pytest.raises(UsageError, match="holds a run with other baseline images of a; restore the images or"):
        RunStore.open(tmp_path, 0, RUN | {"methods": {"a": {"references": "y"}}})


def test_refused_check_keeps_description_and_lock(tmp_path):
    def refuse(store: RunStore) -> None:
        assert store.items == {"a": StoredItem("5", 1)}
        raise UsageError("no")

    with RunStore.open(tmp_path, 0, RUN) as store:
        store.append([record("a", "item", sha256="5", label=1)])
    other = RUN | {"methods": {"c": {}}}
    with pytest.raises(UsageError, match="no"):
        RunStore.open(tmp_path, 0, other, refuse)
    assert read_run(tmp_path)[0] == RUN
    with RunStore.open(tmp_path, 0, other, lambda store: store.append([record("b")])):  # the lock is free again
        assert set(read_run(tmp_path)[0]["methods"]) == {"a", "c"}
    assert read_keys(tmp_path) == ["a", "b"]


def test_states_of_files_are_remembered_with_their_hash(tmp_path):
    """Records of all ranks count, in any order; those of another hash do not."""
    with RunStore.open(tmp_path, 1, RUN) as store:
        store.append([record("a", "item", sha256="5", label=None, file=[1, 2, 3]), record("b", "item", sha256="6")])
    with RunStore.open(tmp_path, 0, RUN) as store:
        store.append([record("a", "file", sha256="5", file=(4, 5, 6)), record("a", "file", sha256="7", file=(7, 8, 9))])
    for opened in (store, RunStore.open(tmp_path, 2, RUN)):
        assert [opened.is_unchanged("a", state) for state in ((1, 2, 3), (4, 5, 6), (7, 8, 9), (1, 2, 4))] == [
            True,
            True,
            False,
            False,
        ]
        assert not opened.is_unchanged("b", (1, 2, 3))
        assert not opened.is_unchanged("c", (1, 2, 3))


def test_earlier_methods_stay_first(tmp_path):
    RunStore.open(tmp_path, 0, RUN).__exit__()
    RunStore.open(tmp_path, 0, RUN | {"methods": {"c": {"new": 1}}}).__exit__()
    assert list(read_run(tmp_path)[0]["methods"].items()) == [("a", {}), ("c", {"new": 1})]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"fingerprint"', "\x00"])
def test_open_rejects_invalid_description(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match="cannot use the run directory"):
        RunStore.open(tmp_path, 0, RUN)


def test_open_in_unwritable_folder_raises(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/run/items': Not a directory; choose another --output"):
        RunStore.open(tmp_path / "file" / "run", 0, RUN)


def test_full_disk_keeps_earlier_records(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunStore.open(tmp_path, 0, RUN) as store:
        store.append([record("a")])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # a larger write stops in the middle
        try:
            with pytest.raises(InputError, match=r"cannot write .*0\.jsonl': .*; free disk space"):
                store.append([record("b" * 30), record("c" * 30), record("d" * 30)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not store.has("b" * 30, "m")
    assert (tmp_path / "items" / "0.jsonl").stat().st_size == 100
    with RunStore.open(tmp_path, 0, RUN):
        assert read_keys(tmp_path) == ["a"]


@pytest.mark.parametrize("missing", ["fcntl", "locks"])
def test_append_works_without_locks(tmp_path, monkeypatch, missing):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if missing == "fcntl":
        monkeypatch.setitem(sys.modules, "fcntl", None)  # Windows
    else:
        monkeypatch.setattr("fcntl.flock", refuse)
    with RunStore.open(tmp_path, 0, RUN) as store:
        store.append([record("a")])
    assert read_keys(tmp_path) == ["a"]
