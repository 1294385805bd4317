"""``xplain evaluate --protocol``: the numbers equal those of the papers' programs, here written pixel by pixel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import xplain
from tests.helpers import factories, toys
from tests.reference.perturbation import area, ranking, rise_blur, rise_curve

MODEL = "python:tests.helpers.factories:normalised"
OPTIONS = ("-m", MODEL, "--device", "cpu", "-a", "gxi", "--save-curves", "-o", "run", "--json")


def curves() -> dict[tuple[str, str], np.ndarray]:
    """Return the saved curves by (image, metric)."""
    curves = {}
    for path in Path("run/curves").iterdir():
        with np.load(path) as content:
            record = json.loads(str(content["record"]))
            if record["method"] == "input-x-gradient":
                curves[record["key"], record["metric"]] = content["curve"]
    return curves


def values() -> dict[tuple[str, str], float]:
    """Return the values by (image, metric)."""
    lines = [json.loads(line) for line in Path("run/items/0.jsonl").read_text().splitlines()]
    return {
        (record["key"], record["metric"].split(":")[0]): record["value"]
        for record in lines
        if record.get("method") == "input-x-gradient"
    }


def test_rise_protocol_equals_rise_program(xp, photos):
    """In normalized units: deletion to zero, insertion from the blur, top class of the original image, 4 pixels per step."""
    (summary,) = xp("evaluate", photos, *OPTIONS, "--protocol", "rise").records
    net = factories.normalised()
    loaded = xplain.load_classifier(MODEL, device="cpu")
    expected: dict[tuple[str, str], list[float]] = {}
    for key in ("cat/a.jpg", "espresso/b.jpg", "rocket/c.jpg"):
        x = xplain.read_image(photos / key, preprocessing=loaded.preprocessing)
        image = toys.normalise(x.double())
        with torch.no_grad():
            target = int(net(image[None]).argmax())

        def probability(z: torch.Tensor, target: int = target) -> float:
            with torch.no_grad():
                return float(net(z[None]).softmax(dim=1)[0, target])

        order = ranking(xplain.attribute(loaded, x[None], "gxi", target=target).values[0].sum(dim=0))
        expected[key, "deletion"] = rise_curve(probability, image, torch.zeros_like(image), order, 4)
        expected[key, "insertion"] = rise_curve(probability, rise_blur(image), image, order, 4)
    saved, areas = curves(), values()
    assert saved.keys() == areas.keys() == expected.keys()
    for key, curve in expected.items():
        assert len(curve) == 225
        np.testing.assert_allclose(saved[key], curve, rtol=1e-6)  # curves are saved in float32
        assert areas[key] == pytest.approx(area(curve), rel=1e-9)
    for row in summary["rows"]:
        if row["method"] == "input-x-gradient":
            name = row["metric"].split(":")[0]
            assert row["mean"] == pytest.approx(np.mean([area(c) for (_, m), c in expected.items() if m == name]))
