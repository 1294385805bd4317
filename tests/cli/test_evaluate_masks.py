"""``xplain evaluate`` and ``compare`` with masks."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import xplain
from tests.conftest import TINY
from tests.helpers.mask_files import write_png

METRICS = (
    "relevance-mass",
    "concentration",
    "relevance-rank",
    "top-k-intersection",
    "relevance-auroc",
    "relevance-ap",
    "ehr",
)
METRICS += ("pointing-game",)
METHODS = ("-a", "center", "-a", "sobel")


def list_values(folder: str = "run") -> dict[tuple[str, str, str], dict]:
    lines = [json.loads(line) for path in Path(folder, "items").glob("*.jsonl") for line in path.open()]
    return {(line["key"], line["method"], line["metric"].split(":")[0]): line for line in lines if "metric" in line}


@pytest.fixture
def masks(photos) -> Path:
    """A binary mask of the cat and of the espresso, of half their size; the rocket has none. The cat's file is rotated by EXIF."""
    folder = photos.parent / "masks"
    for key in ("cat/a", "espresso/b"):
        with Image.open(photos / f"{key}.jpg") as image:
            width, height = image.size
            exif = image.getexif()
            exif[0x0112] = 6 if key == "cat/a" else 1
            image.save(photos / f"{key}.jpg", exif=exif, quality=95)
        pixels = np.zeros((height // 2, width // 2))
        pixels[: height // 4, : width // 3] = 1
        write_png(folder / f"{key}.png", pixels)
    return folder


def choose(path: str, *more: str) -> list[str]:
    return [part for name in METRICS for part in ("-M", f"{name}:masks={path}")] + list(more)


def test_masks_of_a_folder_equal_tensors(xp, photos, masks):
    ran = xp("evaluate", photos, *TINY, *choose("masks"), *METHODS, "-o", "run")
    assert ran.code == 5, ran.err  # the rocket has no mask
    assert ran.err.count("the masks name no categories, so that any object counts for every target ('masks')") == 1
    assert "images have no mask" not in ran.err
    values = list_values()
    classifier = xplain.load_classifier(TINY[1], device="cpu")
    area = replace(classifier.preprocessing, interpolation="box")
    for key in ("cat/a", "espresso/b"):
        with Image.open(masks / f"{key}.png") as mask:  # the file of the cat is turned to the right
            turned = mask.transpose(Image.Transpose.ROTATE_270) if key == "cat/a" else mask
            turned.point(lambda value: 255 * value).convert("RGB").save("mask.png")
        pixels = (xplain.read_image("mask.png", preprocessing=area)[0] >= 0.5).double()
        image = xplain.read_image(photos / f"{key}.jpg", preprocessing=classifier.preprocessing)[None]
        for method in ("center", "sobel"):
            maps = xplain.attribute(classifier, image, method).values
            for name in METRICS:
                expected = xplain.measure(classifier, image, maps, name, masks=pixels[None, None])
                record = values[f"{key}.jpg", method, name]
                assert record["value"] == pytest.approx(float(expected.values), abs=1e-6), (key, method, name)
                assert record["chance"] == pytest.approx(float(expected.chance), rel=1e-9)
        assert values["rocket/c.jpg", "sobel", "ehr"]["undefined"] == "the image has no mask of the target"
    summary = json.loads(Path("run/summary.json").read_text())
    for row in summary["rows"]:
        if row["method"] == "random" and row["metric"].startswith("relevance-auroc"):
            assert row["mean"] == pytest.approx(0.5, abs=0.1)
            assert row["chance"] == 0.5
    assert "relevance-mass:masks=masks: the masks name no categories" in Path("run/summary.md").read_text()
    assert "| relevance-mass:masks=masks | sobel | " in Path("run/groups.md").read_text()
    rows = list(csv.DictReader(Path("run/classes.csv").read_text().splitlines()))
    assert {(row["name"], row["n"], row["undefined"]) for row in rows if row["method"] == "sobel"} >= {
        ("rocket", "0", "1")
    }
    again = xp("evaluate", photos, *TINY, *choose("masks"), *METHODS, "-o", "run")
    assert again.code == 5
    assert again.out == ran.out
    write_png(masks / "rocket/c.png", np.ones((4, 4)))
    ran = xp("evaluate", photos, *TINY, "-M", "ehr:masks=masks", *METHODS, "-o", "run")
    assert ran.code == 3
    assert (
        "rocket/c.png' does not fit 'rocket/c.jpg': the mask has 4 x 4 pixels, but the image has"
        in ran.err.splitlines()[-1]
    )


def write_coco_of(photos: Path) -> None:
    """Write the upper left quarters of the photographs as polygons, of categories that are no classes of the model."""
    images, annotations = [], []
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))):
        with Image.open(path) as image:
            x, y = image.width // 2, image.height // 2
            images.append(
                {"id": number, "file_name": f"train/{path.name}", "width": image.width, "height": image.height}
            )
        annotations.append({"image_id": number, "category_id": number, "segmentation": [[0, 0, x, 0, x, y, 0, y]]})
    categories = [{"id": number, "name": name} for number, name in enumerate(("animal", "drink", "vehicle"))]
    Path("coco.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def test_coco_needs_a_table_of_categories(xp, photos):
    write_coco_of(photos)
    command = ("evaluate", photos, *TINY, "-a", "center", "--target", "label", "-o", "run")
    ran = xp(*command, "-M", "relevance-mass:masks=coco.json")
    assert ran.code == 3
    assert ran.err.splitlines()[-1].endswith(
        "the category 'animal' of 'coco.json' is no class of the model; map categories to classes in a CSV file with category,class: "
        "categories=FILE"
    )
    Path("map.csv").write_text("category,class\nanimal,cat\nanimal,rocket\ndrink,espresso\n")
    ran = xp(*command, "-M", "relevance-mass:masks=coco.json,categories=map.csv", "-M", "deletion:steps=2")
    assert ran.code == 5, ran.err  # the vehicle is no rocket here
    values = list_values()
    assert values["rocket/c.jpg", "center", "relevance-mass"]["undefined"] == "the image has no mask of the target"
    for key in ("cat/a.jpg", "espresso/b.jpg"):  # a quarter of the Gaussian at the center
        assert values[key, "center", "relevance-mass"]["value"] == pytest.approx(0.25, abs=0.03)
        assert values[key, "center", "relevance-mass"]["chance"] == pytest.approx(0.25, abs=0.03)
        assert "chance" not in values[key, "center", "deletion"]
    Path("map.csv").write_text("category,class\nvehicle,rocket\n")  # other contents are another metric
    assert xp(*command, "-M", "relevance-mass:masks=coco.json,categories=map.csv").code == 5
    keys = [record for record in Path("run/items/0.jsonl").read_text().splitlines() if '"relevance-mass' in record]
    assert len(keys) == 2 * 2 * 3


def test_difficult_boxes_are_ignored_pixels(xp, photos):
    """The left half is a difficult object, the upper right quarter is not; the same as boxes and as masks."""
    corners = "<xmin>{}</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    box = f"<object><name>{{}}</name><difficult>{{}}</difficult><bndbox>{corners}</bndbox></object>"
    Path("xml").mkdir()
    for path in sorted(photos.rglob("*.jpg")):
        with Image.open(path) as image:
            width, height = image.size
        objects = box.format(path.parent.name, 1, 1, width // 2, height)
        objects += box.format(path.parent.name, 0, width // 2 + 1, width, height // 2)
        Path("xml", f"{path.stem}.xml").write_text(f"<annotation>{objects}</annotation>")
    results = []
    for number, annotation in enumerate(("boxes=xml,difficult=ignore", "masks=xml,difficult=ignore", "boxes=xml")):
        folder = f"run-{number}"
        options = ("-M", f"relevance-rank:{annotation}", "-a", "center", "--target", "label", "-o", folder)
        ran = xp("evaluate", photos, *TINY, *options)
        assert ran.code == 0, ran.err
        values = list_values(folder)
        results.append(
            [(value["value"], value["chance"]) for key, value in sorted(values.items()) if key[1] == "center"]
        )
    as_boxes, as_masks, kept = results
    assert len(as_boxes) == 3
    assert as_boxes == as_masks
    assert [chance for _, chance in as_boxes] == pytest.approx([0.5] * 3, abs=0.05)
    assert [chance for _, chance in kept] == pytest.approx([0.75] * 3, abs=0.04)


@pytest.mark.parametrize(
    ("metric", "code", "words"),
    [
        (
            "ehr:masks=none",
            2,
            "ehr requires object boxes or masks; set boxes=FILE or masks=PATH, or pass a tensor in Python",
        ),
        ("ehr:masks=nowhere", 2, "ehr: invalid value masks=nowhere; use an existing file or folder or none"),
        ("ehr:masks=coco.json,boxes=boxes.csv", 2, "accepts either boxes or masks; remove one of them"),
        (
            "ehr:boxes=boxes.csv,difficult=ignore",
            2,
            "difficult requires masks, or boxes in Pascal VOC XML files; set masks=PATH or remove difficult",
        ),
        (
            "ehr:boxes=boxes.csv,categories=boxes.csv",
            2,
            "categories requires masks; set masks=PATH or remove categories",
        ),
        ("ehr:masks=photos", 3, "no mask in 'photos'; pass a folder of PNG or Pascal VOC XML, or a COCO JSON file"),
    ],
)
def test_invalid_requests_are_one_line(xp, photos, metric, code, words):
    write_coco_of(photos)
    Path("boxes.csv").write_text("a.jpg,0,0,1,1\n")
    ran = xp("evaluate", photos, *TINY, "-M", metric, "-a", "center", "-o", "run")
    assert ran.code == code
    assert words in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


def test_compare_reads_masks(xp, photos):
    write_coco_of(photos)
    Path("map.csv").write_text("animal,0\nanimal,1\nanimal,2\nanimal,3\nanimal,4\n")
    metric = "relevance-auroc:masks=coco.json,categories=map.csv"
    ran = xp("compare", photos / "cat/a.jpg", *TINY, "-a", "center", "-M", metric, "--json")
    assert ran.code == 0, ran.err
    score = ran.records[0]["rows"][0]["cells"][0]["scores"][metric]
    assert score["value"] is not None
    assert score["chance"] == 0.5
