"""``xplain.evaluate``: the numbers of the command, for data on disk and in memory."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

import xplain
from tests.conftest import TINY
from tests.helpers import small_models
from xplain.core.errors import InputError, UsageError

METHODS = ["saliency", "ig:steps=2"]
METRICS = ["deletion:steps=4", "sparseness"]


@pytest.fixture(scope="module")
def classifier():
    return xplain.load_classifier(TINY[1], device="cpu")


@pytest.fixture
def images(classifier, photos):
    """Three images (3, 3, 32, 32); their labels are the classes 0, 1 and 2."""
    files = sorted(photos.rglob("*.jpg"))
    return torch.stack([xplain.read_image(file, preprocessing=classifier.preprocessing) for file in files])


class PhotoDataset(Dataset):
    """Pillow images with their labels, and one element that fails."""

    def __init__(self, files, broken=None):
        self.files, self.broken, self.reads = files, broken, 0

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        self.reads += 1
        if index == self.broken and self.reads > len(self):
            raise KeyError("lost")
        return Image.open(self.files[index]), index


def values_of(evaluation):
    return [(row["method"], row["metric"], row["value"], row["target"], row["label"]) for row in evaluation.rows]


@pytest.mark.parametrize("target", ["auto", "label"])
def test_numbers_of_the_command(xp, photos, classifier, target):
    arguments = [part for text in METHODS for part in ("-a", text)] + [
        part for text in METRICS for part in ("-M", text)
    ]
    ran = xp("evaluate", photos, *TINY, *arguments, "--target", target, "--json", "-o", "run")
    assert ran.code == 0, ran.err
    evaluation = xplain.evaluate(classifier, photos, METHODS, METRICS, target=target)
    summary, expected = evaluation.summary(), json.loads(ran.out)
    for key in ("rows", "items", "top1", "labelled", "interval", "warnings"):
        assert summary[key] == expected[key], key
    assert summary["run"]["fingerprint"] == expected["run"]["fingerprint"]
    stored = [json.loads(line) for line in Path("run/items/0.jsonl").read_text("utf-8").splitlines()]
    values = {(r["key"], r["method"], r["metric"]): r["value"] for r in stored if "metric" in r}
    assert {(r["image"], r["method"], r["metric"]): r["value"] for r in evaluation.rows} == values
    assert len(values) == 3 * 3 * 2
    assert evaluation.methods == ["saliency", "integrated-gradients:steps=2", "random"]
    assert evaluation.mean("saliency", "sparseness") == expected["rows"][3]["mean"]
    with pytest.raises(KeyError):
        evaluation.mean("saliency", "road")


def test_every_kind_of_data_gives_the_same_values(classifier, photos, images):
    labels = [0, 1, 2]
    files = sorted(photos.rglob("*.jpg"))
    pairs = TensorDataset(images, torch.tensor(labels))
    kinds = [
        (photos, None),
        (pairs, None),
        (DataLoader(pairs, batch_size=2), None),
        (DataLoader(images, batch_size=2), labels),
        (images, torch.tensor(labels)),
        (images.numpy(), ["cat", "espresso", "rocket"]),
        (PhotoDataset(files), None),
        (files, labels),
        ([np.asarray(Image.open(file).convert("RGB")) for file in files], labels),
        ([{"image": image, "label": label} for image, label in zip(images, labels, strict=True)], None),
        ([{"pixel_values": image} for image in images], np.array(labels)),
    ]
    evaluations = [
        xplain.evaluate(classifier, data, METHODS[0], METRICS[0], target="label", labels=given) for data, given in kinds
    ]
    for evaluation in evaluations[1:]:
        assert values_of(evaluation) == values_of(evaluations[0])
    assert [row["target"] for row in evaluations[0].rows[::2]] == labels
    assert [row["image"] for row in evaluations[1].rows[::2]] == ["0", "1", "2"]


def test_selection_of_images(classifier, images):
    data = TensorDataset(images[[0, 1, 2, 0, 1]], torch.tensor([0, 1, 1, 0, 1]))
    options = {"methods": "saliency", "metrics": "sparseness"}
    limited = xplain.evaluate(classifier, data, limit=2, **options)
    assert [row["image"] for row in limited.rows[::2]] == ["0", "2"]
    per_class = xplain.evaluate(classifier, data, per_class=1, per_class_order="first", **options)
    assert [row["image"] for row in per_class.rows[::2]] == ["0", "1"]
    assert per_class.summary()["items"] == {"evaluated": 2, "failed": 0, "of": 2}


def test_failing_elements_are_listed(classifier, photos):
    data = PhotoDataset(sorted(photos.rglob("*.jpg")), broken=1)
    evaluation = xplain.evaluate(classifier, data, "saliency", "sparseness")
    (failure,) = evaluation.failures
    assert failure.name == "1"
    assert str(failure.error).startswith("the data set failed at element 1: KeyError: 'lost'; check the data set")
    assert evaluation.summary()["items"]["failed"] == 1
    assert {row["image"] for row in evaluation.rows} == {"0", "2"}
    assert repr(evaluation).startswith("Evaluation(2 images, 1 failed)\n  sparseness  saliency  0.")


def test_data_set_is_read_when_needed(classifier, photos):
    data = PhotoDataset(sorted(photos.rglob("*.jpg")))
    xplain.evaluate(classifier, data, "saliency", "sparseness", limit=1)
    assert data.reads == 3  # the label, a check of the image before the run, and the run
    data.targets = [2, 1, 0]  # used without reading the elements
    evaluation = xplain.evaluate(classifier, data, "saliency", "sparseness")
    assert [row["label"] for row in evaluation.rows[::2]] == [2, 1, 0]
    assert data.reads == 3 + 1 + 3


def test_multi_label_data(images):
    classifier = xplain.load_classifier(small_models.multi_label(), device="cpu", size=32)
    rows = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]])
    evaluation = xplain.evaluate(classifier, TensorDataset(images, rows), "saliency", "sparseness", target="label")
    assert [(row["image"], row["target"]) for row in evaluation.rows[::2]] == [
        ("0#0", 0),
        ("0#2", 2),
        ("1", 3),
        ("2", 1),
    ]


def test_layer_as_module_and_unknown_size(images):
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(3600, 3)
    )
    evaluation = xplain.evaluate(module, images, "grad-cam", "sparseness", layer=module[1], device="cpu")
    assert evaluation.summary()["run"]["methods"]["grad-cam"]["params"]["layer"] == "1"
    assert evaluation.summary()["items"]["evaluated"] == 3


def test_tables(classifier, images, monkeypatch):
    pandas = pytest.importorskip("pandas")
    evaluation = xplain.evaluate(classifier, TensorDataset(images, torch.tensor([0, 1, 2])), METHODS, METRICS[1])
    frame = evaluation.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == list(evaluation.rows[0])
    assert len(frame) == 9
    assert frame["value"].tolist() == [row["value"] for row in evaluation.rows]
    assert frame.groupby("method")["value"].mean()["saliency"] == pytest.approx(
        evaluation.mean("saliency", "sparseness"), abs=1e-9
    )
    assert str(evaluation).splitlines()[0] == (
        f"3 images from images in memory, model {TINY[1]}; target: auto; top-1 accuracy 0.333"
    )
    html = evaluation._repr_html_()
    assert html.count("<tr>") == 4
    assert "<td>saliency</td>" in html
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(UsageError, match=r"^to_pandas requires pandas; run: pip install pandas$"):
        evaluation.to_pandas()


def test_progress_counts_images(classifier, images):
    calls = []
    xplain.evaluate(classifier, images, "saliency", "sparseness", progress=lambda *call: calls.append(call))
    assert calls[0] == (0, 3)
    assert calls[-1] == (3, 3)


def test_refusals(classifier, images):
    data = TensorDataset(images, torch.tensor([0, 1, 2]))

    def refuse(kind, message, data=data, **options):
        with pytest.raises(kind) as raised:
            xplain.evaluate(classifier, data, **{"methods": "saliency", "metrics": "sparseness"} | options)
        assert str(raised.value).startswith(message)

    refuse(UsageError, "roar trains networks of its own, which evaluate does not do in Python; use the", metrics="roar")
    refuse(UsageError, "evaluate does not support target 'tabby'; use auto or label", target="tabby")
    refuse(UsageError, "per_class_order requires per_class; set per_class", per_class_order="first")
    refuse(UsageError, "invalid limit 0; use a whole number of at least 1", limit=0)
    refuse(UsageError, "unknown method 'agii'; did you mean 'agi'?", methods="agii")
    refuse(UsageError, "got 2 labels for 3 images; pass one label per image", labels=[1, 2])
    refuse(UsageError, "the labels are of type int; pass one class per image", labels=3)
    refuse(InputError, f"image '0' has the label 7, but {TINY[1]} has 5 classes; pass class", labels=[7, 0, 0])
    refuse(InputError, "image '1' has the label 'dog'; use the index or the name of a class", labels=[0, "dog", 0])
    refuse(InputError, "image '2' has the label 0.5; use the index or the name of a class", labels=[0, 1, 0.5])
    refuse(UsageError, "--target label requires labels; use class folders or --labels", data=images, target="label")
    refuse(UsageError, "the data set is empty; pass at least one image", data=[])
    refuse(UsageError, "the data is of type int; pass a directory, a data set or loader", data=3)
    refuse(UsageError, "the images have the shape (3, 32, 32); pass a batch of images", data=images[0])
    refuse(UsageError, "an element has the entries a; call the image 'image'", data=[{"a": images[0]}])
    refuse(InputError, "the images have values from -", data=(images - 0.5) * 4)
    refuse(InputError, "dataset 'none' not found; pass a directory", data="none")
    sizes = [images[0], images[1][:, :16]]
    evaluation = xplain.evaluate(classifier, sizes, "saliency", "sparseness")
    assert str(evaluation.failures[0].error).startswith(
        "image '1' has the shape (3, 16, 32), but the first has (3, 32, 32); resize the images to one shape"
    )
