"""Tests of xplain.pipelines.measurement and metric_run."""

from __future__ import annotations

import hashlib
from itertools import product

import numpy as np
import pytest
import torch

import xplain
from tests.helpers import toys
from xplain.core.config import Choice
from xplain.core.errors import InputError, UsageError
from xplain.core.options import ComputeOptions
from xplain.core.registry import METRICS, MetricSpec
from xplain.core.types import Score
from xplain.metrics.inputs import MetricInput
from xplain.oracle import Oracle
from xplain.pipelines.measurement import _make_explainer, resolve_metrics
from xplain.pipelines.metric_run import MetricResult, MetricRun, hash_path

LABELS = ["cat", "dog", "fox", "owl", "eel"]
NET = toys.small_net(1, scale=15.0)
CLASSIFIER = toys.classifier(NET, labels=LABELS)
X = toys.images(3)
SQUARES = toys.classifier(toys.Function(lambda x: torch.stack([x.sum((1, 2, 3)), (x**2).sum((1, 2, 3))], dim=1)))
SMALL_IMAGES = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def difference_after_step(inputs, *, explain, rng, size: float = 0.1) -> Score:
    """A metric that explains the images again, brighter by ``size``."""
    again = explain(inputs.images + size, inputs.y)
    return Score((again - inputs.attributions).flatten(1).abs().sum(dim=1) + 0 * rng.keys)


RERUN = MetricSpec(name="rerun", function=difference_after_step)


def rerun_inputs() -> MetricInput:
    """Return the saliency maps of SQUARES."""
    return MetricInput(Oracle(SQUARES), SMALL_IMAGES, 2 * SMALL_IMAGES, torch.tensor([1, 1]))


def test_measure_target_defaults_to_top_class():
    image, maps = X[:2], X[:2]
    start = NET(image).softmax(dim=1)
    top = xplain.measure(CLASSIFIER, image, maps, "deletion", steps=2).curve
    toys.assert_same(top[:, 0], start.amax(dim=1).detach())
    for target, index in product(("owl", 3, [3, 3]), (3,)):
        curve = xplain.measure(CLASSIFIER, image, maps, "deletion", target=target, steps=2).curve
        toys.assert_same(curve[:, 0], start[:, index].detach())


def test_measure_counts_rows():
    score = xplain.measure(CLASSIFIER, X, X, "deletion", steps=4, batch_size=2)
    assert (score.cost.forwards, score.cost.backwards, score.cost.checks) == (15, 0, 3)


@pytest.mark.parametrize("shape", [(2, 3, 8, 10), (3, 3, 8, 9), (1, 3, 8, 10)])
def test_measure_needs_one_map_per_image(shape):
    with pytest.raises(
        InputError,
        match=r"attributions of shape \(.*\) do not match images of shape \(3, 3, 8, 10\); pass attributions of shape",
    ):
        xplain.measure(CLASSIFIER, X, torch.zeros(shape), "deletion", steps=2)


def test_measure_rejects_other_channel_count():
    with pytest.raises(InputError, match=r"attributions of shape \(3, 2, 8, 10\)"):
        xplain.measure(CLASSIFIER, X, torch.zeros(3, 2, 8, 10), "deletion", steps=2)


def test_measure_needs_finite_floating_maps():
    maps = X.clone()
    maps[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="attributions"):
        xplain.measure(CLASSIFIER, X, maps, "deletion", steps=2)
    with pytest.raises(UsageError, match="attributions"):
        xplain.measure(CLASSIFIER, X, torch.ones(3, 1, 8, 10).long(), "deletion", steps=2)


def test_measure_accepts_one_channel_float32():
    grey = X.mean(dim=1, keepdim=True)
    a = xplain.measure(CLASSIFIER, X, grey, "deletion", steps=5)
    b = xplain.measure(CLASSIFIER, X, grey.expand(-1, 3, -1, -1).float(), "deletion", steps=5)
    toys.assert_same(a.curve, b.curve)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_measure_needs_floating_point_images(dtype):
    """The message is that of attribute."""
    images = torch.ones(2, 3, 8, 10, dtype=dtype)
    with pytest.raises(UsageError, match=r"^images .*floating") as expected:
        xplain.attribute(CLASSIFIER, images, "saliency")
    with pytest.raises(UsageError) as error:
        xplain.measure(CLASSIFIER, images, torch.ones(2, 3, 8, 10), "deletion", steps=2)
    assert str(error.value) == str(expected.value)


def test_measure_needs_images():
    with pytest.raises(xplain.XplainError):
        xplain.measure(CLASSIFIER, X[:0], X[:0], "deletion", steps=2)


def test_unknown_metric_suggests_similar_name():
    with pytest.raises(UsageError) as error:
        xplain.measure(CLASSIFIER, X, X, "delete")
    assert str(error.value) == "unknown metric 'delete'; did you mean 'deletion'?"


@pytest.mark.parametrize("shape", [(3, 4), (2, 1, 4), (3, 1, 5)])
def test_measure_rejects_boxes_of_other_shape(shape):
    with pytest.raises(
        InputError, match=r"boxes of shape \(.*\) do not match 3 images; pass boxes of shape \(images, boxes, 4\)"
    ):
        xplain.measure(CLASSIFIER, X, X, "pointing-game", boxes=torch.zeros(shape))


def test_measure_rejects_metric_of_data_sets():
    with pytest.raises(UsageError) as error:
        xplain.measure(CLASSIFIER, X, X, "roar")
    assert str(error.value) == 'roar requires a dataset; use "xplain evaluate DATASET --metric roar"'


def test_measure_needs_box_tensor(tmp_path):
    """Names of images, which a file of boxes needs, are known only to the commands."""
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("a.jpg,0,0,1,1\n")
    with pytest.raises(
        UsageError, match="cannot look up boxes in a file, because the images have no names; pass a tensor"
    ):
        xplain.measure(CLASSIFIER, X, X, "pointing-game", boxes=str(boxes))


@pytest.mark.parametrize("method", ["saliency", lambda classifier, images, target: 2 * images])
def test_metric_reruns_the_method(method):
    """The method is named, or a function."""
    explain = _make_explainer(Oracle(SQUARES), method, SMALL_IMAGES, ComputeOptions())
    score = MetricRun.resolve(RERUN, {}).measure(rerun_inputs(), ComputeOptions(), explain)
    assert score.values.tolist() == pytest.approx([2 * 0.1 * 48] * 2)


def test_metric_needs_method_to_rerun():
    with pytest.raises(UsageError) as error:
        MetricRun.resolve(RERUN, {}).measure(rerun_inputs(), ComputeOptions())
    assert str(error.value) == "rerun requires the attribution method; pass it, for example method='saliency'"


def test_metric_reruns_method_with_same_draws():
    y = torch.tensor([1, 1])
    explain = _make_explainer(Oracle(SQUARES), "smoothgrad:samples=3,noise=0.5", SMALL_IMAGES, ComputeOptions())
    assert explain(SMALL_IMAGES + 0.1, y) == pytest.approx(explain(SMALL_IMAGES, y) + 2 * 0.1)


def test_measure_counts_rows_of_reruns():
    maps = xplain.attribute(CLASSIFIER, X, "saliency").values
    score = xplain.measure(CLASSIFIER, X, maps, "max-sensitivity", method="saliency", samples=2)
    assert score.cost.backwards == 3 * 2


def test_result_names_reason_if_undefined():
    score = Score(torch.tensor([0.5, torch.nan, 0.25]), torch.tensor([[0.5, 0.5]] * 3))
    undefined = {"no box": torch.tensor([True, False, False]), "no class": torch.tensor([True, False, False])}
    result = MetricResult(None, score, undefined)
    assert result.read(0) == {"value": None, "undefined": "no box", "curve": None}
    assert result.read(1) == {"value": None, "undefined": "not a number", "curve": None}
    assert result.read(2) == {"value": 0.25, "undefined": None, "curve": [0.5, 0.5]}


@pytest.mark.parametrize(
    ("steps", "points"), [(8, range(9)), (20, range(21)), (40, range(0, 41, 2)), (224, np.linspace(0, 224, 21).round())]
)
def test_result_keeps_21_curve_points(steps, points):
    score = Score(torch.tensor([0.5]), torch.arange(steps + 1.0)[None])
    assert MetricResult(None, score, {}).read(0)["curve"] == [float(k) for k in points]


def test_result_drops_curve_of_one_point():
    score = Score(torch.tensor([0.5]), torch.tensor([[0.5]]))
    assert MetricResult(None, score, {}).read(0) == {"value": 0.5, "undefined": None, "curve": None}
    assert MetricResult(None, score, {}).read(0, None)["curve"] is None


def test_resolve_metrics_labels_without_trials():
    """The number of trials may be raised when a run is continued, so it is not part of the label."""
    (run,) = resolve_metrics(None, (Choice.parse("roar:trials=7,epochs=2"),))
    assert (run.label, run.settings["trials"]) == ("roar:epochs=2", 7)


@pytest.mark.parametrize(
    "texts",
    [("deletion:steps=2", "deletion:steps=2"), ("roar:trials=1", "roar:trials=2")],
)
def test_resolve_metrics_rejects_repeated_metric(texts):
    with pytest.raises(UsageError, match="is specified more than once; remove the duplicate"):
        resolve_metrics(None, tuple(Choice.parse(text) for text in texts))


def test_metric_run_hashes_named_files(tmp_path):
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("a.jpg,0,0,1,1\n")
    params = {"boxes": str(boxes)}
    before = MetricRun.resolve(METRICS.get("pointing-game"), params).describe()
    assert MetricRun.resolve(METRICS.get("pointing-game"), params).describe() == before
    boxes.write_text("a.jpg,0,0,1,2\n")
    after = MetricRun.resolve(METRICS.get("pointing-game"), params).describe()
    assert before["files"] != after["files"]
    assert "files" not in MetricRun.resolve(METRICS.get("deletion"), {}).describe()


def test_hash_of_folder_ignores_output_only(tmp_path):
    """The hash of a folder is that of earlier versions; output of xplain does not change it, and a linked folder does."""
    for name in ("a.xml", "sub/b.xml", "sub/c.jpg", ".hidden/d", "e-f/g.xml"):
        (tmp_path / "boxes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "boxes" / name).write_text(name)
    digest = hashlib.sha256()
    for path in sorted((tmp_path / "boxes").rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(tmp_path / "boxes").as_posix().encode() + b"\0" + path.read_bytes())
    assert hash_path(tmp_path / "boxes") == digest.hexdigest()
    for name in ("xplain-runs/x/summary.json", "sub/xplain-out/a.png", "run/items/0.jsonl", "run/summary.md"):
        (tmp_path / "boxes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "boxes" / name).write_text("output")
    (tmp_path / "boxes/run/run.json").write_text('{"fingerprint": {}, "methods": {}, "metrics": {}}')
    assert hash_path(tmp_path / "boxes") == digest.hexdigest()
    (tmp_path / "more").mkdir()
    (tmp_path / "more/h.xml").write_text("h")
    (tmp_path / "boxes/linked").symlink_to(tmp_path / "more")
    assert hash_path(tmp_path / "boxes") != digest.hexdigest()
