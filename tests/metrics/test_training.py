"""Training: networks, reproducibility, and resuming after an interruption."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.patches import make_set
from xplain.core.checkpoint_store import DirectoryCheckpoints, MemoryCheckpoints
from xplain.core.errors import XplainError
from xplain.metrics._training import (
    TrainingOptions,
    compute_channel_statistics,
    make_classifier,
    make_network,
    measure_accuracy,
    train,
)

DATA = make_set(40, 20)


class StoppedError(Exception):
    """An interruption of the training."""


def train_network(epochs: int, checkpoints, seed: int = 0, stop: int | None = None) -> dict:
    """Return the weights after training; stop: interrupt after this number of epochs and return no weights."""
    net = make_classifier(DATA, "small", seed)
    done = []

    def on_progress(epochs: float) -> None:
        done.append(epochs)
        if len(done) == stop:
            raise StoppedError

    try:
        train(net, DATA.train, TrainingOptions(epochs, 8, 3e-3, seed), checkpoints, "net", on_progress)
    except StoppedError:
        return {}
    return net.state_dict()


def are_equal(a: dict, b: dict) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def test_make_network_cnn_layers():
    net = make_network("cnn", 10, 32, 32)
    convolutions = [m.out_channels for m in net if isinstance(m, nn.Conv2d)]
    linears = [(m.in_features, m.out_features) for m in net if isinstance(m, nn.Linear)]
    assert convolutions == [32, 32, 64, 64, 128, 128]
    assert linears == [(128 * 4 * 4, 256), (256, 128), (128, 10)]
    assert sum(p.numel() for p in net.parameters()) == 287_008 + 558_730


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (8, 8), (28, 28), (33, 47)])
@pytest.mark.parametrize("name", ["cnn", "small"])
def test_make_network_any_size(name, height, width):
    assert make_network(name, 4, height, width)(torch.rand(2, 3, height, width)).shape == (2, 4)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_train_resumes_after_interruption(stop, tmp_path):
    whole = train_network(4, MemoryCheckpoints())
    checkpoints = DirectoryCheckpoints(tmp_path)
    assert train_network(4, checkpoints, stop=stop) == {}
    assert are_equal(whole, train_network(4, checkpoints))
    assert not are_equal(whole, train_network(5, MemoryCheckpoints()))


def test_train_skips_finished_epochs(tmp_path):
    checkpoints = DirectoryCheckpoints(tmp_path)
    whole = train_network(2, checkpoints)
    assert are_equal(whole, train_network(2, checkpoints, stop=1))


def test_train_depends_on_seed_only():
    torch.manual_seed(1)
    weights = train_network(1, MemoryCheckpoints())
    before = torch.get_rng_state()
    torch.manual_seed(2)
    assert are_equal(weights, train_network(1, MemoryCheckpoints()))
    torch.set_rng_state(before)
    train_network(1, MemoryCheckpoints())
    assert torch.equal(torch.get_rng_state(), before)
    other = train_network(1, MemoryCheckpoints(), seed=1)
    assert not any(torch.equal(weights[key], other[key]) for key in weights)


def test_compute_channel_statistics():
    mean, std = compute_channel_statistics(DATA.train.pixels)
    pixels = DATA.train.pixels.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 2, 3)), rtol=1e-9)
    assert compute_channel_statistics(torch.full((2, 3, 4, 4), 7, dtype=torch.uint8))[1] == [1 / 255] * 3


def test_measure_accuracy():
    net = make_classifier(DATA, "small", 0)
    right = sum(
        int(net(DATA.test.batch(slice(i, i + 1))).argmax()) == label
        for i, label in enumerate(DATA.test.labels.tolist())
    )
    assert measure_accuracy(net, DATA.test, "fp32") == right / 20


def test_checkpoints_reject_code(tmp_path):
    states = DirectoryCheckpoints(tmp_path)
    torch.save({"network": StoppedError}, tmp_path / "net.pt")
    with pytest.raises(XplainError, match=r"cannot resume from checkpoint .*net\.pt.*; remove"):
        states.load("net")
    (tmp_path / "net.pt").write_bytes(b"no state")
    with pytest.raises(XplainError, match="cannot resume"):
        states.load("net")


def test_checkpoints_drop_a_folder(tmp_path):
    for states in (DirectoryCheckpoints(tmp_path), MemoryCheckpoints()):
        for name in ("base", "m/10", "m/ranks-0", "mm/10"):
            states.save(name, {"epoch": 1})
        states.delete("m")
        assert [states.load(name) for name in ("base", "m/10", "m/ranks-0", "mm/10")] == [
            {"epoch": 1}, None, None, {"epoch": 1}
        ]  # fmt: skip
