"""SmoothGrad, SmoothGrad² and VarGrad, one sample at a time, for given standard normal draws."""

import torch
from torch import Tensor

from tests.reference.gradients import Scalar, gradient


def smoothgrad(f: Scalar, image: Tensor, draws: list[Tensor], noise: float, kind: str) -> Tensor:
    """Return mean g_i, mean |g_i|, mean g_i² or mean (g_i - mean g)², g_i = ∇f(x + σ n_i), σ = noise · (max x - min x)."""
    sigma = noise * (image.max() - image.min())
    gradients = [gradient(f, image + sigma * draw) for draw in draws]
    mean = sum(gradients) / len(gradients)
    if kind == "mean":
        return mean
    if kind == "absolute":
        return sum(sample.abs() for sample in gradients) / len(gradients)
    center = mean if kind == "variance" else torch.zeros_like(mean)
    return sum((sample - center) ** 2 for sample in gradients) / len(gradients)
