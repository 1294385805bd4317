"""The unit of mean and std, and networks that normalize their own input."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from xplain.core.errors import InputError, ModelNote

X = toys.images()
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BYTES_NOTE = "mean and std of the module are those of pixels from 0 to 255; both are divided by 255"
OWN_NOTE = "the module applies its mean and std itself; they are not applied again"


def load(network: nn.Module) -> xplain.Classifier:
    network.size = (8, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelNote)
        return xplain.load_classifier(network, device="cpu", activation="softmax")


def as_buffers(network: nn.Module) -> None:
    network.register_buffer("mean", torch.tensor(MEAN, dtype=torch.float64)[:, None, None])
    network.register_buffer("std", torch.tensor(STD, dtype=torch.float64)[:, None, None])


def as_parameters(network: nn.Module) -> None:
    network.mean = nn.Parameter(torch.tensor(MEAN, dtype=torch.float64)[:, None, None])
    network.std = nn.Parameter(torch.tensor(STD, dtype=torch.float64)[:, None, None])


def as_lists(network: nn.Module) -> None:
    network.mean, network.std = MEAN, tuple(STD)


def as_tensors(network: nn.Module) -> None:
    network.mean, network.std = torch.tensor(MEAN), torch.tensor(STD)


def as_arrays(network: nn.Module) -> None:
    network.mean, network.std = np.array(MEAN), np.array(STD)


class OwnNormalization(nn.Module):
    """A network that normalizes its input by its own ``mean`` and ``std``, or does not use them."""

    def __init__(self, store, *, uses: bool = True) -> None:
        super().__init__()
        self.net, self.uses = toys.small_net(), uses
        store(self)

    def forward(self, x: Tensor) -> Tensor:
        if not self.uses:
            return self.net(x)
        mean, std = (torch.as_tensor(value, dtype=x.dtype).flatten()[:, None, None] for value in (self.mean, self.std))
        return self.net((x - mean) / std)


@pytest.mark.parametrize("store", [as_buffers, as_parameters, as_lists, as_tensors, as_arrays])
def test_own_normalization_is_not_applied_twice(store):
    network = OwnNormalization(store)
    before = str(network.mean), str(network.std)
    classifier = load(network)
    assert classifier.notes == [OWN_NOTE]
    assert torch.equal(classifier(X), network(X))
    assert (str(network.mean), str(network.std)) == before


@pytest.mark.parametrize("store", [as_buffers, as_parameters])
@pytest.mark.parametrize("uses", [True, False])
def test_own_normalization_of_traced_networks(store, uses):
    network = torch.jit.trace(OwnNormalization(store, uses=uses), X, check_trace=False)
    before = str(network.mean), str(network.std)
    classifier = load(network)
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (MEAN, STD))
    assert classifier.notes == ([OWN_NOTE] if uses else [])
    toys.assert_same(classifier(X), network(X) if uses else network((X - mean) / std), rtol=1e-6)
    assert (str(network.mean), str(network.std)) == before


@pytest.mark.parametrize("store", [as_buffers, as_parameters, as_lists, as_tensors, as_arrays])
def test_unused_attributes_are_applied(store):
    network = OwnNormalization(store, uses=False)
    classifier = load(network)
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (MEAN, STD))
    assert classifier.notes == []
    toys.assert_same(classifier(X), network((X - mean) / std), rtol=1e-6)


def test_own_normalization_of_class_attributes():
    class Network(OwnNormalization):
        mean, std = MEAN, STD

    classifier = load(Network(lambda network: None))
    assert classifier.notes == [OWN_NOTE]
    assert "mean" not in vars(classifier.model)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        ([103.9, 116.8, 123.7], [1.0, 1.0, 1.0]),
        ([127.5], [127.5]),
    ],
)
def test_values_of_bytes_are_converted(mean, std):
    network = toys.small_net()
    network.mean, network.std = mean, std
    classifier = load(network)
    assert classifier.notes == [BYTES_NOTE]
    byte_mean, byte_std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std))
    toys.assert_same(classifier(X), network((255 * X - byte_mean) / byte_std))


def test_own_values_of_bytes_are_not_noted():
    def store(network: nn.Module) -> None:
        network.mean, network.std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]

    network = OwnNormalization(store)
    assert load(network).notes == [OWN_NOTE]


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5] * 3, [0.2, 0.0, 0.2], "the std of SmallNet contains 0; set positive values"),
        ([0.5] * 3, [0.2, -1.0, 0.2], "the std of SmallNet contains -1; set positive values"),
        ([0.5, float("nan"), 0.5], [0.2] * 3, "the mean of SmallNet contains NaN or infinity; set finite values"),
        (
            [1370.0, 1200.0, 1100.0],
            [300.0, 200.0, 100.0],
            "the mean (1370, 1200, 1100) and std (300, 200, 100) of SmallNet have no common unit of pixels; "
            "set both for pixels in [0, 1]",
        ),
        (
            [123.0] * 3,
            [0.25] * 3,
            "the mean (123, 123, 123) and std (0.25, 0.25, 0.25) of SmallNet have no common unit of pixels; "
            "set both for pixels in [0, 1]",
        ),
    ],
)
def test_invalid_values_are_refused(mean, std, message):
    network = toys.small_net()
    network.mean, network.std = mean, std
    with pytest.raises(InputError) as error:
        load(network)
    assert str(error.value) == message


def test_values_told_by_arguments_are_exact_in_float64():
    classifier = xplain.load_classifier(toys.small_net(), device="cpu", size=(8, 10), mean=MEAN, std=STD)
    assert (classifier.mean.flatten().tolist(), classifier.std.flatten().tolist()) == (MEAN, STD)
