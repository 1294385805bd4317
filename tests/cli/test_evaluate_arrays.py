"""``xplain evaluate --save-maps --save-curves``: the arrays equal the measured ones, and existing arrays are used again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import xplain
from tests.conftest import TINY

OPTIONS = ("-M", "insertion:steps=8", "-a", "ig:steps=5", "-o", "run")
SINGLE = ("-m", "python:tests.helpers.factories:single", "--device", "cpu")


def read(folder: str) -> dict[tuple[str, ...], tuple[np.ndarray, dict]]:
    """Return (array, record) of each saved array by (key, method[, metric])."""
    arrays = {}
    for path in Path("run", folder).iterdir():
        with np.load(path) as content:
            record = json.loads(str(content["record"]))
            (name,) = set(content.files) - {"record"}
            arrays[tuple(record[name] for name in ("key", "method", "metric") if name in record)] = (
                content[name],
                record,
            )
    return arrays


def records() -> list[dict]:
    return [json.loads(line) for line in Path("run/items/0.jsonl").read_text().splitlines()]


def test_saved_maps_equal_library(xp, photos):
    assert xp("evaluate", photos, *TINY, *OPTIONS, "--save-maps").code == 0
    clf = xplain.load_classifier("python:tests.helpers.factories:tiny", device="cpu")
    maps = read("maps")
    keys = ("cat/a.jpg", "espresso/b.jpg", "rocket/c.jpg")
    assert set(maps) == {(key, method) for key in keys for method in ("integrated-gradients", "random")}
    for key in keys:
        x = xplain.read_image(photos / key, preprocessing=clf.preprocessing)[None]
        att = xplain.attribute(clf, x, "ig", steps=5)
        values, record = maps[key, "integrated-gradients"]
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, att.values[0].numpy(), rtol=1e-6, atol=1e-9)
        assert record["target"]["index"] == int(att.target)
        assert record["expected"] == pytest.approx(float(att.expected))
        assert record["params"]["steps"] == 5


def test_saved_curves_are_complete(xp, photos):
    assert xp("evaluate", photos, *TINY, *OPTIONS, "-M", "error-rate", "--save-curves").code in (0, 5)
    curves = read("curves")
    assert len(curves) == 3 * 2  # error-rate has none
    for record in records():
        if record.get("metric") == "insertion:steps=8":
            values, about = curves[record["key"], record["method"].split(":")[0], "insertion"]
            assert values.shape == (9,)
            assert np.trapezoid(values.astype(float)) / 8 == pytest.approx(record["value"], abs=1e-6)
            assert about["value"] == record["value"]


def test_missing_arrays_are_added(xp, photos):
    assert xp("evaluate", photos, *TINY, *OPTIONS).code == 0
    before = Path("run/items/0.jsonl").read_bytes()
    assert xp("evaluate", photos, *TINY, *OPTIONS, "--save-maps", "--save-curves").code == 0
    maps, curves = read("maps"), read("curves")
    assert (len(maps), len(curves)) == (6, 6)
    next(Path("run/maps").iterdir()).unlink()
    next(Path("run/curves").iterdir()).unlink()
    assert xp("evaluate", photos, *TINY, *OPTIONS, "--save-maps", "--save-curves").code == 0
    for old, new in ((maps, read("maps")), (curves, read("curves"))):
        assert old.keys() == new.keys()
        assert all(np.array_equal(old[key][0], new[key][0]) for key in old)
    assert Path("run/items/0.jsonl").read_bytes() == before


def test_complete_arrays_are_kept(xp, photos, monkeypatch):
    more = ("-M", "error-rate", "-a", "sm", "--save-maps", "--save-curves")
    xp("evaluate", photos, *TINY, *OPTIONS, *more)
    monkeypatch.setattr(
        "xplain.pipelines.method_run.MethodRun.attribute", lambda *_, **__: pytest.fail("computed again")
    )
    monkeypatch.setattr(
        "xplain.pipelines.batches.prefetch_images", lambda sources, *_: list(sources) and pytest.fail("read again")
    )
    assert xp("evaluate", photos, *TINY, *OPTIONS, *more).code == 5


def test_added_metric_uses_saved_maps(xp, photos, monkeypatch):
    more = ("-M", "error-rate", "-M", "deletion:steps=6")
    xp("evaluate", photos, *SINGLE, *OPTIONS, *more)
    expected = {(r["key"], r["mark"]): r for r in records()}
    Path("run/items/0.jsonl").unlink()
    xp("evaluate", photos, *SINGLE, *OPTIONS, "--save-maps")
    monkeypatch.setattr(
        "xplain.pipelines.method_run.MethodRun.attribute", lambda *_, **__: pytest.fail("attributed again")
    )
    xp("evaluate", photos, *SINGLE, *OPTIONS, *more, "--save-maps")
    added = {(r["key"], r["mark"]): r for r in records()}
    assert added.keys() == expected.keys()
    for key, record in added.items():
        assert record.get("value") == expected[key].get("value")  # to the bit
        assert record.get("cost", {}).get("forwards") == expected[key].get("cost", {}).get("forwards")


def test_maps_of_changed_image_are_recomputed(xp, photos):
    xp("evaluate", photos, *SINGLE, *OPTIONS, "--save-maps")
    before = read("maps")
    (photos / "cat" / "a.jpg").write_bytes((photos / "rocket" / "c.jpg").read_bytes())
    Path("run/items/0.jsonl").unlink()
    xp("evaluate", photos, *SINGLE, *OPTIONS, "--save-maps")
    after, method = read("maps"), "integrated-gradients"
    assert not np.array_equal(before["cat/a.jpg", method][0], after["cat/a.jpg", method][0])
    assert np.array_equal(after["cat/a.jpg", method][0], after["rocket/c.jpg", method][0])
