"""``xplain evaluate`` with metrics that run the method again, or that read boxes, together with deletion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import xplain
from tests.conftest import TINY

METRICS = {
    "deletion:steps=4": {"steps": 4},
    "max-sensitivity:samples=2": {"samples": 2},
    "parameter-randomisation:stages=2": {"stages": 2},
    "label-randomisation:similarity=ssim": {"similarity": "ssim"},
    "pointing-game:boxes=boxes.csv,tolerance=2": {"tolerance": 2},
}
OPTIONS = (*TINY, *(part for name in METRICS for part in ("-M", name)), "-a", "sm", "-o", "run")


def records() -> list[dict]:
    lines = [json.loads(line) for path in Path("run/items").glob("*.jsonl") for line in path.read_text().splitlines()]
    return [record for record in lines if "metric" in record]


def values() -> dict[tuple[str, str, str], float | None]:
    return {(record["key"], record["method"], record["metric"]): record["value"] for record in records()}


@pytest.fixture
def boxes(photos) -> Path:
    """A file with the upper left quarter of two photographs, one by key and one by file name; the rocket has no box."""
    lines = ["image,x0,y0,x1,y1"]
    for key in ("cat/a.jpg", "espresso/b.jpg"):
        with Image.open(photos / key) as image:
            lines.append(f"{key if 'cat' in key else 'b.jpg'},0,0,{image.width / 2},{image.height / 2}")
    path = photos.parent / "boxes.csv"
    path.write_text("\n".join(lines))
    return path


def test_metrics_equal_library_and_resume(xp, photos, boxes):
    ran = xp("evaluate", photos, *OPTIONS)
    assert ran.code == 5  # the rocket has no box
    assert all(f"| {name}" in ran.out for name in METRICS)
    assert "1 (the image has no box of the target)" in Path("run/report.html").read_text()
    whole, lines = values(), Path("run/items/0.jsonl").read_bytes().splitlines(keepends=True)
    assert len(whole) == 3 * 2 * 5

    clf = xplain.load_classifier("python:tests.helpers.factories:tiny", device="cpu")
    quarter = torch.tensor([[[-9.0, -9.0, 16.0, 16.0]]])  # the centre of the photograph is that of the crop
    for key in ("cat/a.jpg", "espresso/b.jpg"):
        x = xplain.read_image(photos / key, preprocessing=clf.preprocessing)[None]
        maps = xplain.attribute(clf, x, "saliency").values
        for name, settings in METRICS.items():
            extra = {"boxes": quarter} if "boxes" in name else {"method": "saliency"}
            expected = xplain.measure(clf, x, maps, name.split(":")[0], **settings, **extra)
            assert whole[key, "saliency", name] == pytest.approx(float(expected.values), abs=1e-6), name
    assert whole["rocket/c.jpg", "saliency", "pointing-game:boxes=boxes.csv,tolerance=2"] is None
    assert whole["cat/a.jpg", "random", "parameter-randomisation:stages=2"] == pytest.approx(1)

    Path("run/items/0.jsonl").write_bytes(b"".join(lines[:9]) + lines[9][:20])
    xp("evaluate", photos, *OPTIONS)
    assert values() == whole


def test_changed_boxes_are_measured_again(xp, photos, boxes):
    options = (*TINY, "-M", "pointing-game:boxes=boxes.csv", "-a", "center", "-o", "run")
    xp("evaluate", photos, *options)
    before = {record["mark"] for record in records()}
    boxes.write_text("a.jpg,0,0,1,1\n")
    xp("evaluate", photos, *options)
    assert {record["mark"] for record in records()} > before


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (None, 2, "invalid value boxes=boxes.csv; use an existing file or folder or none"),
        ("a.jpg,0,0,1,1\nb.jpg,1\n", 3, "line 2 of 'boxes.csv' is not a box: b.jpg,1"),
        ("a.jpg,0,0,1,1,horse\n", 3, "a box in 'boxes.csv': unknown class 'horse'"),
    ],
)
def test_invalid_boxes_are_one_line(xp, photos, text, code, words):
    if text is not None:
        Path("boxes.csv").write_text(text)
    ran = xp("evaluate", photos, *TINY, "-M", "pointing-game:boxes=boxes.csv", "-a", "center", "-o", "run")
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_boxes_are_joined_by_longer_paths_and_others_are_noted(xp, photos, command):
    rows = [
        f"{photos}/cat/a.jpg,150,100,300,200,cat",
        f"{photos.parent}/photos/cat/a.jpg,150,100,300,200,0",
        "photos/espresso/b,150,100,300,200,1",
    ]
    boxes = photos.parent / "boxes.csv"
    boxes.write_text("\n".join([*rows, "photos/espresso/gone.jpg,1,1,9,9", "old/rocket/c.jpg,1,1,9,9"]))
    options = ("--limit", "3", "--target", "label") if command == "evaluate" else ("--target", "label", "--no-progress")
    metric = "pointing-game:boxes=boxes.csv,tolerance=1000"
    ran = xp(command, photos, *TINY, "-M", metric, "-a", "center", "-o", "run", *options, "--json")
    notes = [line for line in ran.err.splitlines() if "boxes.csv" in line]
    assert notes == [
        "xplain: note: 2 of the boxes in 'boxes.csv' name no image of the data set, such as "
        "'photos/espresso/gone.jpg' (line 4 of 'boxes.csv')",
        "xplain: note: 1 of the boxes in 'boxes.csv' repeat another box of their image and count once, such as "
        f"'{photos}/cat/a.jpg' (line 2 of 'boxes.csv')",
    ]
    if command == "evaluate":
        hits = {record["key"]: record["value"] for record in records() if record["method"] == "center"}
    else:
        rows = ran.records[0]["rows"]
        hits = {str(Path(row["input"]).relative_to(photos)): row["cells"][0]["scores"][metric]["value"] for row in rows}
    assert hits == {"cat/a.jpg": 1, "espresso/b.jpg": 1, "rocket/c.jpg": None}


def test_boxes_of_images_that_a_selection_omits_are_not_noted(xp, photos, boxes):
    options = (*TINY, "-M", "pointing-game:boxes=boxes.csv", "-a", "center", "-o", "run")
    for selection in (("--limit", "1"), ("--shard", "0/3")):
        assert "boxes.csv' name no image" not in xp("evaluate", photos, *options, *selection).err
