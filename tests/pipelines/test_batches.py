"""Tests of xplain.pipelines.batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import xplain
from tests.helpers import factories, toys
from xplain.core.config import Choice
from xplain.core.errors import Failure, InputError
from xplain.core.options import ComputeOptions
from xplain.data.datasets import Item
from xplain.data.loading import LoadedImage
from xplain.data.preprocessing import Preprocessing
from xplain.data.sources import ImageSource
from xplain.models import Classifier
from xplain.oracle.targets import TargetSpec
from xplain.pipelines.attribution import resolve_methods
from xplain.pipelines.batches import PredictedBatch, TargetedBatch, largest_group, make_items, predict_batches

LABELS = ["cat", "dog", "fox", "owl", "eel"]


@pytest.fixture
def classifier() -> Classifier:
    return toys.classifier(toys.small_net(1), labels=LABELS, preprocessing=Preprocessing.for_size(8))


@pytest.fixture
def items(tmp_path) -> list[Item]:
    """Five images of 8 x 8 with labels 0 to 4; the names are a.png to e.png."""
    items = []
    for label, name in enumerate("abcde"):
        path = tmp_path / f"{name}.png"
        pixels = np.random.default_rng(label).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        items.append(Item(f"{name}.png", ImageSource(path, name), label))
    return items


def collect(classifier, items, size, *, needs_labels=False) -> tuple[list[list[Failure]], list[PredictedBatch | None]]:
    """Return the failures and the batch of each group."""
    groups = list(predict_batches(classifier, items, ComputeOptions(), size=size, needs_labels=needs_labels))
    return [failures for failures, _ in groups], [batch for _, batch in groups]


def keys(batches: list[PredictedBatch | None]) -> list[list[str] | None]:
    return [None if batch is None else [item.key for item in batch.items] for batch in batches]


def test_predict_batches_groups_in_order(classifier, items):
    failures, batches = collect(classifier, items, 2)
    assert failures == [[], [], []]
    assert keys(batches) == [["a.png", "b.png"], ["c.png", "d.png"], ["e.png"]]
    assert [batch.labels for batch in batches] == [[0, 1], [2, 3], [4]]


def test_predict_batches_returns_images_and_logits(classifier, items):
    _, (batch,) = collect(classifier, items, 5)
    assert (batch.images.shape, batch.images.dtype) == ((5, 3, 8, 8), torch.float64)
    for item, image in zip(items, batch.images, strict=True):
        assert torch.equal(image, xplain.read_image(item.source.path, preprocessing=classifier.preprocessing).double())
    toys.assert_same(batch.logits, classifier(batch.images).detach())
    assert [loaded.source for loaded in batch.loaded] == [item.source for item in items]


def test_predict_batches_of_no_items(classifier):
    assert collect(classifier, [], 2) == ([], [])


def test_predict_batches_fails_unreadable_images(classifier, items):
    items[0].source.path.write_text("text")
    items[4].source.path.unlink()
    failures, batches = collect(classifier, items, 2)
    assert [[failure.name for failure in group] for group in failures] == [["a.png"], [], ["e.png"]]
    assert "no such file" in str(failures[2][0].error)
    assert keys(batches) == [["b.png"], ["c.png", "d.png"], None]


@pytest.mark.parametrize("factory", [factories.broken, factories.infinite])
def test_predict_batches_fails_bad_logits(items, factory):
    Image.new("RGB", (32, 32)).save(items[1].source.path)  # dark, and so with logits that are not finite
    classifier = toys.classifier(factory(), preprocessing=Preprocessing.for_size(32))
    (failures,), (batch,) = collect(classifier, items, 5)
    assert [str(failure.error) for failure in failures] == [
        "the logits of 'b.png' contain NaN or infinity; check the weights or use --precision fp32"
    ]
    assert isinstance(failures[0].error, InputError)
    assert keys([batch]) == [["a.png", "c.png", "d.png", "e.png"]]
    assert bool(batch.logits.isfinite().all())
    toys.assert_same(batch.logits, classifier(batch.images).detach())


def test_predict_batches_can_need_labels(classifier, items):
    items[2] = Item("c.png", items[2].source, None)
    (failures,), (batch,) = collect(classifier, items, 5, needs_labels=True)
    assert [str(failure.error) for failure in failures] == ["'c.png' has no label; add a label or remove the image"]
    assert batch.labels == [0, 1, 3, 4]
    (failures,), (batch,) = collect(classifier, items, 5)
    assert failures == []
    assert batch.labels == [0, 1, None, 3, 4]


def test_predict_batches_without_usable_image(classifier, items):
    unlabelled = [Item(item.key, item.source, None) for item in items[:2]]
    (failures,), batches = collect(classifier, unlabelled, 2, needs_labels=True)
    assert [failure.name for failure in failures] == ["a.png", "b.png"]
    assert batches == [None]


def make_batch(count: int, contrasts: torch.Tensor | None = None) -> TargetedBatch:
    """Return a batch whose tensors hold the position of each image; the targets are the positions plus 5."""
    sources = [ImageSource(None, f"{i}", content=b"") for i in range(count)]
    items = [Item(f"{i}", source, i) for i, source in enumerate(sources)]
    loaded = [LoadedImage(source, f"digest {i}", torch.zeros(3, 2, 2), (2, 2)) for i, source in enumerate(sources)]
    positions = torch.arange(count)
    images, logits = positions.view(-1, 1, 1, 1).float(), positions.view(-1, 1).float()
    return TargetedBatch(items, loaded, images, logits, positions + 5, contrasts)


@pytest.mark.parametrize("contrasts", [None, torch.tensor([[10, 20], [11, 21], [12, 22], [13, 23]])])
def test_select_keeps_entries_together(contrasts):
    batch = make_batch(4, contrasts).select([3, 1])
    assert len(batch) == 2
    assert [item.key for item in batch.items] == ["3", "1"]
    assert [loaded.digest for loaded in batch.loaded] == ["digest 3", "digest 1"]
    assert (batch.images.flatten().tolist(), batch.logits.flatten().tolist()) == ([3, 1], [3, 1])
    assert batch.targets.tolist() == [8, 6]
    assert batch.labels == [3, 1]
    assert batch.contrasts_of(0) == ([] if contrasts is None else [13, 23])


@pytest.mark.parametrize(
    ("size", "index", "keys"),
    [
        (1, None, ["0", "1", "2", "3", "4"]),
        (2, None, ["01", "23", "4"]),
        (9, None, ["01234"]),
        (2, [0, 2, 4], ["02", "4"]),
        (2, [], []),
    ],
)
def test_parts_fill_model_calls(classifier, size, index, keys):
    """Saliency takes one row per image, so that the batch size is the number of images per part."""
    (saliency,) = resolve_methods([Choice("saliency")], None, classifier)
    parts = make_batch(5).parts(saliency, classifier, ComputeOptions(batch_size=size), index)
    assert ["".join(item.key for item in part.items) for part in parts] == keys


def test_for_targets_yields_each_target(classifier, items):
    _, (batch,) = collect(classifier, items, 5)
    order = batch.logits.argsort(dim=1, descending=True)
    targeted = list(batch.for_targets(TargetSpec.parse("top:2", "runner-up", classifier), classifier))
    assert [part.targets.tolist() for part in targeted] == [order[:, 0].tolist(), order[:, 1].tolist()]
    assert [part.contrasts.flatten().tolist() for part in targeted] == [order[:, 1].tolist(), order[:, 0].tolist()]
    assert all(part.images is batch.images for part in targeted)


def test_for_targets_uses_labels(classifier, items):
    _, (batch,) = collect(classifier, items, 5)
    (targeted,) = batch.for_targets(TargetSpec.parse("label", None, classifier), classifier)
    assert targeted.targets.tolist() == [0, 1, 2, 3, 4]
    assert targeted.contrasts is None


def test_make_items_labels_by_folder(classifier):
    sources = [ImageSource(None, name, folder, b"") for name, folder in (("a", "dog"), ("b", "dogg"), ("c", "4"))]
    items, failures = make_items(sources, classifier.class_names, needs_labels=True)
    assert [item.label for item in items] == [1, 4]
    assert len(failures) == 1
    text = str(failures[0].error)
    assert text == "'-' has no label: unknown class 'dogg'; did you mean 'dog'?"
    items, failures = make_items(sources, classifier.class_names, needs_labels=False)
    assert ([item.label for item in items], failures) == ([None] * 3, [])


def test_largest_group_serves_widest_method(classifier):
    """The method with the fewest rows per image at a time takes the most images per call."""
    compute = ComputeOptions(batch_size=12)
    methods = resolve_methods([Choice.parse("ig:steps=4"), Choice("saliency")], None, classifier)
    sizes = [method.images_per_call(classifier, 12) for method in methods]
    assert largest_group(methods, classifier, compute) == max(sizes) == 12
    assert largest_group(methods[:1], classifier, compute) == sizes[0] < 12
