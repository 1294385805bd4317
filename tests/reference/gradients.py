"""Scores and their gradients by autograd, one image at a time; saliency and input x gradient.

In ``tests/reference`` a network maps (B, C, H, W) to logits, an image is (C, H, W), and ``f`` maps one image to the explained
score.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]
Scalar = Callable[[Tensor], Tensor]


def logit(network: Network, target: int) -> Scalar:
    """Return the function z_t of an image."""
    return lambda image: network(image[None])[0, target]


def probability(network: Network, target: int) -> Scalar:
    """Return the function p_t = exp z_t / Σ_c exp z_c of an image."""

    def f(image: Tensor) -> Tensor:
        z = network(image[None])[0]
        powers = (z - z.max().detach()).exp()
        return powers[target] / powers.sum()

    return f


def log_probability(network: Network, target: int) -> Scalar:
    """Return the function log p_t of an image."""
    return lambda image: probability(network, target)(image).log()


def margin(network: Network, target: int) -> Scalar:
    """Return the function z_t minus the largest other logit of an image."""

    def f(image: Tensor) -> Tensor:
        z = network(image[None])[0]
        others = torch.stack([value for c, value in enumerate(z) if c != target])
        return z[target] - others.max()

    return f


SCORES = {"logit": logit, "prob": probability, "log-prob": log_probability, "margin": margin}


def contrast(score: Callable[[Network, int], Scalar], network: Network, target: int, contrasts: list[int]) -> Scalar:
    """Return the target's score minus the mean score of the contrast classes, as a function of an image."""

    def f(image: Tensor) -> Tensor:
        others = [score(network, index)(image) for index in contrasts]
        return score(network, target)(image) - sum(others) / len(others)

    return f


def gradient(f: Scalar, point: Tensor) -> Tensor:
    """Return ∇f at a point."""
    leaf = point.detach().clone().requires_grad_(True)
    return torch.autograd.grad(f(leaf), leaf)[0]


def saliency(f: Scalar, image: Tensor, absolute: bool = False) -> Tensor:
    """Return ∇f(x), or its absolute value."""
    values = gradient(f, image)
    return values.abs() if absolute else values


def input_x_gradient(f: Scalar, image: Tensor) -> Tensor:
    """Return x ⊙ ∇f(x)."""
    return image * gradient(f, image)
