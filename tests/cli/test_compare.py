"""``xplain compare`` on images: records, files, columns, rows and errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import xplain
from tests.conftest import SAMPLES, TINY

CAT, ROCKET = SAMPLES / "cat.jpg", SAMPLES / "rocket.jpg"
FILES = ["compare.png", "agreement.png", "compare.html", "compare.json"]
FAST = (*TINY, "--no-metrics", "-o", "out")


@pytest.fixture
def quick(monkeypatch):
    """Skip the drawing, which has its own tests."""
    import xplain.pipelines.compare_images as package

    monkeypatch.setattr(package, "draw_comparison", lambda found, shows, forms: dict.fromkeys(forms, b"sheet"))
    monkeypatch.setattr(package, "draw_agreement", lambda record, forms: dict.fromkeys(forms, b"matrix"))


def test_compare_equals_library(xp):
    ran = xp("compare", CAT, ROCKET, *TINY, "-a", "sm", "-a", "ig:steps=5", "-o", "out", "-M", "insertion:steps=8")
    assert (ran.code, ran.lines) == (0, [f"out/{name}" for name in FILES])
    assert all(Path(line).stat().st_size > 1000 for line in ran.lines)
    record = json.loads(Path("out/compare.json").read_text())
    assert record["columns"] == ["saliency", "integrated-gradients:steps=5"]
    clf = xplain.load_classifier("python:tests.helpers.factories:tiny", device="cpu")
    for path, row in zip((CAT, ROCKET), record["rows"], strict=True):
        x = xplain.read_image(path, preprocessing=clf.preprocessing)[None]
        maps = [xplain.attribute(clf, x, "sm"), xplain.attribute(clf, x, "ig", steps=5)]
        assert row["input"] == str(path)
        assert row["target"]["index"] == int(clf(x).argmax())
        for att, cell in zip(maps, row["cells"], strict=True):
            score = xplain.measure(clf, x, att.values, "insertion", steps=8)
            entry = cell["scores"]["insertion:steps=8"]
            assert entry["value"] == pytest.approx(float(score.values), abs=1e-9)
            assert entry["curve"] == pytest.approx(score.curve[0].tolist(), abs=1e-6)
            assert cell["cost"]["backwards"] == (5 if cell["method"] == "integrated-gradients" else 1)
        sums = [att.values[0].float().sum(dim=0).numpy().ravel() for att in maps]
        ranks = [values.argsort().argsort() for values in sums]
        assert row["agreement"]["spearman"][0][1] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-4)
    means = [row["cells"][1]["scores"]["insertion:steps=8"]["value"] for row in record["rows"]]
    assert record["means"][1]["scores"]["insertion:steps=8"] == {"mean": pytest.approx(np.mean(means)), "n": 2}


def test_compare_reads_boxes_by_name(xp, photos, quick):
    """The center of the input is inside the box of the first photograph and outside that of the second; the third has no box."""
    rows = []
    for key, first, last in (("cat/a.jpg", 0.4, 0.6), ("espresso/b.jpg", 0.3, 0.4)):
        with Image.open(photos / key) as image:
            rows.append(
                f"{key},{first * image.width},{first * image.height},{last * image.width},{last * image.height}"
            )
    Path("boxes.csv").write_text("\n".join(rows))
    metric = "pointing-game:boxes=boxes.csv,tolerance=0"
    ran = xp("compare", photos, *TINY, "-a", "center", "-M", metric, "-o", "out", "--json")
    assert ran.code == 5
    scores = {Path(row["input"]).name: row["cells"][0]["scores"][metric] for row in ran.records[0]["rows"]}
    assert {name: score["value"] for name, score in scores.items()} == {"a.jpg": 1, "b.jpg": 0, "c.jpg": None}
    assert scores["c.jpg"]["undefined"] == "the image has no box of the target"


def test_rows_order_images_models_targets(xp, quick):
    other = ("-m", "python:tests.helpers.factories:smooth")
    ran = xp("compare", CAT, ROCKET, *FAST, *other, "-a", "sm", "--target", "top:2", "--json")
    (record,) = ran.records
    names = [(Path(row["input"]).stem, row["model"][-6:]) for row in record["rows"]]
    assert names == [
        ("cat", "s:tiny"), ("cat", "s:tiny"), ("cat", "smooth"), ("cat", "smooth"),
        ("rocket", "s:tiny"), ("rocket", "s:tiny"), ("rocket", "smooth"), ("rocket", "smooth"),
    ]  # fmt: skip
    assert all(row["target"]["index"] == row["prediction"][k % 2]["index"] for k, row in enumerate(record["rows"]))
    assert record["files"] == [
        "out/compare.png",
        "out/compare.html",
        "out/compare.json",
    ]  # one method agrees with itself


def test_against_makes_columns(xp, quick):
    (record,) = xp(
        "compare", CAT, *FAST, "-a", "sm", "--target", "0", "--against", "rocket", "--against", "3,4", "--json"
    ).records
    assert record["columns"] == ["saliency vs rocket", "saliency vs 3,4"]
    assert [[target["index"] for target in cell["against"]] for cell in record["rows"][0]["cells"]] == [[2], [3, 4]]


def test_compare_keeps_finished_comparison(xp, quick, monkeypatch):
    args = ("compare", CAT, *FAST, "-a", "sm", "-a", "gxi")
    first = xp(*args, "--json")
    assert first.code == 0
    with monkeypatch.context() as patch:
        patch.setattr("xplain.pipelines.method_run.MethodRun.attribute", lambda *_, **__: pytest.fail("computed again"))
        assert xp(*args, "--json").out == first.out
        ran = xp(*args, "--sign", "signed")
    assert ran.code == 2
    assert (
        ran.err
        == "xplain: error: 'out/compare.png' already exists and was not written by this comparison; use --overwrite or another --output\n"
    )
    assert xp(*args, "--sign", "signed", "--overwrite").code == 0
    shutil.rmtree("out")
    Path("out").mkdir()
    Path("out/compare.html").write_text("mine")
    assert xp(*args).code == 2


def test_compare_skips_failed_images(xp, quick):
    Path("bad.jpg").write_text("x")
    ran = xp("compare", CAT, "bad.jpg", *FAST, "-a", "sm", "--json")
    assert ran.code == 5
    assert [failure["input"] for failure in ran.records[0]["failed"]] == ["bad.jpg"]
    assert len(ran.records[0]["rows"]) == 1
    assert xp("compare", "bad.jpg", *FAST, "-a", "sm", "--overwrite").code == 3
    assert xp("compare", CAT, "bad.jpg", *FAST, "-a", "sm", "--fail-fast", "--overwrite").code == 3


def test_record_has_undefined_scores_and_warnings(xp, quick):
    from PIL import Image

    Image.new("RGB", (40, 40), "gray").save("flat.png")
    ran = xp("compare", "flat.png", *TINY, "-a", "sobel", "-a", "sm", "-M", "error-rate", "-o", "out", "--json")
    assert ran.code == 5
    flat, other = ran.records[0]["rows"][0]["cells"]
    assert flat["warnings"] == [
        "the map is zero everywhere",
        "the visualization is blank, because the clipped map is constant",
    ]
    assert other["scores"]["error-rate"]["undefined"]
    assert ran.records[0]["agreement"]["spearman"]["mean"] == [[None, None], [None, 1.0]]
    assert "warning: flat.png: sobel: the map is zero everywhere" in ran.err


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        ([CAT, "-a", "agii"], 2, "unknown method 'agii'; did you mean 'agi'?"),
        ([CAT, "-M", "delition"], 2, "unknown metric 'delition'; did you mean 'deletion' or 'single-deletion'?"),
        (
            [CAT, "-a", "sm", "-a", "saliency"],
            2,
            "method 'saliency' is specified more than once; remove the duplicate",
        ),
        ([CAT, "--show", "curve"], 2, "unknown value 'curve' for --show; did you mean 'curves'?"),
        ([CAT, "--save", "eps"], 2, "unknown figure format 'eps'; choose from png, pdf, svg"),
        (
            [CAT, "--layer", "act2", "-a", "sm"],
            2,
            "--layer act2 is not supported by saliency; remove it or add a layer-based method",
        ),
        (
            [CAT, "-m", "resnet18", "--classes", "x.txt"],
            2,
            "--weights and --classes can be used with one model only; pass a single --model",
        ),
        (
            [CAT, "--no-metrics", "-M", "morf"],
            2,
            "--no-metrics cannot be combined with --metric or --protocol; remove one of them",
        ),
        ([], 2, "no images specified"),
        (["nowhere.jpg", "-a", "sm"], 3, "no such file: 'nowhere.jpg'"),
    ],
)
def test_compare_usage_error_is_one_line(xp, args, code, text):
    ran = xp("compare", *TINY, *args)
    assert (ran.code, ran.out) == (code, "")
    assert text in ran.err
    assert ran.err.count("\n") == 1


def test_comparisons_have_distinct_default_folders(xp, method_calls):
    """Of other images, of other settings, and of runs."""
    for seed in "01":
        xp("evaluate", SAMPLES, *TINY, "-a", "sm", "-M", "deletion:steps=2", "--limit", "2", "--seed", seed, "-o", seed)
    images = ("compare", CAT, *TINY, "-a", "sm", "--no-metrics")
    commands = [images, (*images, "--sign", "signed"), (*images, "-a", "random"), ("compare", "0", "1")]
    firsts = [xp(*command) for command in commands]
    assert {ran.code for ran in firsts} == {0}, [ran.err for ran in firsts]
    folders = sorted(path.name for path in Path().glob("xplain-compare*"))
    assert len(folders) == 4
    assert {"xplain-compare", "xplain-compare-runs"} < set(folders)
    times = {path: path.stat().st_mtime_ns for path in Path().glob("xplain-compare*/*")}
    method_calls.sizes.clear()
    assert [xp(*command).out for command in commands] == [ran.out for ran in firsts]
    assert not method_calls.sizes
    assert all(path.stat().st_mtime_ns > time for path, time in times.items())


def test_run_comparison_in_former_folder_is_kept(xp):
    for seed in "01":
        xp("evaluate", SAMPLES, *TINY, "-a", "sm", "-M", "deletion:steps=2", "--limit", "2", "--seed", seed, "-o", seed)
    xp("compare", "0", "1", "-o", "xplain-compare")
    xp("compare", "0", "1")
    assert not Path("xplain-compare-runs").exists()


def test_default_columns_end_with_the_control(xp, quick):
    assert xp("compare", CAT, *FAST).code == 0
    columns = json.loads(Path("out/compare.json").read_text())["columns"]
    assert columns == ["saliency", "integrated-gradients", "neflag", "random"]
