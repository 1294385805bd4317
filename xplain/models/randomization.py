"""Copies of a classifier in which layers lose what they learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import nn

from xplain.core.rng import seed_of
from xplain.models.classifier import Classifier
from xplain.models.optimize import copy_classifier

Layer = tuple[str, ...]  # names of modules


def randomise(
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
                initialise(made.model.get_submodule(name), seed_of(seed, place, name))
        made = made.to(classifier.device)
        yield made


def initialise(module: nn.Module, seed: int) -> None:
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
