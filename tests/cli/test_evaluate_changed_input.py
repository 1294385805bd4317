"""``xplain evaluate`` in a run whose labels, images or baselines have changed: refused in one line, and nothing is mixed."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import TINY

RUN = (*TINY, "-M", "deletion:steps=2", "-a", "sm", "-o", "run")
BOXES = "a,0,0,9,9,cat\nb,0,0,9,9,espresso\n"


def write_images(*names: str, seed: int = 0) -> None:
    """Write images of noise; files of the same name and suffix .bmp have the same size for every seed."""
    rng = np.random.default_rng(seed)
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(name)


def write_shard(**texts: str) -> None:
    """Write d.tar with one image and one .cls member per key."""
    write_images("tar/x.png")
    content = Path("tar/x.png").read_bytes()
    with tarfile.open("d.tar", "w") as tar:
        for key, text in texts.items():
            for suffix, data in (("png", content), ("cls", text.encode())):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def files(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def stored(folder: str, mark: str = "item") -> list[dict]:
    lines = [line for path in sorted(Path(folder, "items").glob("*")) for line in path.read_text().splitlines()]
    return [record for record in map(json.loads, lines) if record["mark"] == mark]


def forget_states(folder: str) -> None:
    """Make a run as an earlier version wrote it: without states of files and without the late entries of the fingerprint."""
    for path in Path(folder, "items").glob("*"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for record in records:
            record.pop("file", None)
        path.write_text("".join(json.dumps(record) + "\n" for record in records if record["mark"] != "file"))
    path = Path(folder, "run.json")
    description = json.loads(path.read_text())
    del description["fingerprint"]["class_names"], description["fingerprint"]["per_class"]
    for method in description["methods"].values():
        method.pop("references", None)
    path.write_text(json.dumps(description))


def csv(labels: str) -> Callable[[], None]:
    return lambda: Path("l.csv").write_text(
        "".join(f"{name}.png,{label}\n" for name, label in zip("ab", labels, strict=True))
    )


def listed(labels: list[str]) -> Callable[[], None]:
    return lambda: Path("d.txt").write_text(
        "".join(f"d/{name}.png{label}\n" for name, label in zip("ab", labels, strict=True))
    )


def sharded(labels: str) -> Callable[[], None]:
    return lambda: write_shard(**dict(zip("ab", labels, strict=True)))


SOURCES = {
    "csv": (csv("01"), csv("02"), ("d", "--labels", "l.csv"), "'b.png' is 1 (espresso), not 2 (rocket)"),
    "list": (listed(["\tcat", "\trocket"]), listed(["\tcat", "\tcat"]), ("d.txt",), "'d/b.png' is 2 (rocket), not 0 (cat)"),
    "list without": (listed(["\tcat", ""]), listed(["", "\tcat"]), ("d.txt",), "'d/a.png' is 0 (cat), not none"),
    "list added": (listed(["", ""]), listed(["\tcat", "\tcat"]), ("d.txt",), "'d/a.png' is none, not 0 (cat) (and 1 more)"),
    "tar": (sharded("34"), sharded("44"), ("d.tar",), "'d.tar/a.png' is 3 (astronaut), not 4 (nothing)"),
}  # fmt: skip


CASES = [(source, target) for source in SOURCES for target in ("auto", "label")]
CASES.remove(("list added", "label"))  # without labels there is no run


@pytest.mark.parametrize(("source", "target"), CASES)
def test_changed_label_is_refused(xp, source, target):
    before, after, data, text = SOURCES[source]
    write_images("d/a.png", "d/b.png")
    before()
    command = ("evaluate", *data, *RUN, "--target", target)
    assert xp(*command).code in (0, 5)
    content = files("run")
    after()
    for more in ((), ("-M", "morf:steps=2", "-a", "gxi"), ("--limit", "2")):
        ran = xp(*command, *more)
        assert (ran.code, ran.out, files("run")) == (2, "", content)
        assert ran.err.startswith(f"xplain: error: 'run' holds a run with other labels: its label of {text}")
        assert ran.err.endswith("; choose another --output or restore the labels\n")
        assert ran.err.count("\n") == 1
    before()
    if source != "tar":  # whose file was written again
        assert xp(*command).code in (0, 5)
        assert stored("run") == [record for record in stored("run") if record["label"] is not None or "list" in source]


def test_changed_class_names_are_refused(xp):
    write_images("d/0/a.png", "d/1/b.png")
    Path("classes.txt").write_text("0\n1\n2\n3\n4\n")
    assert xp("evaluate", "d", *RUN, "--classes", "classes.txt").code == 0
    Path("classes.txt").write_text("1\n0\n2\n3\n4\n")
    ran = xp("evaluate", "d", *RUN, "--classes", "classes.txt")
    assert (ran.code, "a different class_names: " in ran.err) == (2, True)
    forget_states("run")  # an earlier version stored no class names, but labels
    ran = xp("evaluate", "d", *RUN, "--classes", "classes.txt")
    assert (ran.code, "its label of '1/b.png' is 1 (0), not 0 (1) (and 1 more)" in ran.err) == (2, True)
    Path("classes.txt").write_text("0\n1\n2\n3\n4\n")
    assert xp("evaluate", "d", *RUN, "--classes", "classes.txt").code == 0


def test_class_names_of_boxes_are_part_of_run(xp):
    write_images("d/a.png", "d/b.png")
    Path("boxes.csv").write_text(BOXES)
    Path("classes.txt").write_text("cat\nespresso\nrocket\nastronaut\nnothing\n")
    command = ("evaluate", "d", *TINY, "-a", "sm", "-M", "pointing-game:boxes=boxes.csv", "--classes", "classes.txt")
    assert xp(*command, "-o", "run").code in (0, 3, 5)
    Path("classes.txt").write_text("espresso\ncat\nrocket\nastronaut\nnothing\n")  # no image has a label
    assert xp(*command, "-o", "run").code == 2
    assert xp(*command, "-o", "fresh").code in (0, 3, 5)


def test_changed_boxes_are_evaluated_anew(xp):
    write_images("d/a.png", "d/b.png")
    values = []
    for text in ("a,0,0,32,32\nb,0,0,32,32\n", "a,16,16,18,18\nb,16,16,18,18\n"):
        Path("boxes.csv").write_text(text)
        command = ("evaluate", "d", *TINY, "-a", "sm", "-M", "pointing-game:boxes=boxes.csv,tolerance=0", "--json")
        summaries = [xp(*command, "-o", folder).records[0] for folder in ("run", f"fresh {len(values)}")]
        assert summaries[0]["rows"] == summaries[1]["rows"]
        values.append(summaries[0]["rows"][0]["mean"])
    assert values == [1, 0]


def replace_bmp(name: str) -> None:
    """Write other bytes of the same size, and restore the modification time."""
    status = Path(name).stat()
    write_images(name, seed=9)
    assert Path(name).stat().st_size == status.st_size
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("more", [(), ("-M", "morf:steps=2"), ("-a", "gxi"), ("--shard", "0/2"), ("--limit", "2")])
def test_changed_image_is_refused(xp, more, is_old):
    names = [f"d/{name}.bmp" for name in "abc"]
    write_images(*names)
    assert xp("evaluate", "d", *RUN).code == 0
    if is_old:
        forget_states("run")
    content = files("run")
    replace_bmp("d/b.bmp")
    ran = xp("evaluate", "d", *RUN, *more)
    selected = more != ("--limit", "2")  # which selects a and b
    assert (ran.code, ran.out) == (2, "") if selected else ran.code == 2
    assert ran.err == (
        "xplain: error: 'run' holds results of other images: the bytes of 'b.bmp' have changed since; "
        "choose another --output or restore the files\n"
    )
    assert {name: text for name, text in files("run").items() if "/items/1" not in name} == content
    write_images(*names)  # the bytes are restored, with another time
    assert xp("evaluate", "d", *RUN, *more).code == 0


def test_changed_image_outside_selection_is_no_error(xp):
    write_images("d/a.png", "d/b.png")
    assert xp("evaluate", "d", *RUN).code == 0
    write_images("d/b.png", seed=1)
    ran = xp("evaluate", "d", *RUN, "--limit", "1", "--json")
    assert (ran.code, ran.records[0]["items"]["evaluated"], ran.records[0]["unselected"]) == (0, 1, 1)


def test_changed_tar_member_is_refused(xp):
    write_shard(a="0", b="1")
    assert xp("evaluate", "d.tar", *RUN).code == 0
    write_shard(b="1", a="0")  # the same members at other places
    assert xp("evaluate", "d.tar", *RUN).code == 0
    content = Path("d.tar").read_bytes()
    Path("d.tar").write_bytes(
        content.replace(Path("tar/x.png").read_bytes(), bytes(Path("tar/x.png").stat().st_size), 1)
    )
    ran = xp("evaluate", "d.tar", *RUN)
    assert (ran.code, "the bytes of 'd.tar/b.png' have changed since; " in ran.err) == (2, True)


def test_missing_image_of_list_is_named(xp):
    write_images("d/a.png", "d/b.png")
    Path("d.txt").write_text("d/a.png\nd/b.png\n")
    assert xp("evaluate", "d.txt", *RUN).code == 0
    Path("d/b.png").unlink()
    ran = xp("evaluate", "d.txt", *RUN)
    assert ran.err == (
        "xplain: error: 'run' holds results of 'd/b.png', which cannot be read: no such file: 'd/b.png'; check the path\n"
    )
    assert ran.code == 3


@pytest.mark.parametrize("is_old", [False, True])
def test_unchanged_images_are_hashed_once(xp, monkeypatch, is_old):
    from xplain.pipelines import stored_items

    write_images("d/a.png", "d/b.png")
    assert xp("evaluate", "d", *RUN).code == 0
    if is_old:
        forget_states("run")
    summary = json.loads(Path("run/summary.json").read_text())
    hashed: list[str] = []
    hash_item = stored_items._hash
    monkeypatch.setattr(stored_items, "_hash", lambda store, item: (hashed.append(item.key), hash_item(store, item))[1])
    monkeypatch.setattr(
        "xplain.pipelines.method_run.MethodRun.attribute", lambda *_, **__: pytest.fail("computed again")
    )
    for expected in (["a.png", "b.png"] if is_old else [], [], ["b.png"], []):
        if expected == ["b.png"]:
            os.utime("d/b.png")
        hashed.clear()
        assert xp("evaluate", "d", *RUN).code == 0
        assert sorted(hashed) == expected
    assert json.loads(Path("run/summary.json").read_text())["rows"] == summary["rows"]


def test_image_that_changes_while_run_continues_is_refused(xp, monkeypatch):
    from xplain.pipelines import evaluate

    write_images("d/a.png", "d/b.png")
    assert xp("evaluate", "d", *RUN).code == 0
    check = evaluate.check_stored_items
    monkeypatch.setattr(evaluate, "check_stored_items", lambda *args: (check(*args), write_images("d/a.png", seed=5)))
    ran = xp("evaluate", "d", *RUN, "-a", "gxi")
    assert (ran.code, "the bytes of 'a.png' have changed since" in ran.err) == (2, True)
    assert {
        record["method"]
        for record in map(json.loads, Path("run/items/0.jsonl").read_text().splitlines())
        if "method" in record
    } == {
        "saliency",
        "random",
    }


@pytest.mark.parametrize("command", ["evaluate", "explain", "compare"])
def test_changed_baseline_images_are_refused(xp, command):
    write_images("d/a.png", "base/x.png", "base/y.png")
    method = ("-a", "eg:samples=2,baselines=base")
    options = ("-M", "deletion:steps=2") if command != "explain" else ("--save", "raw")
    request = (command, "d", *TINY, *options, *method, "-o", "run")
    assert xp(*request).code == 0
    write_images("base/y.png", seed=3)
    ran = xp(*request)
    assert ran.code in (2, 3)
    assert ran.err.count("\n") == 1
    assert "other baseline images" in ran.err or "other class names or baseline images" in ran.err
    write_images("d/a.png", "base/x.png", "base/y.png")
    assert xp(*request).code == 0


def test_duplicate_line_with_two_classes_is_refused(xp):
    write_images("d/a.png")
    Path("d.txt").write_text("d/a.png\tcat\nd/a.png\trocket\n")
    ran = xp("evaluate", "d.txt", *RUN)
    assert (
        ran.code,
        "lines 1 and 2 of 'd.txt' contradict each other: 'd/a.png' is 'cat' and 'rocket'; " in ran.err,
    ) == (3, True)
    Path("d.txt").write_text("d/a.png\tcat\nd/a.png\tcat\n")
    assert xp("evaluate", "d.txt", *RUN, "--json").records[0]["items"] == {"evaluated": 1, "failed": 0, "of": 1}


def test_label_that_was_missing_is_evaluated(xp):
    write_images("d/a.png", "d/b.png")
    command = ("evaluate", "d.txt", *RUN, "--target", "label", "--json")
    Path("d.txt").write_text("d/a.png\tcat\nd/b.png\n")
    assert xp(*command).records[0]["items"] == {"evaluated": 1, "failed": 1, "of": 2}
    Path("d.txt").write_text("d/a.png\tcat\nd/b.png\trocket\n")
    ran = xp(*command)
    assert (ran.code, ran.records[0]["items"]) == (0, {"evaluated": 2, "failed": 0, "of": 2})
