"""timm's models: by name, from a folder and from the hub's cache, with their own configuration; what cannot be had is refused."""

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

ARCHITECTURE = "test_resnet"  # timm's own toy: 0.5 million parameters
NAMES = ["ant", "bee", "cow"]


def tiny(**options: object) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(ARCHITECTURE, num_classes=3, **options).eval()


def save(folder: Path, model: torch.nn.Module | None = None, **changes) -> Path:
    """A folder as timm saves models: config.json and model.safetensors."""
    model = model or tiny()
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: each.contiguous() for name, each in model.state_dict().items()}, folder / "model.safetensors")
    data = {"input_size": [3, 48, 48], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "crop_pct": 0.75}
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 3,
        "label_names": NAMES,
        "pretrained_cfg": {"interpolation": "bilinear", "classifier": "fc", "first_conv": "conv1.0", **data},
    }
    (folder / "config.json").write_text(json.dumps(config | changes), "utf-8")
    return folder


def refused(name: str, **options) -> str:
    with pytest.raises((UsageError, InputError)) as error:
        xplain.load_classifier(name, device="cpu", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def check_is_tiny(found: xplain.Classifier) -> None:
    """The folder's weights, normalisation, size, resize and names."""
    x = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(each)[:, None, None] for each in ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]))
    with torch.no_grad():
        expected, logits = tiny()((x - mean) / std), found(x)
    assert (expected[0] - expected[1]).abs().max() > 1e-4
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (found.size, found.preprocessing.resize, found.preprocessing.interpolation) == ((48, 48), 64, "bilinear")
    assert (found.labels, found.wnids, found.classes) == (NAMES, [], 3)


def test_load_timm_local_dir(tmp_path):
    check_is_tiny(xplain.load_classifier(f"timm:local-dir:{save(tmp_path / 'saved')}", device="cpu"))


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("share", [0.75, 1.0])
@pytest.mark.parametrize("size", [(120, 90), (70, 131)])
def test_preprocessing_equals_timm(tmp_path, mode, share, size):
    data = {"input_size": [3, 48, 48], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bicubic"}
    save(tmp_path, pretrained_cfg=data | {"crop_pct": share, "crop_mode": mode, "classifier": "fc"})
    found = xplain.load_classifier(f"timm:local-dir:{tmp_path}", device="cpu")
    theirs = timm.data.create_transform(**timm.data.resolve_data_config({}, model=found.model))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    pixels = (preprocess(image, found.preprocessing) - found.mean) / found.std
    torch.testing.assert_close(pixels, theirs(image), rtol=0, atol=1e-6)


def test_local_dir_with_wnids(tmp_path):
    wnids = ["n01440764", "n02102040", "n02979186"]
    words = {"n01440764": "tench", "n02102040": "springer", "n02979186": "cassette player"}
    save(tmp_path, label_names=wnids, label_descriptions=words)
    found = xplain.load_classifier(f"timm:local-dir:{tmp_path}", device="cpu")
    assert (found.wnids, found.labels) == (wnids, list(words.values()))


def test_local_dir_weights_are_hashed(tmp_path):
    """Under the same name, other parameters have another hash; the same have the same."""
    name = f"timm:local-dir:{save(tmp_path)}"
    first, again = (xplain.load_classifier(name, device="cpu").weights for _ in range(2))
    other = tiny()
    with torch.no_grad():
        other.fc.bias += 1
    save(tmp_path, other)
    assert first == again
    assert len(first.sha256) == 64
    assert xplain.load_classifier(name, device="cpu").weights.sha256 != first.sha256


def test_local_dir_cannot_be_loaded(tmp_path):
    hint = "; use a folder with config.json and model.safetensors, as timm saves them"
    name = f"timm:local-dir:{tmp_path / 'gone'}"
    assert refused(name) == f"cannot load {name}: Config file not found: {tmp_path / 'gone' / 'config.json'}{hint}"
    name = f"timm:local-dir:{save(tmp_path / 'a', architecture='no_such_model')}"
    assert refused(name) == f"cannot load {name}: Unknown model (no_such_model){hint}"
    (tmp_path / "a" / "config.json").write_text("{")
    assert refused(name).startswith(f"cannot load {name}: ")
    name = f"timm:local-dir:{save(tmp_path / 'b')}"
    (tmp_path / "b" / "model.safetensors").write_bytes(b"no")
    assert refused(name).startswith(f"cannot load {name}: ")


class Payload:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_local_dir_executes_nothing(tmp_path):
    folder = save(tmp_path / "saved")
    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": Payload(tmp_path / "victim")}, folder / "pytorch_model.bin")
    assert refused(f"timm:local-dir:{folder}").startswith("cannot load timm:local-dir:")
    assert not (tmp_path / "victim").exists()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Callable[[], Path]:
    """Without a network: the hub's cache is an empty folder; called, it holds ``someone/tiny``."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def fill() -> Path:
        kept, commit = tmp_path / "hub" / "models--someone--tiny", "0123456789abcdef0123456789abcdef01234567"
        save(kept / "snapshots" / commit)
        (kept / "refs").mkdir()
        (kept / "refs" / "main").write_text(commit)
        return kept

    return fill


def test_hub_model_in_cache(cache):
    cache()
    check_is_tiny(xplain.load_classifier("timm:hf-hub:someone/tiny", device="cpu"))


def test_hub_model_is_missing(cache):
    del cache
    text = refused("timm:hf-hub:someone/tiny")
    assert text.startswith("cannot load the weights of timm:hf-hub:someone/tiny: ")
    assert text.endswith("; use --weights FILE")


@pytest.mark.parametrize("failure", [ConnectionError("no route\nto host"), OSError("disk full"), ValueError("")])
def test_timm_download_fails(monkeypatch, failure):
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    for name in ("timm:hf-hub:someone/tiny", f"timm:{ARCHITECTURE}.r160_in1k"):
        reason = str(failure).split("\n")[0] or "ValueError"
        assert refused(name) == f"cannot load the weights of {name}: {reason}; use --weights FILE"


def test_finetuned_timm_weights_set_classes(tmp_path):
    save(tmp_path)
    found = xplain.load_classifier(f"timm:{ARCHITECTURE}", "cpu", tmp_path / "model.safetensors", image_size=64)
    assert (found.classes, found.labels) == (3, [])
    assert found.weights.source == str(tmp_path / "model.safetensors")
    own = xplain.load_classifier(f"timm:{ARCHITECTURE}", "cpu", "random", image_size=64)
    assert (own.classes, own.labels[207]) == (1000, "golden retriever")


def test_feature_model_requires_classes(tmp_path):
    name, options = "test_vit", {"num_classes": 0}
    config = {
        "architecture": name,
        "num_classes": 0,
        "model_args": {"img_size": 160},
        "pretrained_cfg": {"input_size": [3, 160, 160], "classifier": "head"},
    }
    features = timm.create_model(name, **options)
    save(tmp_path / "a", features, **config)
    folder = f"timm:local-dir:{tmp_path / 'a'}"
    assert (
        refused(folder) == f"{folder} returns features and has no classes; use --weights of a model with a classifier"
    )
    with torch.random.fork_rng(devices=[]):
        tuned = timm.create_model(name, num_classes=4)
        torch.save({f"module.{key}": each for key, each in tuned.state_dict().items()}, tmp_path / "tuned.pth")
    assert xplain.load_classifier(folder, "cpu", tmp_path / "tuned.pth").classes == 4


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_resnet", "timm:swin_tiny_patch4_window7_224"])
def test_timm_image_size_is_set(name):
    found = xplain.load_classifier(name, "cpu", "random", image_size=64)
    assert found.size == (64, 64)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    values = xplain.attribute(found, x, "saliency").values
    assert values.shape == (1, 3, 64, 64)
    assert values.isfinite().all()


def test_timm_image_size_is_rejected():
    text = refused("timm:mixer_s32_224", weights="random", image_size=64)
    assert text.startswith("timm:mixer_s32_224 does not accept images of 64 x 64 (")


def test_untrained_one_channel_model(tmp_path):
    """A folder's model of one channel, whose configuration has three means as timm's defaults have, or one."""
    for number, mean in enumerate(([0.5], [0.5, 0.5, 0.5], None)):
        given = {"mean": mean, "std": mean} if mean else {}
        data = {"input_size": [1, 32, 32], "classifier": "fc", **given}
        folder = save(tmp_path / str(number), tiny(in_chans=1), model_args={"in_chans": 1}, pretrained_cfg=data)
        found = xplain.load_classifier(f"timm:local-dir:{folder}", device="cpu", weights="random")
        assert (found.channels, found.classes) == (1, 3)
        assert found.notes == ["the model takes one channel: it is given the grey value of the pixels"]
        x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        norm = found.model.bn1
        assert float(norm.running_mean.abs().max()) > 0  # settled on noise
        assert xplain.attribute(found, x, "saliency").values.isfinite().all()


def test_missing_timm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert refused("timm:resnet18") == "the model 'timm:resnet18' requires timm; pip install 'xplain-vision[timm]'"


def test_unknown_model_suggests_near_names():
    assert "did you mean 'resnet50'" in refused("timm:resnet5o")
