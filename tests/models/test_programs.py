"""TorchScript and exported programs: loaded as models, and rejected as weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import xplain
from tests.helpers import toys
from xplain.core.errors import InputError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
NET = toys.small_net().float().eval()
X = toys.images().float()


def script(path: Path, net: nn.Module = NET) -> str:
    torch.jit.trace(net, X).save(path)
    return f"script:{path}"


def export(path: Path, net: nn.Module = NET, **options) -> str:
    torch.export.save(torch.export.export(net, (X,), **options), path)
    return f"export:{path}"


DYNAMIC_BATCH = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}


@pytest.mark.parametrize("kind", ["script", "export"])
@pytest.mark.parametrize("method", ["saliency", "ig", "agi", "rise"])
def test_program_maps_equal_network(tmp_path, kind, method):
    name = script(tmp_path / "a.pt") if kind == "script" else export(tmp_path / "a.pt2", **DYNAMIC_BATCH)
    classifier = xplain.load_classifier(name, device="cpu", image_size=16 if kind == "script" else None)
    assert classifier.size == ((16, 16) if kind == "script" else (8, 10))
    assert classifier.weights.sha256
    options = {"ig": {"steps": 3}, "agi": {"steps": 2}, "rise": {"masks": 5}}.get(method, {})
    expected = xplain.attribute(toys.classifier(NET), X, method, target=1, **options).values
    values = xplain.attribute(classifier, X, method, target=1, **options).values
    assert float((values - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_traced_module_maps_equal_network():
    values = xplain.attribute(
        toys.classifier(torch.jit.trace(NET.requires_grad_(True), X)), X, "saliency", target=1
    ).values
    expected = xplain.attribute(toys.classifier(NET), X, "saliency", target=1).values
    assert float((values - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("method", ["grad-cam", "lrp", "attention-rollout"])
def test_layer_methods_reject_programs(tmp_path, method):
    classifier = xplain.load_classifier(export(tmp_path / "a.pt2", **DYNAMIC_BATCH), device="cpu")
    with pytest.raises((UsageError, InputError)) as error:
        xplain.attribute(classifier, X, method)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["script", "export"])
def test_program_is_rejected_as_weights(tmp_path, kind):
    name = script(tmp_path / "a.pt") if kind == "script" else export(tmp_path / "a.pt2")
    path = name.partition(":")[2]
    with pytest.raises(InputError) as error:
        xplain.load_classifier(toys.small_net(), device="cpu", weights=path)
    assert str(error.value) == (
        f"{path!r} contains a program, which is not executed when loading weights; "
        f"if you trust the file, load it as a model with --model {name}"
    )


def load_error(name: str, **options) -> str:
    """Return the text of the UsageError or InputError that loading the model raises."""
    with pytest.raises((UsageError, InputError)) as error:
        xplain.load_classifier(name, device="cpu", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


class FixedBatch(nn.Module):
    """A model that accepts a batch of two images only."""

    def forward(self, x):
        return x.reshape(2, 3, -1).mean(dim=2)


class Detached(nn.Module):
    """A model whose logits have no gradient with respect to the image."""

    def forward(self, x):
        return x.detach().mean(dim=(2, 3))


def test_program_with_fixed_batch_is_rejected(tmp_path):
    assert load_error(script(tmp_path / "a.pt", FixedBatch()), image_size=16).startswith(
        "the exported program has a fixed batch size ("
    )


def test_program_without_gradient_is_rejected(tmp_path):
    text = load_error(script(tmp_path / "a.pt", Detached()), image_size=16)
    assert text.startswith("the exported program does not support gradients; ")


def test_load_program_invalid_file(tmp_path):
    path = tmp_path / "a.pt"
    path.write_text("nothing")
    for kind in ("script", "export"):
        assert load_error(f"{kind}:{path}").startswith(f"cannot load the exported program {str(path)!r}: ")
        assert load_error(f"{kind}:{tmp_path / 'gone'}").startswith("no such file: ")
    assert "includes its weights" in load_error(f"script:{path}", weights=path)
