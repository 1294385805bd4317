"""load_classifier: class names and image size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import xplain
from tests.helpers import toys
from xplain.core.errors import InputError, UsageError


def test_classes_file_replaces_labels(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text("index,wnid,name\n0,n1,cat\n1,n2,dog\n2,n3,fox\n3,n4,owl\n4,n5,eel\n")
    model = toys.small_net()
    model.labels = list("abcde")
    classifier = xplain.load_classifier(model, device="cpu", classes=path)
    assert classifier.labels == ["cat", "dog", "fox", "owl", "eel"]
    assert classifier.wnids == ["n1", "n2", "n3", "n4", "n5"]
    assert xplain.load_classifier(model, device="cpu").labels == list("abcde")


def test_class_names_must_match_classes(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("cat\ndog\nfox\nowl\n")
    with pytest.raises(
        InputError, match=r"names\.txt' has 4 names, but SmallNet has 5 classes; use --classes with one name per class"
    ):
        xplain.load_classifier(toys.small_net(), device="cpu", classes=path)
    path.write_text("index,wnid,name\n" + "".join(f"{i},n{i},c{i}\n" for i in range(5)))
    classifier = xplain.load_classifier(toys.small_net(), device="cpu", classes=path)
    assert classifier.wnids == ["n0", "n1", "n2", "n3", "n4"]


def test_labels_are_the_same_as_a_list_of_classes():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    named = xplain.load_classifier(network, "cpu", size=8, labels=("cat", "dog"))
    assert (
        named.labels == xplain.load_classifier(network, "cpu", size=8, classes=["cat", "dog"]).labels == ["cat", "dog"]
    )
    with pytest.raises(UsageError, match="labels and classes both name the classes"):
        xplain.load_classifier(network, "cpu", size=8, labels=["cat", "dog"], classes=2)


def test_models_labels_must_match_classes():
    model = toys.small_net()
    model.labels = ["a", "b"]
    model.size = (8, 10)
    with pytest.raises(InputError, match="the model's labels has 2 names, but SmallNet has 5 classes"):
        xplain.load_classifier(model, device="cpu")


def test_image_size_rejected_by_model():
    with pytest.raises(
        InputError, match=r"Linear does not accept images of 9 x 9 pixels \(.*\); use another --image-size"
    ):
        xplain.load_classifier(toys.Linear(torch.ones(2, 3, 8, 8)), device="cpu", image_size=9)


@pytest.mark.parametrize("told", ["attribute", "argument"])
def test_outputs_are_checked_at_load_if_the_size_is_known(told):
    model = toys.Linear(torch.ones(3, 3, 8, 8).double())
    ending = torch.nn.DataParallel(torch.nn.Sequential(model, torch.nn.Sigmoid()))
    if told == "attribute":
        ending.module.size = 8
    ending.module.activation = "softmax"
    with pytest.raises(InputError, match="the model ends in a sigmoid, but its attribute 'activation' is 'softmax'"):
        xplain.load_classifier(ending, device="cpu", size=8 if told == "argument" else None)


@pytest.mark.parametrize("told", ["attribute", "argument"])
def test_size_inside_a_wrapper_is_required(told):
    model = torch.nn.DataParallel(toys.Linear(torch.ones(3, 3, 8, 8).double()))
    if told == "attribute":
        model.module.size = 9
    with pytest.raises(InputError, match="does not accept images of 9 x 9 pixels"):
        xplain.load_classifier(model, device="cpu", size=9 if told == "argument" else None)
