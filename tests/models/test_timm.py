"""timm models by name, from a folder and from the hub cache; errors of downloads and options."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import xplain
from xplain.core.errors import InputError, UsageError
from xplain.data.preprocessing import preprocess

timm = pytest.importorskip("timm")
hub = pytest.importorskip("timm.models._hub")

ARCHITECTURE = "test_resnet"  # timm's test model: 0.5 million parameters
NAMES = ["ant", "bee", "cow"]


def make_tiny(**options: object) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(ARCHITECTURE, num_classes=3, **options).eval()


def save_folder(folder: Path, model: torch.nn.Module | None = None, **changes) -> Path:
    """Save a model as timm does: config.json and model.safetensors."""
    model = model or make_tiny()
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    data = {"input_size": [3, 48, 48], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "crop_pct": 0.75}
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 3,
        "label_names": NAMES,
        "pretrained_cfg": {"interpolation": "bilinear", "classifier": "fc", "first_conv": "conv1.0", **data},
    }
    (folder / "config.json").write_text(json.dumps(config | changes), "utf-8")
    return folder


def load_error(name: str, **options) -> str:
    """Return the text of the UsageError or InputError that loading the model raises."""
    with pytest.raises((UsageError, InputError)) as error:
        xplain.load_classifier(name, device="cpu", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def check_is_tiny(classifier: xplain.Classifier) -> None:
    """Check weights, normalization, size, resize and names."""
    x = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    mean = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    std = torch.tensor([0.5, 0.6, 0.7])[:, None, None]
    with torch.no_grad():
        expected, logits = make_tiny()((x - mean) / std), classifier(x)
    assert (expected[0] - expected[1]).abs().max() > 1e-4
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    preprocessing = classifier.preprocessing
    assert (preprocessing.size, preprocessing.resize, preprocessing.interpolation) == ((48, 48), 64, "bilinear")
    assert classifier.size == (48, 48)
    assert (classifier.labels, classifier.wnids, classifier.classes) == (NAMES, [], 3)


def test_load_timm_local_dir(tmp_path):
    check_is_tiny(xplain.load_classifier(f"timm:local-dir:{save_folder(tmp_path / 'saved')}", device="cpu"))


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("share", [0.75, 1.0])
@pytest.mark.parametrize("size", [(120, 90), (70, 131)])
def test_preprocessing_equals_timm(tmp_path, mode, share, size):
    data = {"input_size": [3, 48, 48], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bicubic"}
    save_folder(tmp_path, pretrained_cfg=data | {"crop_pct": share, "crop_mode": mode, "classifier": "fc"})
    classifier = xplain.load_classifier(f"timm:local-dir:{tmp_path}", device="cpu")
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=classifier.model))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    pixels = (preprocess(image, classifier.preprocessing) - classifier.mean) / classifier.std
    torch.testing.assert_close(pixels, transform(image), rtol=0, atol=1e-6)


def test_local_dir_with_wnids(tmp_path):
    wnids = ["n01440764", "n02102040", "n02979186"]
    words = {"n01440764": "tench", "n02102040": "springer", "n02979186": "cassette player"}
    save_folder(tmp_path, label_names=wnids, label_descriptions=words)
    classifier = xplain.load_classifier(f"timm:local-dir:{tmp_path}", device="cpu")
    assert (classifier.wnids, classifier.labels) == (wnids, list(words.values()))


def test_local_dir_weights_are_hashed(tmp_path):
    """The hash depends on the parameters, not on the name."""
    name = f"timm:local-dir:{save_folder(tmp_path)}"
    first = xplain.load_classifier(name, device="cpu").weights
    again = xplain.load_classifier(name, device="cpu").weights
    other = make_tiny()
    with torch.no_grad():
        other.fc.bias += 1
    save_folder(tmp_path, other)
    assert first == again
    assert len(first.sha256) == 64
    assert xplain.load_classifier(name, device="cpu").weights.sha256 != first.sha256


def test_local_dir_cannot_be_loaded(tmp_path):
    hint = "; use a directory saved by timm, with config.json and model.safetensors"
    name = f"timm:local-dir:{tmp_path / 'gone'}"
    assert load_error(name) == f"cannot load {name}: Config file not found: {tmp_path / 'gone' / 'config.json'}{hint}"
    name = f"timm:local-dir:{save_folder(tmp_path / 'a', architecture='no_such_model')}"
    assert load_error(name) == f"cannot load {name}: Unknown model (no_such_model){hint}"
    (tmp_path / "a" / "config.json").write_text("{")
    assert load_error(name).startswith(f"cannot load {name}: ")
    name = f"timm:local-dir:{save_folder(tmp_path / 'b')}"
    (tmp_path / "b" / "model.safetensors").write_bytes(b"no")
    assert load_error(name).startswith(f"cannot load {name}: ")


class Payload:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_local_dir_executes_nothing(tmp_path):
    folder = save_folder(tmp_path / "saved")
    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": Payload(tmp_path / "created")}, folder / "pytorch_model.bin")
    assert load_error(f"timm:local-dir:{folder}").startswith("cannot load timm:local-dir:")
    assert not (tmp_path / "created").exists()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Callable[[], Path]:
    """Use an empty hub cache without a network. Call the fixture to add ``someone/tiny``."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def fill() -> Path:
        repository, commit = tmp_path / "hub" / "models--someone--tiny", "0123456789abcdef0123456789abcdef01234567"
        save_folder(repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        return repository

    return fill


def test_hub_model_in_cache(cache):
    cache()
    check_is_tiny(xplain.load_classifier("timm:hf-hub:someone/tiny", device="cpu"))


def test_hub_model_is_missing(cache):
    del cache
    text = load_error("timm:hf-hub:someone/tiny")
    assert text.startswith("cannot load the weights of timm:hf-hub:someone/tiny: ")
    assert text.endswith("; use --weights FILE")


@pytest.mark.parametrize("failure", [ConnectionError("no route\nto host"), OSError("disk full"), ValueError("")])
def test_timm_download_fails(monkeypatch, failure):
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    for name in ("timm:hf-hub:someone/tiny", f"timm:{ARCHITECTURE}.r160_in1k"):
        reason = str(failure).split("\n")[0] or "ValueError"
        assert load_error(name) == f"cannot load the weights of {name}: {reason}; use --weights FILE"


def test_finetuned_timm_weights_set_classes(tmp_path):
    save_folder(tmp_path)
    classifier = xplain.load_classifier(f"timm:{ARCHITECTURE}", "cpu", tmp_path / "model.safetensors", image_size=64)
    assert (classifier.classes, classifier.labels) == (3, [])
    assert classifier.weights.source == str(tmp_path / "model.safetensors")
    untrained = xplain.load_classifier(f"timm:{ARCHITECTURE}", "cpu", "random", image_size=64)
    assert (untrained.classes, untrained.labels[207]) == (1000, "golden retriever")


def test_feature_model_requires_classes(tmp_path):
    name, options = "test_vit", {"num_classes": 0}
    config = {
        "architecture": name,
        "num_classes": 0,
        "model_args": {"img_size": 160},
        "pretrained_cfg": {"input_size": [3, 160, 160], "classifier": "head"},
    }
    features = timm.create_model(name, **options)
    save_folder(tmp_path / "a", features, **config)
    folder = f"timm:local-dir:{tmp_path / 'a'}"
    assert load_error(folder) == f"{folder} has no classification head; use --weights with the weights of a classifier"
    with torch.random.fork_rng(devices=[]):
        tuned = timm.create_model(name, num_classes=4)
        torch.save({f"module.{key}": tensor for key, tensor in tuned.state_dict().items()}, tmp_path / "tuned.pth")
    assert xplain.load_classifier(folder, "cpu", tmp_path / "tuned.pth").classes == 4


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_resnet", "timm:swin_tiny_patch4_window7_224"])
def test_timm_image_size_is_set(name):
    classifier = xplain.load_classifier(name, "cpu", "random", image_size=64)
    assert classifier.size == (64, 64)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    values = xplain.attribute(classifier, x, "saliency").values
    assert values.shape == (1, 3, 64, 64)
    assert values.isfinite().all()


def test_timm_image_size_is_rejected():
    text = load_error("timm:mixer_s32_224", weights="random", image_size=64)
    assert text.startswith("timm:mixer_s32_224 does not accept images of 64 x 64 pixels (")


def test_untrained_one_channel_model(tmp_path):
    """The configuration of a one-channel model may have one mean, or three as timm's defaults."""
    for number, mean in enumerate(([0.5], [0.5, 0.5, 0.5], None)):
        normalization = {"mean": mean, "std": mean} if mean else {}
        data = {"input_size": [1, 32, 32], "classifier": "fc", **normalization}
        folder = save_folder(
            tmp_path / str(number), make_tiny(in_chans=1), model_args={"in_chans": 1}, pretrained_cfg=data
        )
        classifier = xplain.load_classifier(f"timm:local-dir:{folder}", device="cpu", weights="random")
        assert (classifier.channels, classifier.classes) == (1, 3)
        assert classifier.notes == ["the model has one input channel; images are converted to grayscale"]
        x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        norm = classifier.model.bn1
        assert float(norm.running_mean.abs().max()) > 0  # calibrated on noise
        assert xplain.attribute(classifier, x, "saliency").values.isfinite().all()


def test_missing_timm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert (
        load_error("timm:resnet18")
        == "the model 'timm:resnet18' requires timm; install it with: pip install 'xplain-vision[timm]'"
    )


def test_unknown_model_suggests_near_names():
    assert "did you mean 'resnet50'" in load_error("timm:resnet5o")
