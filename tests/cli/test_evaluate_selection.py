"""``xplain evaluate --limit``, ``--per-class`` and ``--shard``: the summary covers the images that were selected, and says how many."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_evaluate_changed_input import forget_states, stored, write_images
from tests.conftest import TINY
from tests.helpers.commands import read_messages

RUN = (*TINY, "-M", "deletion:steps=2", "-a", "sm", "-b", "1", "-o")
NAMES = [f"d/{label}/{i}.png" for label in ("cat", "rocket") for i in range(6)]


@pytest.fixture
def data(xp) -> str:
    """A folder with six images of each of two classes."""
    write_images(*NAMES)
    return "d"


def results(summary: dict) -> dict:
    """Return what a summary says of its images."""
    return {key: summary[key] for key in ("items", "rows", "top1", "labelled", "warnings")}


@pytest.mark.parametrize(
    "selection",
    [
        ("--limit", "5"),
        ("--per-class", "2"),
        ("--per-class", "3", "--limit", "4"),
        ("--per-class", "1", "--per-class-order", "first"),
    ],
)
def test_smaller_selection_equals_run_of_its_own(xp, data, selection):
    assert xp("evaluate", data, *RUN, "run").code == 0
    (whole,) = xp("evaluate", data, *RUN, "run", "--json").records
    (part,) = xp("evaluate", data, *RUN, "run", *selection, "--json").records
    (own,) = xp("evaluate", data, *RUN, "own", *selection, "--json").records
    assert results(part) == results(own)
    assert part["unselected"] == 12 - own["items"]["of"] > 0
    assert (whole["unselected"], own["unselected"]) == (0, 0)
    text = f"; {part['unselected']} more images in this run were not selected and not included"
    for name in ("summary.md", "report.html"):
        assert text.removeprefix("; ") in Path("run", name).read_text()
    assert Path("run/summary.md").read_text().splitlines()[0].endswith(text)
    assert "more images in this run" not in Path("own/summary.md").read_text()
    shown = {json.loads(line)["key"] for line in Path("own/items/0.jsonl").read_text().splitlines()}
    (again,) = xp("evaluate", data, *RUN, "run", "--json").records  # and larger again
    assert (results(again), len(shown)) == (results(whole), own["items"]["of"])


def test_removed_files_leave_the_summary(xp, data):
    assert xp("evaluate", data, *RUN, "run").code == 0
    for name in NAMES[::2]:
        Path(name).unlink()
    (part,) = xp("evaluate", data, *RUN, "run", "--json").records
    (own,) = xp("evaluate", data, *RUN, "own", "--json").records
    assert (results(part), part["unselected"]) == (results(own), 6)


def test_failed_images_outside_selection_are_not_counted(xp, data):
    Path(NAMES[0]).write_bytes(b"no image")
    assert xp("evaluate", data, *RUN, "run").code == 5
    ran = xp("evaluate", data, *RUN, "run", "--limit", "1", "--json")  # which is the bad one
    assert (ran.code, ran.records[0]["items"]) == (3, {"evaluated": 0, "failed": 1, "of": 1})
    Path(NAMES[0]).unlink()
    ran = xp("evaluate", data, *RUN, "run", "--json")
    assert (ran.code, ran.records[0]["items"]) == (0, {"evaluated": 11, "failed": 0, "of": 11})


def test_examples_are_of_selected_images(xp, data):
    from xplain.reports.render import read_record

    assert xp("evaluate", data, *RUN, "run").code == 0
    assert xp("evaluate", data, *RUN, "run", "--limit", "2").code == 0
    keys = {(read_record(path) or {})["key"] for path in Path("run/gallery").glob("*.png")}
    assert keys == {"cat/0.png", "rocket/0.png"}


def test_part_of_run_is_named_in_first_line(xp, data):
    ran = xp("evaluate", data, *RUN, "run", "--shard", "1/3")
    assert ran.lines[0].startswith("4 of 12 images from d, ")
    assert Path("run/summary.md").read_text().startswith("4 of 12 images from d, ")
    assert "4 of 12 images from d" in Path("run/report.html").read_text()
    ran = xp("evaluate", data, *RUN, "run", "--shard", "0/3")
    assert ran.lines[0].startswith("8 of 12 images from d, ")
    assert xp("evaluate", data, *RUN, "run").lines[0].startswith("12 images from d, ")


def test_per_class_is_random_and_nested(xp, data):
    keys = {}
    for count, seed in ((2, 0), (4, 0), (2, 1), (2, 2)):
        folder = f"run {count} {seed}"
        assert xp("evaluate", data, *RUN, folder, "--per-class", count, "--seed", seed).code == 0
        keys[count, seed] = [record["key"] for record in stored(folder)]
    first = ["cat/0.png", "cat/1.png", "rocket/0.png", "rocket/1.png"]
    assert set(keys[2, 0]) < set(keys[4, 0])
    assert [len(chosen) for chosen in keys.values()] == [4, 8, 4, 4]
    assert len({tuple(chosen) for seed in (0, 1, 2) for chosen in [keys[2, seed]]} | {tuple(first)}) > 2
    assert xp("evaluate", data, *RUN, "first", "--per-class", "2", "--per-class-order", "first").code == 0
    assert [record["key"] for record in stored("first")] == first


@pytest.mark.parametrize(("begun", "other"), [("random", "first"), ("first", "random")])
def test_other_choice_is_refused(xp, data, begun, other):
    command = ("evaluate", data, *RUN, "run", "--per-class", "2")
    assert xp(*command, "--per-class-order", begun).code == 0
    ran = xp(*command, "--per-class-order", other)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert f"a different per_class: '{begun}' instead of '{other}'" in ran.err
    before = Path("run/items/0.jsonl").read_bytes()
    assert xp(*command).code == 0  # continues as it began
    assert Path("run/items/0.jsonl").read_bytes() == before
    ran = xp(*command, "--seed", "1")
    assert (ran.code, "a different seed: 0 instead of 1" in ran.err) == (2, True)


def test_run_of_earlier_version_keeps_first_images(xp, data):
    assert xp("evaluate", data, *RUN, "run", "--per-class", "2", "--per-class-order", "first").code == 0
    forget_states("run")
    ran = xp("evaluate", data, *RUN, "run", "--per-class", "2")
    assert (ran.code, len(stored("run"))) == (0, 4)
    assert (
        "'run' was begun by an earlier version of xplain, so --per-class takes the first images of each class"
        in ran.err
    )
    assert len(read_messages(ran.err)) == 1
    assert read_messages(xp("evaluate", data, *RUN, "run", "--per-class", "2").err) == []  # the choice is now known


def test_order_requires_per_class(xp, data):
    ran = xp("evaluate", data, *RUN, "run", "--per-class-order", "first")
    assert (ran.code, ran.err) == (2, "xplain: error: --per-class-order requires --per-class; add --per-class N\n")
