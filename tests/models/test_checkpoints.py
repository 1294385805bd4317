"""Reading weights files without executing them, and loading weights into models."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

import xplain
from tests.conftest import SAMPLES
from tests.helpers import toys
from xplain.core.errors import InputError, ModelNote
from xplain.models.checkpoints import (
    count_finetuned_classes,
    describe_weights_file,
    hash_tensors,
    load_weights,
    read_weights,
)
from xplain.models.efficientnet_lite import EfficientNetLite


def random_state(seed: int = 5) -> dict[str, torch.Tensor]:
    return toys.small_net(seed).state_dict()


def is_same_state(actual, expected) -> bool:
    return list(actual) == list(expected) and all(torch.equal(actual[name], expected[name]) for name in expected)


def input_error(call, *arguments) -> str:
    """Return the text of the InputError that the call raises."""
    with pytest.raises(InputError) as error:
        call(*arguments)
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.bin", "a"])
def test_read_weights_torch_save(tmp_path, name):
    torch.save(random_state(), tmp_path / name)
    assert is_same_state(read_weights(tmp_path / name), random_state())


def test_read_weights_legacy_format(tmp_path):
    torch.save(random_state(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert is_same_state(read_weights(tmp_path / "a.pth"), random_state())


def test_read_weights_safetensors(tmp_path):
    save_file({name: tensor.contiguous() for name, tensor in random_state().items()}, tmp_path / "a.safetensors")
    loaded = read_weights(tmp_path / "a.safetensors")
    assert is_same_state({name: loaded[name] for name in random_state()}, random_state())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s},
        lambda s: {"model_state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"lr": 0.1}, "epoch": 3},
        lambda s: {f"module.{name}": tensor for name, tensor in s.items()},
        lambda s: {"state_dict": {f"module.{name}": tensor for name, tensor in s.items()}},
        lambda s: {"state_dict": {f"module.model.{name}": tensor for name, tensor in s.items()}},
        lambda s: {"state_dict": {f"model.{name}": tensor for name, tensor in s.items()}, "hyper_parameters": {}},
    ],
    ids=["state_dict", "model_state_dict", "model", "module.", "both", "module.model.", "lightning"],
)
def test_load_weights_unwraps_training_checkpoint(tmp_path, wrap):
    torch.save(wrap(random_state()), tmp_path / "a.pth")
    model = toys.small_net(seed=8)
    assert not is_same_state(model.state_dict(), random_state())
    load_weights(model, read_weights(tmp_path / "a.pth"), "a.pth")
    assert is_same_state(model.state_dict(), random_state())


def test_read_weights_keeps_partial_prefix(tmp_path):
    content = {"module.a": torch.ones(1), "b": torch.zeros(1)}
    torch.save(content, tmp_path / "a.pth")
    assert list(read_weights(tmp_path / "a.pth")) == ["module.a", "b"]


class ModelPrefix(nn.Module):
    """A user's network, all of whose parameters are under ``model``."""

    def __init__(self) -> None:
        super().__init__()
        self.model = toys.small_net(0)

    def forward(self, x):
        return self.model(x)


class ModulePrefix(nn.Module):
    """A user's network, all of whose parameters are under ``module``."""

    def __init__(self) -> None:
        super().__init__()
        self.module = toys.small_net(0)

    def forward(self, x):
        return self.module(x)


@pytest.mark.parametrize("make", [ModelPrefix, ModulePrefix])
def test_load_weights_keeps_models_prefix(tmp_path, make):
    trained = make()
    trained.load_state_dict({name: tensor + 1 for name, tensor in trained.state_dict().items()})
    torch.save(trained.state_dict(), tmp_path / "a.pth")
    loaded = xplain.load_classifier(make(), device="cpu", weights=tmp_path / "a.pth")
    assert torch.equal(loaded(toys.images()), trained.eval()(toys.images()))


def test_describe_weights_file_returns_sha256(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(random_state(), path)
    record = describe_weights_file(path)
    assert (record.source, record.sha256) == (str(path), hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    "other_entries",
    [
        {"args": argparse.Namespace(lr=0.1, output=Path("runs"))},
        {"best": np.float64(0.5), "epoch": np.int64(3), "loss": np.float32(1.5)},
    ],
    ids=["args", "numpy"],
)
def test_read_weights_ignores_other_entries(tmp_path, other_entries):
    torch.save({"model": random_state(), "optimizer": {"state": {}}, **other_entries}, tmp_path / "a.pth")
    assert is_same_state(read_weights(tmp_path / "a.pth"), random_state())


PREFIXED = ["module._orig_mod.", "_orig_mod.module.", "_orig_mod.", "net.", "student.backbone.", "ema_model.module."]


@pytest.mark.parametrize("prefix", PREFIXED)
@pytest.mark.parametrize("other_entries", [{}, {"criterion.weight": torch.ones(5), "n_averaged": torch.tensor(3)}])
def test_load_weights_removes_shared_prefix(prefix, other_entries):
    model = toys.small_net(seed=8)
    load_weights(model, {f"{prefix}{name}": tensor for name, tensor in random_state().items()} | other_entries, "a.pth")
    assert is_same_state(model.state_dict(), random_state())


def copies(*prefixes: str) -> dict[str, torch.Tensor]:
    """Return several copies of a state dict under the prefixes, each with different values."""
    weights = {}
    for seed, prefix in enumerate(prefixes, 5):
        weights |= {f"{prefix}{name}": tensor for name, tensor in random_state(seed).items()}
    return weights


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict_ema": random_state(5), "state_dict": random_state(6)},
        {"model": random_state(6), "model_ema": random_state(5), "epoch": 3},
        {"model": random_state(6), "model_ema": {f"module.{name}": tensor for name, tensor in random_state(5).items()}},
        copies("ema.", ""),
        copies("ema_model.", "online_model."),
        {"state_dict": copies("model_ema.module.", "model.")},
    ],
)
def test_load_weights_prefers_averaged(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    model = toys.small_net(seed=8)
    with pytest.warns(ModelNote, match=r"a\.pth' contains averaged weights; using '.*ema.*'"):
        load_weights(model, read_weights(tmp_path / "a.pth"), str(tmp_path / "a.pth"))
    assert is_same_state(model.state_dict(), random_state(5))


def test_load_weights_rejects_two_copies():
    text = input_error(load_weights, toys.small_net(), copies("student.", "teacher."), "a.pth")
    assert text == "'a.pth' contains 2 sets of weights (prefixes student., teacher.); save only the set to use"


def test_finetuned_weights_set_classes(tmp_path):
    tuned = EfficientNetLite(classes=7)
    torch.save({f"module.{name}": tensor for name, tensor in tuned.state_dict().items()}, tmp_path / "a.pth")
    classifier = xplain.load_classifier(device="cpu", weights=tmp_path / "a.pth", image_size=64)
    assert (classifier.classes, classifier.labels, classifier.wnids) == (7, [], [])
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = tuned.eval()((x - classifier.mean) / classifier.std)
        assert (classifier(x) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_count_finetuned_classes_other_shapes():
    other = random_state() | {"conv2.weight": torch.ones(12, 8, 5, 5)}
    assert count_finetuned_classes(other, random_state(), "a.pth") is None
    assert (
        count_finetuned_classes(
            random_state() | {"head.weight": torch.ones(7, 12), "head.bias": torch.ones(7)}, random_state(), "a.pth"
        )
        == 7
    )
    assert count_finetuned_classes(random_state(), random_state(), "a.pth") is None


def test_hash_tensors_identifies_values():
    """The hash depends on values, names, buffers and types, but not on the memory format."""
    net = toys.small_net(5)
    expected = hash_tensors(net)
    again = toys.small_net(5).to(memory_format=torch.channels_last)
    assert hash_tensors(again) == expected
    assert xplain.load_classifier(net, device="cpu").weights.sha256 == expected
    others = [toys.small_net(6), toys.small_net(5).float(), nn.Sequential(toys.small_net(5)), toys.small_net(5)]
    others[3].norm1.running_mean[0] += 1e-9
    assert len({expected, *map(hash_tensors, others)}) == 5


class Payload:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", ["torch", "legacy torch", "pickle"])
@pytest.mark.parametrize("nested", [False, True])
def test_read_weights_executes_nothing(tmp_path, save, nested):
    created_file, path = tmp_path / "created_file", tmp_path / "a.pth"
    content = {"state_dict": random_state(), "extra": Payload(created_file)} if nested else Payload(created_file)
    if save == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=save == "torch")
    text = input_error(read_weights, path)
    assert not created_file.exists()
    assert str(path) in text
    pickle.loads(pickle.dumps(Payload(created_file))).close()
    assert created_file.exists()  # the payload works if it is unpickled


def test_read_weights_rejects_pickled_model(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(toys.small_net(), path)
    text = input_error(read_weights, path)
    assert text.startswith(
        f"the weights file {str(path)!r} contains pickled objects other than tensors, which are not loaded; "
    )
    assert "torch.save(model.state_dict(), FILE)" in text


def write_zip_bomb(path: Path) -> int:
    """Write a weights file with a compressed gigabyte of zeros, and return the size of the file."""
    torch.save({"a": torch.zeros(8)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            if not name.endswith("/data/0"):
                archive.writestr(name, content)
                continue
            with archive.open(name, "w", force_zip64=True) as stream:
                for _ in range(1024):
                    stream.write(bytes(2**20))
    return path.stat().st_size


def test_read_weights_rejects_zip_bomb(tmp_path, xp):
    path = tmp_path / "a.pth"
    size = write_zip_bomb(path)
    assert size < 2e6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = input_error(read_weights, path)
    assert text.startswith(f"the weights file {str(path)!r} is compressed ({size} bytes expand to 107374")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes
    ran = xp("explain", SAMPLES / "cat.jpg", "--weights", path)
    assert (ran.code, ran.err) == (3, f"xplain: error: {text}\n")


def test_read_weights_missing_file(tmp_path):
    path = tmp_path / "gone.pth"
    assert input_error(read_weights, path) == f"weights file {str(path)!r} not found; check --weights"
    assert "not found" in input_error(read_weights, tmp_path)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.99])
def test_read_weights_truncated_file(tmp_path, name, fraction):
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(random_state(), path)
    else:
        save_file(random_state(), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])
    assert f"the weights file {str(path)!r}" in input_error(read_weights, path)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_read_weights_text_file(tmp_path, name):
    path = tmp_path / name
    path.write_text("<html>not found</html>")
    assert f"the weights file {str(path)!r}" in input_error(read_weights, path)


@pytest.mark.parametrize("content", [{}, [1, 2], torch.ones(3), {"epoch": 3}, {"a": torch.ones(1), "b": 3}])
def test_read_weights_without_state_dict(tmp_path, content):
    path = tmp_path / "a.pth"
    torch.save(content, path)
    assert (
        input_error(read_weights, path)
        == f"the weights file {str(path)!r} does not contain a state dict; save it with torch.save(model.state_dict(), FILE)"
    )


def test_load_weights_sets_parameters():
    model = toys.small_net(0)
    load_weights(model, random_state(), "a.pth")
    assert is_same_state(model.state_dict(), random_state())


@pytest.mark.filterwarnings("error")
def test_load_weights_passes_state_version(tmp_path):
    """MNASNet requires the version in the state dict's metadata."""
    model, trained = models.mnasnet0_5(num_classes=3), models.mnasnet0_5(num_classes=3)
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "a.pth")
    load_weights(model, read_weights(tmp_path / "a.pth"), "a.pth")
    assert is_same_state(model.state_dict(), trained.state_dict())


def test_load_weights_without_batch_counters():
    model = toys.small_net(0)
    weights = {name: tensor for name, tensor in random_state().items() if not name.endswith("num_batches_tracked")}
    assert len(weights) == len(random_state()) - 1
    load_weights(model, weights, "a.pth")
    assert is_same_state({name: model.state_dict()[name] for name in weights}, weights)


def test_load_weights_lists_missing_names():
    weights = {name: tensor for name, tensor in random_state().items() if name != "head.bias"}
    text = input_error(load_weights, toys.small_net(), weights, "a.pth")
    assert (
        text == "the weights from a.pth do not match the model: missing keys (head.bias); check --model and --weights"
    )


def test_load_weights_lists_unknown_names():
    text = input_error(load_weights, toys.small_net(), random_state() | {"fc.weight": torch.ones(1)}, "a.pth")
    assert (
        text
        == "the weights from a.pth do not match the model: unexpected keys (fc.weight); check --model and --weights"
    )


def test_load_weights_lists_different_shapes():
    weights = random_state() | {"head.weight": torch.ones(7, 12), "head.bias": torch.ones(7)}
    text = input_error(load_weights, toys.small_net(), weights, "a.pth")
    assert "size mismatch (head.weight (7, 12) for (5, 12), head.bias (7,) for (5,))" in text


def test_load_weights_shortens_long_list():
    text = input_error(load_weights, toys.small_net(), {}, "a.pth")
    # 11 names (two convolutions, a norm of four, a linear layer) without the batch counter
    assert "missing keys (conv1.weight, conv1.bias, norm1.weight and 7 more)" in text


def test_load_weights_error_changes_nothing():
    model = toys.small_net(0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    input_error(load_weights, model, random_state() | {"fc.weight": torch.ones(1)}, "a.pth")
    assert is_same_state(model.state_dict(), before)


def test_load_classifier_rejects_other_weights(tmp_path):
    torch.save(random_state(), tmp_path / "a.pth")
    text = input_error(xplain.load_classifier, "efficientnet-lite0", "cpu", tmp_path / "a.pth")
    assert "missing keys (stem.0.weight" in text
    assert "unexpected keys (conv1.weight" in text
