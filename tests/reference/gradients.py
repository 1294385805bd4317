"""Gradients by autograd on the bare network, one image at a time, and the two methods that need nothing else.

Throughout ``tests/reference``: a network maps (B, C, H, W) to logits, an image is (C, H, W), and ``f`` maps one image to
the scalar that is explained.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]
Scalar = Callable[[Tensor], Tensor]


def logit(network: Network, target: int) -> Scalar:
    """z_t."""
    return lambda image: network(image[None])[0, target]


def probability(network: Network, target: int) -> Scalar:
    """p_t = exp z_t / Σ_c exp z_c."""

    def f(image: Tensor) -> Tensor:
        z = network(image[None])[0]
        powers = (z - z.max().detach()).exp()
        return powers[target] / powers.sum()

    return f


def log_probability(network: Network, target: int) -> Scalar:
    """log p_t."""
    return lambda image: probability(network, target)(image).log()


def margin(network: Network, target: int) -> Scalar:
    """z_t minus the largest other logit."""

    def f(image: Tensor) -> Tensor:
        z = network(image[None])[0]
        others = torch.stack([each for c, each in enumerate(z) if c != target])
        return z[target] - others.max()

    return f


SCORES = {"logit": logit, "prob": probability, "log-prob": log_probability, "margin": margin}


def contrast(score: Callable[[Network, int], Scalar], network: Network, target: int, contrasts: list[int]) -> Scalar:
    """The target's score minus the mean of its rivals'."""

    def f(image: Tensor) -> Tensor:
        others = [score(network, rival)(image) for rival in contrasts]
        return score(network, target)(image) - sum(others) / len(others)

    return f


def gradient(f: Scalar, point: Tensor) -> Tensor:
    """∇f at a point, from a fresh leaf."""
    leaf = point.detach().clone().requires_grad_(True)
    (found,) = torch.autograd.grad(f(leaf), leaf)
    return found


def saliency(f: Scalar, image: Tensor, absolute: bool = False) -> Tensor:
    """∇f(x), or its absolute value."""
    found = gradient(f, image)
    return found.abs() if absolute else found


def input_x_gradient(f: Scalar, image: Tensor) -> Tensor:
    """x ⊙ ∇f(x)."""
    return image * gradient(f, image)
