"""``xplain evaluate --protocol``: the numbers are those of the papers' programs, written out pixel by pixel."""

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
ASK = ("-m", MODEL, "--device", "cpu", "-a", "gxi", "--save-curves", "-o", "run", "--json")


def curves() -> dict[tuple[str, str], np.ndarray]:
    """By (image, metric)."""
    found = {}
    for path in Path("run/curves").iterdir():
        with np.load(path) as content:
            record = json.loads(str(content["record"]))
            if record["method"] == "input-x-gradient":
                found[record["key"], record["metric"]] = content["curve"]
    return found


def values() -> dict[tuple[str, str], float]:
    """By (image, metric)."""
    lines = [json.loads(line) for line in Path("run/items/0.jsonl").read_text().splitlines()]
    return {
        (each["key"], each["metric"].split(":")[0]): each["value"]
        for each in lines
        if each.get("method") == "input-x-gradient"
    }


def test_rise_protocol_equals_rise_program(xp, photos):
    """Everything in normalised units: deletion to zero, insertion from the blur, the clean image's top class, 4 pixels a step."""
    (summary,) = xp("evaluate", photos, *ASK, "--protocol", "rise").records
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
    found, areas = curves(), values()
    assert found.keys() == areas.keys() == expected.keys()
    for each, curve in expected.items():
        assert len(curve) == 225
        np.testing.assert_allclose(found[each], curve, rtol=1e-6)  # curves are kept in float32
        assert areas[each] == pytest.approx(area(curve), rel=1e-9)
    for row in summary["rows"]:
        if row["method"] == "input-x-gradient":
            name = row["metric"].split(":")[0]
            assert row["mean"] == pytest.approx(np.mean([area(c) for (_, m), c in expected.items() if m == name]))
