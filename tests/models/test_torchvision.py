"""torchvision models: the same logits, preprocessing and labels; downloads, image sizes and errors."""

from __future__ import annotations

import hashlib
import http.client
import math
from pathlib import Path
from urllib.error import HTTPError, URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import models

import xplain
from xplain.core.errors import InputError, UsageError
from xplain.data.preprocessing import preprocess

# side of the test images by model, as small as the network accepts
SIDES = {"resnet152": 48, "resnet50": 48, "vgg19": 32, "inception_v3": 80, "googlenet": 48}


def small_tensor(shape: torch.Size, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return random values whose rows overlap in memory, so that a file of 140 million values is small."""
    if not shape:
        return torch.zeros(shape, dtype=torch.long)
    row = math.prod(shape[1:])
    storage = torch.empty((shape[0] - 1) * 7 + row).uniform_(low, high, generator=generator)
    strides = [7, *(math.prod(shape[axis + 1 :]) for axis in range(1, len(shape)))] if len(shape) > 1 else [1]
    return storage.as_strided(shape, strides) if len(shape) > 1 else storage[: shape[0]].clone()


def random_state(name: str, seed: int = 0) -> dict[str, Tensor]:
    """Return a random state dict with the names and shapes of the default weights, auxiliary heads included."""
    extra = {"aux_logits": True, "init_weights": False} if name in ("inception_v3", "googlenet") else {}
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in models.get_model(name, **extra).state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        positive = key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight"))
        limit = (6 / max(math.prod(shape[1:]), 1)) ** 0.5 if len(shape) > 1 else 0.05  # as He et al. 2015
        state[key] = small_tensor(shape, *((0.5, 1.0) if positive else (-limit, limit)), generator)
    return state


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """Use an empty folder of downloaded weights, without a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def save_checkpoint(folder: Path, name: str, weights: str = "DEFAULT") -> Path:
    """Save a random state dict under the file name of a model's published weights."""
    path = folder / models.get_model_weights(name)[weights].url.rpartition("/")[2]
    torch.save(random_state(name), path)
    assert path.stat().st_size < 30e6
    return path


def photo(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", SIDES)
def test_logits_equal_torchvision(hub, name):
    path = save_checkpoint(hub, name)
    classifier = xplain.load_classifier(name, device="cpu")
    default = models.get_model_weights(name).DEFAULT
    reference = models.get_model(name, weights=default).eval()
    x = torch.rand(2, 3, SIDES[name], SIDES[name], generator=torch.Generator().manual_seed(0))
    mean = torch.tensor(default.transforms().mean)[:, None, None]
    std = torch.tensor(default.transforms().std)[:, None, None]
    with torch.no_grad():
        expected, logits = reference((x - mean) / std), classifier(x)
    spread = (expected[0] - expected[1]).abs().max()
    assert spread > 1e-3 * expected.abs().max() > 0
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    assert classifier.name == name
    assert not classifier.training
    assert classifier.weights.source == str(path)
    assert classifier.weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert classifier.labels == default.meta["categories"]
    assert [classifier.wnids[index] for index in (0, 207, 999)] == ["n01440764", "n02099601", "n15075141"]
    assert classifier.labels[207] == "golden retriever"
    image = photo(380, 401)
    assert torch.equal(
        (preprocess(image, classifier.preprocessing) - classifier.mean) / classifier.std, default.transforms()(image)
    )


def test_weights_tag_selects_weights(hub):
    old = save_checkpoint(hub, "resnet50", "IMAGENET1K_V1")
    classifier = xplain.load_classifier("resnet50.IMAGENET1K_V1", device="cpu")
    assert (classifier.name, classifier.weights.source) == ("resnet50.IMAGENET1K_V1", str(old))
    assert classifier.preprocessing.resize == 256
    assert models.ResNet50_Weights.DEFAULT.transforms().resize_size == [232]
    with pytest.raises(UsageError) as error:
        xplain.load_classifier("resnet50.IMAGENET1K_V3", device="cpu")
    assert str(error.value) == (
        "resnet50 has no weights 'IMAGENET1K_V3'; choose from IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"
    )


def test_inception_transforms_its_input(hub):
    save_checkpoint(hub, "inception_v3")
    classifier = xplain.load_classifier("inception_v3", device="cpu")
    assert classifier.model.transform_input
    assert classifier.size == (299, 299)
    assert classifier.preprocessing.resize == 342
    classifier.model.transform_input = False
    x = torch.rand(1, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        other = classifier(x)
        classifier.model.transform_input = True
        assert (classifier(x) - other).abs().max() > 1e-3 * other.abs().max()


def test_weights_file_needs_no_download(tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(random_state("resnet18"), path)
    classifier = xplain.load_classifier("resnet18", device="cpu", weights=path)
    reference = models.resnet18()
    reference.load_state_dict(torch.load(path, weights_only=True))
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference.eval()((x - classifier.mean) / classifier.std)
        assert (classifier(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert classifier.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert classifier.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert classifier.weights.source == str(path)


def test_download_hash_is_checked(hub, monkeypatch):
    requests = []

    def download(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        requests.append((url, hash_prefix))
        torch.save(random_state("resnet18"), dst)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    classifier = xplain.load_classifier("resnet18", device="cpu")
    assert requests == [("https://download.pytorch.org/models/resnet18-f37072fd.pth", "f37072fd")]
    assert classifier.weights.source == str(hub / "resnet18-f37072fd.pth")
    assert classifier.weights.sha256 == hashlib.sha256((hub / "resnet18-f37072fd.pth").read_bytes()).hexdigest()


def test_download_keeps_stdout_empty(monkeypatch, capsys):
    def download(url: str, dst: str, *_: object, **__: object) -> None:
        torch.save(random_state("resnet18"), dst)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    xplain.load_classifier("resnet18", device="cpu")
    assert capsys.readouterr().out == ""


def test_vit_image_size_is_interpolated(hub):
    """Position embeddings of 7 x 7 patches are interpolated to 2 x 2 as torchvision does, also those of fine-tuned weights."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    path = save_checkpoint(hub, "vit_b_32")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    state = random_state("vit_b_32")
    tuned = state | {"heads.head.weight": state["heads.head.weight"][:3], "heads.head.bias": torch.zeros(3)}
    torch.save({f"module.{name}": tensor for name, tensor in tuned.items()}, hub / "tuned.pth")
    for weights, expected_state in ((path, state), (hub / "tuned.pth", tuned)):
        options = {} if weights == path else {"weights": weights}
        classifier = xplain.load_classifier("vit_b_32", device="cpu", image_size=64, **options)
        assert (classifier.size, classifier.weights.source) == ((64, 64), str(weights))
        reference = models.vit_b_32(image_size=64, num_classes=len(expected_state["heads.head.bias"])).eval()
        reference.load_state_dict(interpolate_embeddings(64, 32, dict(expected_state)))
        with torch.no_grad():
            expected = reference((x - classifier.mean) / classifier.std)
            assert (classifier(x) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("name", "side"), [("vit_b_32", 65), ("maxvit_t", 64)])
def test_image_size_cannot_be_built(name, side):
    with pytest.raises(
        InputError, match=rf"^{name} does not accept images of {side} x {side} pixels \(.+\); use another --image-size$"
    ):
        xplain.load_classifier(name, device="cpu", weights="random", image_size=side)


FAILURES = [
    URLError("Name or service not known"),
    HTTPError("https://x", 403, "Forbidden", None, None),  # type: ignore[arg-type]
    TimeoutError("timed out"),
    ConnectionResetError("reset by peer"),
    http.client.IncompleteRead(b"", 1000),
    http.client.RemoteDisconnected("closed"),
    RuntimeError('invalid hash value (expected "f37072fd", got "00")'),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)
def test_failed_download_names_the_file(hub, monkeypatch, failure):
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(InputError) as error:
        xplain.load_classifier("resnet18", device="cpu")
    text = str(error.value)
    assert error.value.exit_code == 3
    assert text.startswith("cannot download resnet18-f37072fd.pth for resnet18 (")
    assert f"{hub} contains no copy; " in text
    assert text.endswith("--weights FILE")
    assert "\n" not in text


@pytest.mark.parametrize("content", [b"", b"<html>captive portal</html>", b"PK\x03\x04 and then nothing"])
def test_damaged_download_is_an_error(hub, content):
    path = hub / "resnet18-f37072fd.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"resnet18-f37072fd\.pth") as error:
        xplain.load_classifier("resnet18", device="cpu")
    assert error.value.exit_code == 3


def test_truncated_download_is_an_error(hub):
    path = save_checkpoint(hub, "resnet18")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match=r"resnet18-f37072fd\.pth"):
        xplain.load_classifier("resnet18", device="cpu")


def test_weights_of_other_model(hub):
    torch.save(random_state("resnet34"), hub / "resnet18-f37072fd.pth")
    with pytest.raises(
        InputError, match=r"resnet18-f37072fd\.pth do not match the model: unexpected keys \(layer1\.2\.conv1"
    ):
        xplain.load_classifier("resnet18", device="cpu")


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet51", "'resnet50'"), ("VGG-19", "'vgg19'"), ("efficientnet-lite3", "'efficientnet-lite2'")],
)
def test_unknown_model_suggests_near_names(name, near):
    with pytest.raises(UsageError) as error:
        xplain.load_classifier(name, device="cpu")
    assert error.value.exit_code == 2
    assert str(error.value).startswith(f"unknown model {name!r}; did you mean ")
    assert near in str(error.value)


@pytest.mark.parametrize("name", ["zzz", "fasterrcnn_resnet50_fpn", "deeplabv3_resnet50"])
def test_other_torchvision_models_are_unknown(name):
    with pytest.raises(UsageError, match=f"unknown model '{name}'"):
        xplain.load_classifier(name, device="cpu")


def test_missing_weights_file_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"weights file .* not found|no such file"):
        xplain.load_classifier("resnet18", device="cpu", weights=tmp_path / "gone.pth")
