"""Classes by name, the normalisation, python: models, devices, class files and logits that cannot be used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import xplain
from tests.helpers import toys
from xplain.core.errors import DeviceError, InputError, UsageError
from xplain.data.class_names import imagenet_classes, read_classes
from xplain.data.preprocessing import Preprocessing
from xplain.models.devices import select_device


def named(labels, wnids=()) -> xplain.Classifier:
    return toys.classifier(toys.small_net(classes=len(labels)), labels=labels, wnids=wnids)


@pytest.fixture(scope="module")
def imagenet() -> xplain.Classifier:
    wnids, labels = imagenet_classes()
    return toys.classifier(nn.Flatten(), labels=labels, wnids=wnids)


def refused(call, *arguments) -> str:
    with pytest.raises(UsageError) as error:
        call(*arguments)
    assert error.value.exit_code == 2
    return str(error.value)


# ------------------------------------------------------------------------------------------------- classes by name


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("0", 0),
        ("999", 999),
        ("n02099601", 207),
        ("N02099601", 207),
        ("golden retriever", 207),
        ("Golden Retriever", 207),
        ("golden_retriever", 207),
        ("GOLDEN_RETRIEVER", 207),
        ("crane", 517),
        ("crane bird", 134),
        ("maillot", 638),
        ("maillot tank suit", 639),
        ("Cardigan", 264),
        ("cardigan", 474),
    ],
)
def test_a_class_is_found_by_index_wnid_or_name(imagenet, text, index):
    assert imagenet.class_names.find(text) == index


def test_every_class_is_found_by_its_own_name_and_wnid(imagenet):
    assert [imagenet.class_names.find(name) for name in imagenet.labels] == list(range(1000))
    assert [imagenet.class_names.find(wnid) for wnid in imagenet.wnids] == list(range(1000))


@pytest.mark.parametrize(
    ("text", "index"), [("great white shark", 0), ("Great_White_Shark", 0), ("great_white_shark", 0), ("b", 1)]
)
def test_underscores_in_the_models_own_names_do_not_matter(text, index):
    assert named(["great_white_shark", "B"]).class_names.find(text) == index


def test_a_name_that_two_classes_have_is_refused_with_both():
    text = refused(named(["crane", "dog", "crane"], ["n1", "n2", "n3"]).class_names.find, "crane")
    assert text == "class name 'crane' is ambiguous: it is the name of 0 and 2; use the index or the wnid"


def test_a_spelling_that_fits_two_classes_is_refused_and_the_exact_ones_are_not(imagenet):
    model = named(["Cardigan", "cardigan"])
    assert [model.class_names.find(each) for each in ("Cardigan", "cardigan")] == [0, 1]
    assert refused(model.class_names.find, "CARDIGAN").startswith(
        "class name 'CARDIGAN' is ambiguous: it is the name of 0 and 1"
    )
    assert refused(imagenet.class_names.find, "CARDIGAN").startswith(
        "class name 'CARDIGAN' is ambiguous: it is the name of 264 and 474"
    )


@pytest.mark.parametrize(
    ("text", "near"), [("golden retreiver", "'golden retriever'"), ("Tenchh", "'tench'"), ("n02099602", "'n02099601'")]
)
def test_an_unknown_class_names_its_relatives(imagenet, text, near):
    found = refused(imagenet.class_names.find, text)
    assert found.startswith(f"unknown class {text!r}; did you mean ")
    assert near in found


def test_a_class_like_no_other_is_sent_to_the_list(imagenet):
    assert refused(imagenet.class_names.find, "qqqqqq") == "unknown class 'qqqqqq'; see xplain list classes"
    assert refused(imagenet.class_names.find, "").startswith("unknown class ''")


@pytest.mark.parametrize("text", ["1000", "-1", "99999"])
def test_an_index_out_of_range_is_refused_with_the_range(imagenet, text):
    assert refused(imagenet.class_names.find, text) == f"class index {text} is not in 0 .. 999; see xplain list classes"


def test_a_class_is_described_by_what_is_known():
    assert named(["a", "b"], ["n1", "n2"]).class_names.describe(1) == {"index": 1, "wnid": "n2", "name": "b"}
    assert named(["a", "b"]).class_names.describe(1) == {"index": 1, "wnid": None, "name": "b"}
    assert toys.classifier(toys.small_net()).class_names.describe(3) == {"index": 3, "wnid": None, "name": None}


# ------------------------------------------------------------------------------------------------- class files


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "classes.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "wnids", "names"),
    [
        ("cat\n dog \n\nold bird\n", (), ("cat", "dog", "old bird")),
        ("a, the first\nb, the second\n", (), ("a, the first", "b, the second")),
        ("index,wnid,name\n1,n2,dog\n0,n1,cat\n", ("n1", "n2"), ("cat", "dog")),
        ("index\tname\n0\tcat\n1\tdog\n", (), ("cat", "dog")),
        ('\ufeffIndex,Name\r\n0,"cat, big"\r\n1,dog\r\n', (), ("cat, big", "dog")),
    ],
)
def test_class_names_come_one_a_line_or_in_columns(tmp_path, text, wnids, names):
    assert read_classes(written(tmp_path, text)) == (wnids, names)


@pytest.mark.parametrize(
    "text",
    ["", "\n\n", "index,name\n0,cat\n2,dog\n", "index,name\nx,cat\n", "index,wnid,name\n0,n1\n", b"\xff\xfe\x00"],
)
def test_class_names_that_cannot_be_read_are_an_input_error(tmp_path, text):
    with pytest.raises(InputError, match=r"classes\.txt") as error:
        read_classes(written(tmp_path, text))
    assert error.value.exit_code == 3


def test_a_missing_file_of_class_names_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"gone\.txt"):
        read_classes(tmp_path / "gone.txt")


def test_class_names_that_are_given_replace_the_models_own(tmp_path):
    path = written(tmp_path, "index,wnid,name\n0,n1,cat\n1,n2,dog\n2,n3,fox\n3,n4,owl\n4,n5,eel\n")
    model = toys.small_net()
    model.labels = list("abcde")
    found = xplain.load_classifier(model, device="cpu", classes=path)
    assert (found.labels, found.wnids) == (["cat", "dog", "fox", "owl", "eel"], ["n1", "n2", "n3", "n4", "n5"])
    assert xplain.load_classifier(model, device="cpu").labels == list("abcde")


# ------------------------------------------------------------------------------------------------- normalisation


def test_pixels_are_normalised_inside_the_classifier():
    weight = torch.zeros(3, 3, 1, 1, dtype=torch.float64)
    weight[[0, 1, 2], [0, 1, 2]] = 1
    model = toys.classifier(toys.Linear(weight), mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 2.0])
    x = torch.tensor([0.6, 0.7, 0.3], dtype=torch.float64).reshape(1, 3, 1, 1)
    assert model(x)[0].tolist() == pytest.approx([1.0, 2.0, 0.0], abs=1e-15)


def test_without_mean_and_std_pixels_are_left_as_they_are():
    model = toys.small_net()
    x = toys.images()
    assert torch.equal(toys.classifier(model)(x), model(x))


def test_images_of_another_type_are_read_in_the_models_own():
    model = toys.classifier(toys.small_net())
    assert model(toys.images().float()).dtype == torch.float64
    assert model.dtype == torch.float64
    assert model.device == torch.device("cpu")


def test_mean_and_std_are_exact_in_float64():
    model = toys.classifier(toys.small_net(), mean=[0.485] * 3, std=[0.229] * 3)
    assert model.mean.flatten().tolist() == [0.485] * 3
    assert model.std.flatten().tolist() == [0.229] * 3


def test_the_normalisation_is_no_part_of_the_weights():
    model = toys.classifier(toys.small_net(), mean=[0.485] * 3)
    assert not [name for name in model.state_dict() if "mean" in name and "running" not in name]


# ------------------------------------------------------------------------------------------------- python: models

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

def make_normalised():
    net = Net()
    net.mean, net.std, net.size, net.labels = (0.5, 0.5, 0.5), torch.full((1, 3, 1, 1), 0.25), (16, 24), ["cat", "dog"]
    return net

def make_dict():
    return {"a": 1}

def needs_numpy_that_is_not_there():
    import no_such_module_at_all

CONSTANT = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A current directory that holds ``toybox/nets.py``; imports are undone afterwards."""
    folder = tmp_path / "toybox"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text(MODULE)
    (folder / "broken.py").write_text("import no_such_module_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    for name in [each for each in sys.modules if each.partition(".")[0] == "toybox"]:
        del sys.modules[name]


def load(name: str) -> xplain.Classifier:
    return xplain.load_classifier(name, device="cpu")


@pytest.mark.usefixtures("package")
def test_a_factory_from_the_current_directory_is_called():
    model = load("python:toybox.nets:make")
    assert model.name == "python:toybox.nets:make"
    assert not model.training
    x = torch.ones(1, 3, 4, 4, dtype=torch.float64) * torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    assert model(x)[0].tolist() == pytest.approx([1.4, 3.2], rel=1e-6)  # pixels unchanged
    assert model.labels == []


@pytest.mark.usefixtures("package")
def test_mean_std_size_and_labels_of_a_users_model_are_used():
    model = load("python:toybox.nets:make_normalised")
    x = torch.full((1, 3, 4, 4), 0.75, dtype=torch.float64)
    assert model(x)[0].tolist() == pytest.approx([6.0, 15.0])  # (0.75 - 0.5) / 0.25 = 1
    assert model.size == (16, 24)
    assert model.preprocessing.resize == round(24 / 0.875)
    assert model.labels == ["cat", "dog"]
    assert model.class_names.find("dog") == 1


@pytest.mark.usefixtures("package")
def test_the_size_can_be_another_one():
    found = xplain.load_classifier("python:toybox.nets:make_normalised", device="cpu", image_size=48)
    assert found.preprocessing == Preprocessing((48, 48), round(48 * 27 / 24))  # 27: the resize for (16, 24)


def test_a_size_that_the_model_does_not_take_is_an_input_error():
    with pytest.raises(InputError, match=r"Linear does not take images of 9 x 9 \(.*\); give another --image-size"):
        xplain.load_classifier(toys.Linear(torch.ones(2, 3, 8, 8)), device="cpu", image_size=9)


def test_a_module_is_taken_as_it_is(package):
    del package
    net = toys.small_net()
    net.mean = torch.tensor([0.5, 0.5, 0.5])
    found = xplain.load_classifier(net, device="cpu")
    x = toys.images()
    assert torch.equal(found(x), net(x - 0.5))
    assert found.name == "SmallNet"


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    "name",
    ["python:", "python:toybox.nets", "python:toybox.nets:", "python::make", "python:./toybox/nets.py:make"],
)
def test_a_python_name_without_module_or_factory_is_wrong_use(name):
    assert repr(name) in refused(load, name)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("module", ["nowhere", "nowhere.nets", "toybox.nowhere", "toybox.no.where"])
def test_a_module_that_is_not_there_is_wrong_use(module):
    text = refused(load, f"python:{module}:make")
    assert text.startswith(f"no module {module!r} for the model 'python:{module}:make'; ")


@pytest.mark.usefixtures("package")
def test_a_factory_that_is_not_there_names_its_relatives():
    text = refused(load, "python:toybox.nets:mkae")
    assert text == "module 'toybox.nets' has no function 'mkae'; did you mean 'make'?"


@pytest.mark.usefixtures("package")
def test_a_name_that_is_no_function_is_wrong_use():
    assert "CONSTANT" in refused(load, "python:toybox.nets:CONSTANT")


@pytest.mark.usefixtures("package")
def test_a_factory_that_returns_no_module_is_an_input_error():
    with pytest.raises(InputError, match=r"'python:toybox.nets:make_dict' returned dict, not an nn\.Module"):
        load("python:toybox.nets:make_dict")


@pytest.mark.usefixtures("package")
def test_an_import_that_fails_inside_the_users_code_is_not_hidden():
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        load("python:toybox.broken:make")


# ------------------------------------------------------------------------------------------------- devices


def test_auto_is_the_cpu_where_nothing_else_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert select_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert select_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert select_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "count", "there"), [("cuda", 1, True), ("cuda:0", 1, True), ("cuda:1", 1, False), ("cuda:1", 2, True)]
)
def test_cuda_devices_are_counted(monkeypatch, name, count, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if there:
        assert select_device(name) == torch.device(name)
    else:
        with pytest.raises(DeviceError, match=f"device '{name}' is not there: torch .* sees {count} CUDA devices"):
            select_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3", "mps"])
def test_a_device_that_is_not_there_is_a_device_error_with_the_way_out(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=f"device '{name}' is not there.*; use --device cpu") as error:
        xplain.load_classifier(toys.small_net(), device=name)
    assert error.value.exit_code == 4


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "CPU", "", "mps:1", "xla"])
def test_an_unknown_device_is_wrong_use(name):
    assert refused(select_device, name) == f"unknown device {name!r}; give auto, cpu, cuda, cuda:N or mps"


@pytest.mark.parametrize("device", [torch.device("cpu"), torch.device("cpu", 0), "cpu"])
def test_a_device_can_be_given_as_torch_names_it(device):
    assert xplain.load_classifier(toys.small_net(), device=device).device.type == "cpu"


# ------------------------------------------------------------------------------------------------- logits


def with_bad_logits(bad: float) -> tuple[xplain.Classifier, torch.Tensor]:
    """A model and three images, the last of which has logits that are not finite."""

    def function(x):
        return torch.where(x[:, :1, 0, 0] > 0.5, bad, x.flatten(1)[:, :3])

    images = torch.tensor([0.1, 0.2, 0.9], dtype=torch.float64)[:, None, None, None].expand(3, 3, 4, 4)
    return toys.classifier(toys.Function(function)), images


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_an_input_error_that_names_the_image(bad):
    model, images = with_bad_logits(bad)
    with pytest.raises(InputError, match="logits for image 2 are not finite") as error:
        xplain.attribute(model, images, "saliency")
    assert error.value.exit_code == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_measuring_with_logits_that_are_not_finite_is_an_input_error(bad):
    model, images = with_bad_logits(bad)
    with pytest.raises(InputError, match="not finite"):
        xplain.measure(model, images, images, "deletion", steps=2)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda x: (x, x.sum()), "tuple"),
        (lambda x: {"out": x}, "dict"),
        (lambda x: {"one": x.flatten(1), "two": x.flatten(1)}, "dict with one and two"),
        (lambda x: x, r"\(2, 3, 8, 10\)"),
        (lambda x: x.mean(dim=(1, 2, 3)), r"\(2,\)"),
    ],
)
def test_a_model_that_returns_no_logits_is_an_input_error(function, what):
    with pytest.raises(InputError, match=rf"the model returned {what}, not logits \(images, classes\)"):
        toys.classifier(toys.Function(function))(toys.images())
