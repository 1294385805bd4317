"""Copies of a classifier in which layers lose what they learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from xplain.core.rng import seed_of
from xplain.models.checkpoints import hash_tensors
from xplain.models.classifier import Classifier, Weights
from xplain.models.inspection import detect_channels
from xplain.models.optimize import copy_classifier

Layer = tuple[str, ...]  # names of modules


def randomize_layers(
    classifier: Classifier, layers: Sequence[Layer], seed: int, stages: int, *, cascade: bool
) -> Iterator[Classifier]:
    """The classifier with layers initialised anew, in ``stages`` even steps from the last layer to the first.

    layers: in the order of execution. cascade: a stage keeps the layers of the stages before it; else they are as trained.
    A layer's draw depends on the seed and its place alone. Copies are made when asked for; the first is the last layer's.
    """
    reverse = list(enumerate(layers))[::-1]
    edges = [round(k * len(layers) / stages) for k in range(stages + 1)]
    made = classifier
    for start, stop in pairwise(edges):
        made = copy_classifier(made if cascade else classifier).cpu()  # the draws are the same for all devices
        for place, names in reverse[start:stop]:
            for name in names:
                reinitialize(made.model.get_submodule(name), seed_of(seed, place, name))
        made = made.to(classifier.device)
        yield made


def reinitialize(module: nn.Module, seed: int) -> None:
    """Give a module's own parameters new values, as its type does when it is made; buffers, such as running statistics, stay.

    Parameters that have no such initialiser are drawn from a normal distribution with the mean and the standard deviation of their values.
    """
    parameters = [each for each in module.parameters(recurse=False) if each.is_floating_point()]
    before = [each.detach().clone() for each in parameters]
    buffers = {name: each.clone() for name, each in module.named_buffers(recurse=False)}
    reset = getattr(module, "reset_parameters", None)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        if callable(reset) and not list(module.children()):  # a container's would reach into its children
            reset()
        for parameter, old in zip(parameters, before, strict=True):
            if torch.equal(parameter, old):
                wide = old.double()
                drawn = torch.randn(old.shape, dtype=torch.float64) * wide.std(correction=0) + wide.mean()
                parameter.copy_(drawn)
        for name, buffer in module.named_buffers(recurse=False):
            buffer.copy_(buffers[name])


RANDOM = Path("random")  # given for a file of weights


UNTRAINED = Weights("random")


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def load_untrained(build: Callable[[], Classifier]) -> Classifier:
    """What ``build`` makes, initialised from seed 0, its batch norms set to the statistics of noise images.

    Without the statistics activations grow from layer to layer, softmax saturates, and gradients of it vanish. Linear layers that begin
    as zeros are drawn too. Raises InputError where the model does not take images of its size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = build().eval()
        _draw_heads(classifier)
        detect_channels(classifier)
        _settle(classifier, torch.rand(4, classifier.channels, *classifier.size, dtype=classifier.dtype))
    classifier.weights = replace(UNTRAINED, sha256=hash_tensors(classifier.model))
    return classifier


def _draw_heads(classifier: Classifier) -> None:
    """Draw what begins as zeros, the heads of ViTs and mixers: under them no logit depends on the image, and all maps are zero."""
    for module in classifier.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)  # as their other layers


@torch.no_grad()
def _settle(classifier: Classifier, noise: torch.Tensor) -> None:
    """Run once on noise (B, C, H, W) while the batch norms take their statistics from it."""
    norms = [
        module for module in classifier.modules() if isinstance(module, BATCH_NORMS) and module.track_running_stats
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    classifier(noise)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
