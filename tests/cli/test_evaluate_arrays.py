"""``xplain evaluate --save-maps --save-curves``: what is kept is what was measured, and it is not made twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import xplain
from tests.conftest import TINY

ASK = ("-M", "insertion:steps=8", "-a", "ig:steps=5", "-o", "run")
SINGLE = ("-m", "python:tests.helpers.factories:single", "--device", "cpu")


def read(folder: str) -> dict[tuple[str, ...], tuple[np.ndarray, dict]]:
    """(array, record) by (key, method[, metric])."""
    found = {}
    for path in Path("run", folder).iterdir():
        with np.load(path) as content:
            record = json.loads(str(content["record"]))
            (name,) = set(content.files) - {"record"}
            found[tuple(record[name] for name in ("key", "method", "metric") if name in record)] = content[name], record
    return found


def records() -> list[dict]:
    return [json.loads(line) for line in Path("run/items/0.jsonl").read_text().splitlines()]


def test_saved_maps_equal_library(xp, photos):
    assert xp("evaluate", photos, *TINY, *ASK, "--save-maps").code == 0
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
    assert xp("evaluate", photos, *TINY, *ASK, "-M", "error-rate", "--save-curves").code in (0, 5)
    curves = read("curves")
    assert len(curves) == 3 * 2  # error-rate has none
    for record in records():
        if record.get("metric") == "insertion:steps=8":
            values, about = curves[record["key"], record["method"].split(":")[0], "insertion"]
            assert values.shape == (9,)
            assert np.trapezoid(values.astype(float)) / 8 == pytest.approx(record["value"], abs=1e-6)
            assert about["value"] == record["value"]


def test_missing_arrays_are_added(xp, photos):
    assert xp("evaluate", photos, *TINY, *ASK).code == 0
    before = Path("run/items/0.jsonl").read_bytes()
    assert xp("evaluate", photos, *TINY, *ASK, "--save-maps", "--save-curves").code == 0
    maps, curves = read("maps"), read("curves")
    assert (len(maps), len(curves)) == (6, 6)
    next(Path("run/maps").iterdir()).unlink()
    next(Path("run/curves").iterdir()).unlink()
    assert xp("evaluate", photos, *TINY, *ASK, "--save-maps", "--save-curves").code == 0
    for old, new in ((maps, read("maps")), (curves, read("curves"))):
        assert old.keys() == new.keys()
        assert all(np.array_equal(old[key][0], new[key][0]) for key in old)
    assert Path("run/items/0.jsonl").read_bytes() == before


def test_complete_arrays_are_kept(xp, photos, monkeypatch):
    more = ("-M", "error-rate", "-a", "sm", "--save-maps", "--save-curves")
    xp("evaluate", photos, *TINY, *ASK, *more)
    monkeypatch.setattr(
        "xplain.pipelines.attribution.MethodRun.attribute", lambda *_, **__: pytest.fail("computed again")
    )
    monkeypatch.setattr(
        "xplain.pipelines.batches.prefetch_images", lambda sources, *_: list(sources) and pytest.fail("read again")
    )
    assert xp("evaluate", photos, *TINY, *ASK, *more).code == 5


def test_added_metric_uses_saved_maps(xp, photos, monkeypatch):
    more = ("-M", "error-rate", "-M", "deletion:steps=6")
    xp("evaluate", photos, *SINGLE, *ASK, *more)
    asked = {(r["key"], r["mark"]): r for r in records()}
    Path("run/items/0.jsonl").unlink()
    xp("evaluate", photos, *SINGLE, *ASK, "--save-maps")
    monkeypatch.setattr(
        "xplain.pipelines.attribution.MethodRun.attribute", lambda *_, **__: pytest.fail("attributed again")
    )
    xp("evaluate", photos, *SINGLE, *ASK, *more, "--save-maps")
    found = {(r["key"], r["mark"]): r for r in records()}
    assert found.keys() == asked.keys()
    for key, record in found.items():
        assert record.get("value") == asked[key].get("value")  # to the bit
        assert record.get("cost", {}).get("forwards") == asked[key].get("cost", {}).get("forwards")


def test_maps_of_changed_image_are_recomputed(xp, photos):
    xp("evaluate", photos, *SINGLE, *ASK, "--save-maps")
    before = read("maps")
    (photos / "cat" / "a.jpg").write_bytes((photos / "rocket" / "c.jpg").read_bytes())
    Path("run/items/0.jsonl").unlink()
    xp("evaluate", photos, *SINGLE, *ASK, "--save-maps")
    after, method = read("maps"), "integrated-gradients"
    assert not np.array_equal(before["cat/a.jpg", method][0], after["cat/a.jpg", method][0])
    assert np.array_equal(after["cat/a.jpg", method][0], after["rocket/c.jpg", method][0])
