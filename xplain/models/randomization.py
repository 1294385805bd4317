"""Randomize the layers of a trained classifier, or build a classifier with untrained weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from xplain.core.rng import seed_of
from xplain.models.batch_norms import BATCH_NORMS
from xplain.models.checkpoints import hash_tensors
from xplain.models.classifier import Classifier, Weights
from xplain.models.inspection import detect_channels
from xplain.models.optimize import copy_classifier

Layer = tuple[str, ...]  # names of modules

RANDOM = Path("random")  # the value of ``weights`` that asks for untrained weights
UNTRAINED = Weights("random")


def randomize_layers(
    classifier: Classifier, layers: Sequence[Layer], seed: int, stages: int, *, cascade: bool, from_input: bool = False
) -> Iterator[Classifier]:
    """Yield copies of the classifier with randomized layers, in ``stages`` even steps from the last layer to the first.

    layers: in execution order, as ``find_weighted_layers`` returns them.
    seed: a layer's new values depend only on the seed, the layer's position and its names.
    cascade: randomize the layers of all stages so far; otherwise only those of the current stage.
    from_input: step from the first layer to the last.
    Every copy is made when it is requested. The first one randomizes the last layers, or the first ones if ``from_input``.
    """
    ordered = list(enumerate(layers))
    if not from_input:
        ordered.reverse()
    edges = [round(k * len(layers) / stages) for k in range(stages + 1)]
    copied = classifier
    for start, stop in pairwise(edges):
        copied = copy_classifier(copied if cascade else classifier).cpu()  # so that all devices draw the same values
        for position, names in ordered[start:stop]:
            for name in names:
                reinitialize(copied.model.get_submodule(name), seed_of(seed, position, name))
        copied = copied.to(classifier.device)
        yield copied


def reinitialize(module: nn.Module, seed: int) -> None:
    """Draw new values for a module's own parameters with its ``reset_parameters``. Buffers (running statistics) stay.

    Parameters that ``reset_parameters`` leaves unchanged are drawn from a normal distribution with the mean and standard
    deviation of their current values.
    """
    parameters = [parameter for parameter in module.parameters(recurse=False) if parameter.is_floating_point()]
    old_values = [parameter.detach().clone() for parameter in parameters]
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        _reset(module)
        for parameter, old in zip(parameters, old_values, strict=True):
            if torch.equal(parameter, old):
                parameter.copy_(_draw_like(old))
        for name, buffer in module.named_buffers(recurse=False):
            buffer.copy_(buffers[name])


def _reset(module: nn.Module) -> None:
    """Call ``reset_parameters`` of a module.

    The method of a container is not called, because it could reset the parameters of its children.
    """
    reset = getattr(module, "reset_parameters", None)
    if callable(reset) and not list(module.children()):
        reset()


def _draw_like(values: Tensor) -> Tensor:
    """Return normal random numbers with the mean and standard deviation of ``values``, in float64."""
    wide = values.double()
    return torch.randn(values.shape, dtype=torch.float64) * wide.std(correction=0) + wide.mean()


@contextmanager
def untrained_seed() -> Iterator[None]:
    """Seed torch for untrained weights while the block runs, so that they are the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def initialize_untrained(classifier: Classifier) -> None:
    """Make an untrained classifier usable: call it within ``untrained_seed``, right after the classifier is made.

    Batch norms get the statistics of noise images; without them activations grow from layer to layer, softmax saturates and its
    gradients vanish. Linear layers that start as zeros are drawn too.
    Raises InputError if the model does not accept images of its size.
    """
    classifier.eval()
    _draw_zero_linears(classifier)
    detect_channels(classifier)
    noise = torch.rand(4, classifier.channels, *classifier.size, dtype=classifier.dtype)
    _calibrate_batch_norms(classifier, noise)
    classifier.weights = replace(UNTRAINED, sha256=hash_tensors(classifier.model))


def _draw_zero_linears(classifier: Classifier) -> None:
    """Draw the weights of linear layers that start as zeros, such as the heads of ViTs and mixers.

    With a zero head the logits do not depend on the image, and every map is zero.
    """
    for module in classifier.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)  # as the other layers of these models


@torch.no_grad()
def _calibrate_batch_norms(classifier: Classifier, noise: Tensor) -> None:
    """Set the running statistics of the batch norms to those of noise images (B, C, H, W)."""
    norms = [
        module for module in classifier.modules() if isinstance(module, BATCH_NORMS) and module.track_running_stats
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    classifier(noise)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
