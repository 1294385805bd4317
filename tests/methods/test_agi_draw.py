"""Tests of AGI's choice of false classes: by logits, by the last layer, by distances from a file."""

import numpy as np
import pytest
import torch
from torch import nn

import xplain
from tests.helpers import toys
from tests.helpers.output_kinds import with_output
from xplain.core.errors import InputError, UsageError
from xplain.core.registry import METHODS
from xplain.data.preprocessing import Preprocessing
from xplain.pipelines.method_run import MethodRun

NETWORK = toys.small_net(1, scale=15.0, classes=7)
CLASSIFIER = toys.classifier(NETWORK)
X = toys.images(3)
TARGETS = [2, 0, 6]


def draw(kind, count, classifier=CLASSIFIER, target=TARGETS, **options):
    options = {"draw": kind, "classes": count, "steps": 1, "target": target, **options}
    return xplain.attribute(classifier, X[: len(target)], "agi", **options).details["classes"].tolist()


def cosine_distances():
    rows = NETWORK.head.weight.detach().double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return 1 - rows @ rows.T


def nearest_classes(matrix, target, count):
    others = [index for index in range(len(matrix)) if index != target]
    return sorted(others, key=lambda index: matrix[target][index])[:count]


def farthest_classes(matrix, target, count):
    """Farthest-first traversal from the target."""
    chosen = [target]
    for _ in range(count):
        others = [index for index in range(len(matrix)) if index not in chosen]
        chosen.append(max(others, key=lambda index: min(matrix[index][other] for other in chosen)))
    return chosen[1:]


@pytest.mark.parametrize("count", [1, 4, 6, 20])
def test_classes_by_rows_of_the_last_layer(count):
    matrix = cosine_distances()
    assert draw("near", count) == [nearest_classes(matrix, target, count) for target in TARGETS]
    expected = [farthest_classes(matrix, target, min(count, 6)) for target in TARGETS]
    assert draw("spread", count) == expected


def test_top_is_another_name_of_nearest():
    assert draw("top", 3) == draw("nearest", 3)
    maps = [xplain.attribute(CLASSIFIER, X, "agi", draw=kind, classes=2, steps=2).values for kind in ("top", "nearest")]
    assert torch.equal(*maps)


def test_near_prefers_equal_rows_and_breaks_ties_by_index():
    net = toys.small_net(1, classes=7)
    net.head.weight.data[5] = 3 * net.head.weight.data[2]
    net.head.weight.data[4] = net.head.weight.data[2]
    assert draw("near", 2, toys.classifier(net))[0] == [4, 5]


def test_all_classes_are_drawn_whatever_the_order():
    rows = [draw(kind, 6) for kind in ("random", "top", "near", "spread")]
    for target, *orders in zip(TARGETS, *rows, strict=True):
        assert all(sorted(order) == [index for index in range(7) if index != target] for order in orders)


def test_only_absent_labels_are_drawn():
    """Labels 1 and 3 are present."""
    logits = torch.tensor([-1.0, 2.0, -3.0, 1.0, -2.0]).double()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(2, 5).double()
            self.head.weight.data = torch.tensor([[0, 1], [1, 0], [1, 1], [1, 0], [-1, 0]]).double()
            self.head.bias.data = logits

        def forward(self, x):
            return self.head(0 * x.flatten(1)[:, :2])

    model = with_output(Net(), "sigmoid")
    assert draw("near", 4, model, [1]) == [[2, 0, 4, -1]]
    assert draw("spread", 4, model, [1]) == [[4, 0, 2, -1]]


@pytest.mark.parametrize("suffix", ["npy", "csv"])
def test_distances_from_a_file(tmp_path, suffix):
    matrix = np.random.default_rng(5).uniform(0.1, 9, (7, 7))
    path = tmp_path / f"wordnet.{suffix}"
    np.save(path, matrix) if suffix == "npy" else np.savetxt(path, matrix, delimiter=",")
    pooled = toys.classifier(nn.Sequential(nn.Conv2d(3, 7, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double())
    for classifier in (CLASSIFIER, pooled):  # the second one has no linear layer
        near = draw("near", 3, classifier, distances=path)
        assert near == [nearest_classes(matrix, target, 3) for target in TARGETS]
    text = f"agi:draw=spread,distances={path},classes=6,steps=1"
    spread = xplain.attribute(CLASSIFIER, X, text, target=TARGETS).details["classes"].tolist()
    # the distance of a class to the chosen ones is read from the rows of the chosen ones
    assert spread == [farthest_classes(matrix.T, target, 6) for target in TARGETS]


def test_content_of_the_distances_is_recorded(tmp_path):
    digests = []
    for value in (1, 2):
        np.save(tmp_path / "d.npy", np.full((7, 7), value))
        params = {"distances": str(tmp_path / "d.npy"), "draw": "near"}
        run = MethodRun.resolve(METHODS.get("agi"), params, Preprocessing())
        digests.append(run.hash_references()["references"])
    assert digests[0] != digests[1]
    assert MethodRun.resolve(METHODS.get("agi"), {}, Preprocessing()).hash_references() == {}


@pytest.mark.parametrize("kind", ["near", "spread"])
def test_models_without_a_last_linear_layer_are_refused(kind):
    pooled = nn.Sequential(nn.Conv2d(3, 7, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    scaled = nn.Sequential(nn.Flatten(), nn.Linear(240, 7), nn.Tanh()).double()
    for module in (pooled, scaled):
        with pytest.raises(UsageError) as error:
            draw(kind, 2, toys.classifier(module))
        assert str(error.value) == (
            f"agi: draw={kind} requires a network that ends in one linear layer, whose rows are compared; "
            "use draw=top, draw=random or distances=FILE"
        )


@pytest.mark.parametrize(
    ("content", "kind", "error", "message"),
    [
        (
            "1,2\n3,4",
            "near",
            InputError,
            "have the shape (2, 2), but the model has 7 classes; use a file with 7 x 7 numbers",
        ),
        ("a,b", "near", InputError, "use an .npy file, or lines of numbers with commas"),
        (",".join(["-1"] * 7) + "\n", "near", InputError, "are not finite or negative; use numbers >= 0"),
        (
            ",".join(["1"] * 7) + "\n",
            "top",
            UsageError,
            "agi: distances does not apply to draw=top; use draw=near or draw=spread",
        ),
    ],
)
def test_invalid_distances_are_refused(tmp_path, content, kind, error, message):
    path = tmp_path / "d.csv"
    path.write_text(content * 7 if content.endswith("\n") else content)
    with pytest.raises(error) as caught:
        draw(kind, 2, distances=path)
    assert str(caught.value).endswith(message)


def test_missing_file_of_distances_is_refused():
    with pytest.raises(
        UsageError, match=r"agi: invalid value distances=none\.npy; use an existing file or folder or none"
    ):
        draw("near", 2, distances="none.npy")
