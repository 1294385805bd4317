"""TorchScript and exported programs: run where they are named as the model, never as weights, and refused where they do not fit."""

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


ANY_ROWS = {"dynamic_shapes": ({0: torch.export.Dim("rows")},)}


@pytest.mark.parametrize("kind", ["script", "export"])
@pytest.mark.parametrize("method", ["saliency", "ig", "agi", "rise"])
def test_a_program_is_explained_as_the_network_that_it_was_made_of(tmp_path, kind, method):
    name = script(tmp_path / "a.pt") if kind == "script" else export(tmp_path / "a.pt2", **ANY_ROWS)
    found = xplain.load_classifier(name, device="cpu", image_size=16 if kind == "script" else None)
    assert found.size == ((16, 16) if kind == "script" else (8, 10))
    assert found.weights.sha256
    few = {"ig": {"steps": 3}, "agi": {"steps": 2}, "rise": {"masks": 5}}.get(method, {})
    expected = xplain.attribute(toys.classifier(NET), X, method, target=1, **few).values
    values = xplain.attribute(found, X, method, target=1, **few).values
    assert float((values - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_a_scripted_module_of_a_library_user_is_explained():
    values = xplain.attribute(
        toys.classifier(torch.jit.trace(NET.requires_grad_(True), X)), X, "saliency", target=1
    ).values
    expected = xplain.attribute(toys.classifier(NET), X, "saliency", target=1).values
    assert float((values - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("method", ["grad-cam", "lrp", "attention-rollout"])
def test_methods_that_look_inside_refuse_in_one_line(tmp_path, method):
    found = xplain.load_classifier(export(tmp_path / "a.pt2", **ANY_ROWS), device="cpu")
    with pytest.raises((UsageError, InputError)) as error:
        xplain.attribute(found, X, method)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["script", "export"])
def test_a_program_is_no_weights(tmp_path, kind):
    name = script(tmp_path / "a.pt") if kind == "script" else export(tmp_path / "a.pt2")
    path = name.partition(":")[2]
    with pytest.raises(InputError) as error:
        xplain.load_classifier(toys.small_net(), device="cpu", weights=path)
    assert str(error.value) == (
        f"the weights file {path!r} is a program, and nothing is run from weights; "
        f"name it as the model, -m {name}, if you trust it"
    )


def refused(name: str, **options) -> str:
    with pytest.raises((UsageError, InputError)) as error:
        xplain.load_classifier(name, device="cpu", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


class Two(nn.Module):
    """Two images, and no other number."""

    def forward(self, x):
        return x.reshape(2, 3, -1).mean(dim=2)


class Constant(nn.Module):
    """Its logits do not depend on the image as far as a gradient can tell."""

    def forward(self, x):
        return x.detach().mean(dim=(2, 3))


def test_a_program_for_one_number_of_images_is_refused(tmp_path):
    assert refused(script(tmp_path / "a.pt", Two()), image_size=16).startswith(
        "the program takes one number of images only ("
    )


def test_a_program_that_cannot_be_differentiated_is_refused(tmp_path):
    text = refused(script(tmp_path / "a.pt", Constant()), image_size=16)
    assert text.startswith("the program cannot be differentiated; ")


def test_what_is_no_program_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    path.write_text("nothing")
    for kind in ("script", "export"):
        assert refused(f"{kind}:{path}").startswith(f"cannot load the program {str(path)!r}: ")
        assert refused(f"{kind}:{tmp_path / 'gone'}").startswith("no program ")
    assert "holds its own weights" in refused(f"script:{path}", weights=path)
