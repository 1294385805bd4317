"""The default model on photographs, against arrays of reference programs if they are available."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import xplain
from tests.conftest import ROOT, SAMPLES

SHARED = ROOT.parent / "shared"
ORACLES = sorted((SHARED / "oracles").glob("*.npz"))
needs_oracles = pytest.mark.skipif(not ORACLES, reason="the reference arrays are not available")


@pytest.fixture(scope="module")
def clf() -> xplain.Classifier:
    return xplain.load_classifier(device="cpu")


@pytest.fixture(params=[0, 1], ids=["tiger-cat", "espresso"])
def reference(request) -> dict[str, torch.Tensor]:
    with np.load(ORACLES[request.param]) as content:
        return {key: torch.from_numpy(np.atleast_1d(content[key])) for key in content}


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


@needs_oracles
def test_probabilities_match_reference(clf, reference):
    with torch.no_grad():
        probabilities = clf(reference["x"][None]).softmax(1)[0]
    assert float((probabilities - reference["probabilities"]).abs().max()) < 1e-4
    assert int(probabilities.argmax()) == int(reference["target"])


@needs_oracles
@pytest.mark.parametrize(("steps", "least"), [(1, 0.99), (5, 0.6)])
def test_agi_matches_authors_program(clf, reference, steps, least):
    contrasts = reference["agi_false_classes"].tolist()
    att = xplain.attribute(clf, reference["x"][None], "agi", variant="official", steps=steps, against=contrasts)
    assert cosine(att.values[0], reference[f"agi_official_{steps}"]) >= least


@needs_oracles
@pytest.mark.parametrize(("ascent", "step_size", "radius"), [("smooth", 0.001, 0.3), ("sharp", 0.1, None)])
def test_mfaba_left_matches_authors_program(clf, reference, ascent, step_size, radius):
    att = xplain.attribute(
        clf, reference["x"][None], "mfaba", rule="left", ascent=ascent, step_size=step_size, radius=radius
    )
    assert cosine(att.values[0], reference[f"mfaba_{ascent}_left"]) >= 0.99
    assert int(att.details["steps"]) == int(reference[f"mfaba_{ascent}_steps"])


@needs_oracles
def test_integrated_gradients_matches_captum(clf, reference):
    att = xplain.attribute(clf, reference["x"][None], "ig", steps=50, score="logit")
    expected = reference["ig_gausslegendre50_logit_black"]
    assert cosine(att.values[0], expected) >= 0.9999
    assert float(att.total) == pytest.approx(float(expected.double().sum()), rel=1e-2)


@needs_oracles
def test_integrated_gradients_gap_shrinks(clf, reference):
    """On this model 50 nodes leave a gap of 15 % (tiger cat) and 4 % (espresso) of the logit, also in the reference arrays."""
    gaps = []
    for steps in (50, 400):
        att = xplain.attribute(clf, reference["x"][None], "ig", steps=steps, score="prob")
        gaps.append(abs(float(att.gap / att.expected)))
    assert gaps[0] < 0.015
    assert gaps[1] < 0.005


@needs_oracles
def test_trapezoid_is_more_complete(clf, reference):
    def gap(rule: str) -> float:
        att = xplain.attribute(clf, reference["x"][None], "mfaba", rule=rule, ascent="sharp")
        return abs(float(att.gap / att.expected))

    assert gap("trapezoid") < gap("left")


def test_top1_of_photographs(clf):
    folder = SHARED / "imagenet_samples"
    if not folder.is_dir():
        pytest.skip("the labeled photographs are not available")
    files = sorted(folder.glob("*/*.JPEG"))
    right = 0
    for start in range(0, len(files), 16):
        batch = files[start : start + 16]
        with torch.no_grad():
            best = clf(torch.stack([xplain.read_image(path) for path in batch])).argmax(1)
        right += sum(clf.wnids[index] == path.parent.name for index, path in zip(best.tolist(), batch, strict=True))
    assert right / len(files) == pytest.approx(0.88, abs=0.02)


@pytest.mark.parametrize(("name", "label"), [("cat", "tiger cat")])
def test_neflag_beats_controls(clf, name, label):
    x = xplain.read_image(SAMPLES / f"{name}.jpg")[None]
    maps = {method: xplain.attribute(clf, x, method) for method in ("neflag", "random", "sobel")}
    assert clf.labels[int(maps["neflag"].target)] == label
    gains = {
        method: float(xplain.measure(clf, x, att.values, "insertion", steps=32).values)
        - float(xplain.measure(clf, x, att.values, "deletion", steps=32).values)
        for method, att in maps.items()
    }
    assert gains["neflag"] > gains["sobel"]
    assert gains["neflag"] > gains["random"] + 0.02


def test_samples_readme_names_files():
    text = (SAMPLES / "README.md").read_text("utf-8")
    for path in Path(SAMPLES).glob("*.[jp][pn]g"):
        assert path.name in text
