"""Training: the networks, what seeds fix, and going on after an interruption to the same bits."""

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
    """What interrupts a training."""


def trained(epochs: int, states, seed: int = 0, stop: int | None = None) -> dict:
    """The weights after training; ``stop``: interrupted after so many epochs of this call."""
    net = make_classifier(DATA, "small", seed)
    done = []

    def tick(epochs: float) -> None:
        done.append(epochs)
        if len(done) == stop:
            raise StoppedError

    try:
        train(net, DATA.train, TrainingOptions(epochs, 8, 3e-3, seed), states, "net", tick)
    except StoppedError:
        return {}
    return net.state_dict()


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_the_papers_network_has_six_convolutions_and_three_linear_layers():
    net = make_network("cnn", 10, 32, 32)
    convolutions = [m.out_channels for m in net if isinstance(m, nn.Conv2d)]
    linears = [(m.in_features, m.out_features) for m in net if isinstance(m, nn.Linear)]
    assert convolutions == [32, 32, 64, 64, 128, 128]
    assert linears == [(128 * 4 * 4, 256), (256, 128), (128, 10)]
    assert sum(p.numel() for p in net.parameters()) == 287_008 + 558_730


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (8, 8), (28, 28), (33, 47)])
@pytest.mark.parametrize("name", ["cnn", "small"])
def test_networks_take_images_of_any_size(name, height, width):
    assert make_network(name, 4, height, width)(torch.rand(2, 3, height, width)).shape == (2, 4)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_an_interrupted_training_goes_on_to_the_unbroken_weights(stop, tmp_path):
    whole = trained(4, MemoryCheckpoints())
    states = DirectoryCheckpoints(tmp_path)
    assert trained(4, states, stop=stop) == {}
    assert same(whole, trained(4, states))
    assert not same(whole, trained(5, MemoryCheckpoints()))


def test_a_finished_training_is_not_done_again(tmp_path):
    states = DirectoryCheckpoints(tmp_path)
    whole = trained(2, states)
    assert same(whole, trained(2, states, stop=1))


def test_the_seed_is_all_that_matters():
    torch.manual_seed(1)
    one = trained(1, MemoryCheckpoints())
    before = torch.get_rng_state()
    torch.manual_seed(2)
    assert same(one, trained(1, MemoryCheckpoints()))
    torch.set_rng_state(before)
    trained(1, MemoryCheckpoints())
    assert torch.equal(torch.get_rng_state(), before)
    other = trained(1, MemoryCheckpoints(), seed=1)
    assert not any(torch.equal(one[key], other[key]) for key in one)


def test_normalisation_is_the_training_images():
    mean, std = compute_channel_statistics(DATA.train.pixels)
    pixels = DATA.train.pixels.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 2, 3)), rtol=1e-9)
    assert compute_channel_statistics(torch.full((2, 3, 4, 4), 7, dtype=torch.uint8))[1] == [1 / 255] * 3


def test_accuracy_is_counted_on_the_images():
    net = make_classifier(DATA, "small", 0)
    right = sum(
        int(net(DATA.test.batch(slice(i, i + 1))).argmax()) == label
        for i, label in enumerate(DATA.test.labels.tolist())
    )
    assert measure_accuracy(net, DATA.test, "fp32") == right / 20


def test_states_hold_nothing_that_runs(tmp_path):
    states = DirectoryCheckpoints(tmp_path)
    torch.save({"network": StoppedError}, tmp_path / "net.pt")
    with pytest.raises(XplainError, match=r"cannot resume from .*net\.pt.*; delete the file to recompute it"):
        states.load("net")
    (tmp_path / "net.pt").write_bytes(b"no state")
    with pytest.raises(XplainError, match="delete the file"):
        states.load("net")


def test_states_are_dropped_by_folder(tmp_path):
    for states in (DirectoryCheckpoints(tmp_path), MemoryCheckpoints()):
        for name in ("base", "m/10", "m/ranks-0", "mm/10"):
            states.save(name, {"epoch": 1})
        states.drop("m")
        assert [states.load(name) for name in ("base", "m/10", "m/ranks-0", "mm/10")] == [
            {"epoch": 1}, None, None, {"epoch": 1}
        ]  # fmt: skip
