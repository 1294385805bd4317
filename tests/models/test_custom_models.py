"""User-defined models: ``python:`` factories and modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import xplain
from tests.helpers import toys
from xplain.core.errors import InputError, UsageError
from xplain.core.option_words import option_names
from xplain.data.preprocessing import Preprocessing

MODULE = """
from torch import nn
import torch

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2).double()
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[1., 2., 3.], [4., 5., 6.]]))
            self.fc.bias.zero_()
    def forward(self, x):
        return self.fc(x.mean(dim=(2, 3)))

def make():
    return Net()

def make_normalized():
    net = Net()
    net.mean, net.std, net.size, net.labels = (0.5, 0.5, 0.5), torch.full((1, 3, 1, 1), 0.25), (16, 24), ["cat", "dog"]
    return net

def make_dict():
    return {"a": 1}

def import_missing_module():
    import no_such_module_at_all

def fail():
    raise RuntimeError("no checkpoint")

def make_ready():
    return Net()

ready = make_ready()
CONSTANT = 3
"""


@pytest.fixture
def toybox(tmp_path, monkeypatch) -> Iterator[Path]:
    """Change to a directory that contains the package ``toybox``, and undo its imports afterwards."""
    folder = tmp_path / "toybox"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text(MODULE)
    (folder / "broken.py").write_text("import no_such_module_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "toybox"]:
        del sys.modules[name]


def load(name: str | nn.Module, **options) -> xplain.Classifier:
    return xplain.load_classifier(name, device="cpu", **options)


def usage_error(name: str) -> str:
    """Return the text of the UsageError that loading the model raises."""
    with pytest.raises(UsageError) as error:
        load(name)
    assert error.value.exit_code == 2
    return str(error.value)


@pytest.mark.usefixtures("toybox")
def test_factory_in_current_directory():
    classifier = load("python:toybox.nets:make")
    assert classifier.name == "python:toybox.nets:make"
    assert not classifier.training
    x = torch.ones(1, 3, 4, 4, dtype=torch.float64) * torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    assert classifier(x)[0].tolist() == pytest.approx([1.4, 3.2], rel=1e-6)  # pixels unchanged
    assert classifier.labels == []


@pytest.mark.usefixtures("toybox")
def test_factory_model_attributes_are_used():
    classifier = load("python:toybox.nets:make_normalized")
    x = torch.full((1, 3, 4, 4), 0.75, dtype=torch.float64)
    assert classifier(x)[0].tolist() == pytest.approx([6.0, 15.0])  # (0.75 - 0.5) / 0.25 = 1
    assert classifier.size == (16, 24)
    assert classifier.preprocessing.resize == round(24 / 0.875)
    assert classifier.labels == ["cat", "dog"]
    assert classifier.class_names.find("dog") == 1


@pytest.mark.usefixtures("toybox")
def test_image_size_overrides_models_size():
    classifier = load("python:toybox.nets:make_normalized", image_size=48)
    assert classifier.preprocessing == Preprocessing((48, 48), round(48 * 27 / 24))  # 27: the resize for (16, 24)


def test_module_uses_mean_attribute():
    net = toys.small_net()
    net.mean = torch.tensor([0.5, 0.5, 0.5])
    classifier = load(net)
    x = toys.images()
    assert torch.equal(classifier(x), net(x - 0.5))
    assert classifier.name == "SmallNet"


@pytest.mark.usefixtures("toybox")
@pytest.mark.parametrize(
    "name",
    ["python:", "python:toybox.nets", "python:toybox.nets:", "python::make", "python:./toybox/nets.py:make"],
)
def test_factory_name_is_invalid(name):
    assert repr(name) in usage_error(name)


@pytest.mark.usefixtures("toybox")
@pytest.mark.parametrize("module", ["nowhere", "nowhere.nets", "toybox.nowhere", "toybox.no.where"])
def test_factory_module_is_missing(module):
    text = usage_error(f"python:{module}:make")
    assert text.startswith(f"module {module!r} of model 'python:{module}:make' not found; ")


@pytest.mark.usefixtures("toybox")
def test_factory_missing_suggests_near_names():
    text = usage_error("python:toybox.nets:mkae")
    assert text == "module 'toybox.nets' has no function 'mkae'; did you mean 'make'?"


@pytest.mark.usefixtures("toybox")
def test_factory_is_not_callable():
    assert "CONSTANT" in usage_error("python:toybox.nets:CONSTANT")


@pytest.mark.usefixtures("toybox")
def test_factory_returns_no_module():
    with pytest.raises(InputError, match=r"'python:toybox.nets:make_dict' returned dict, not an nn\.Module"):
        load("python:toybox.nets:make_dict")


@pytest.mark.usefixtures("toybox")
def test_errors_of_own_code_name_their_place():
    with pytest.raises(InputError) as error:
        load("python:toybox.broken:make")
    assert str(error.value) == (
        "module 'toybox.broken' of model 'python:toybox.broken:make' cannot be imported: ModuleNotFoundError: "
        "No module named 'no_such_module_at_all' (broken.py, line 1); run the code in Python to see the traceback"
    )
    with pytest.raises(
        InputError, match=r"'python:toybox.nets:fail' failed: RuntimeError: no checkpoint \(nets.py, line \d+\)"
    ):
        load("python:toybox.nets:fail")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("net.pth", "to load a file of weights, use --weights net.pth and name the network by -m, such as "),
        (
            "mine/net.py",
            "use python:mine.net:FACTORY, where FACTORY is a function that returns the network, or the network",
        ),
        ("python:mine/net.py", "use python:mine.net:FACTORY, where "),
        ("samples/cat.jpg", "it is the name of an image; in Python, the model comes before the images"),
    ],
)
def test_other_files_are_recognized(name, hint):
    with option_names():
        assert usage_error(name).partition("; ")[2].startswith(hint)


@pytest.mark.usefixtures("toybox")
def test_a_module_needs_no_factory():
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(load("python:toybox.nets:ready")(x), load("python:toybox.nets:make_ready")(x))
