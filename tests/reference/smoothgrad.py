"""SmoothGrad, SmoothGrad² and VarGrad, sample by sample; the standard normal draws are given."""

import torch
from torch import Tensor

from tests.reference.gradients import Scalar, gradient


def smoothgrad(f: Scalar, image: Tensor, draws: list[Tensor], noise: float, kind: str) -> Tensor:
    """mean g_i, mean |g_i|, mean g_i² or mean (g_i - mean g)², g_i = ∇f(x + σ n_i), σ = noise · (max x - min x)."""
    sigma = noise * (image.max() - image.min())
    gradients = [gradient(f, image + sigma * draw) for draw in draws]
    mean = sum(gradients) / len(gradients)
    if kind == "mean":
        return mean
    if kind == "absolute":
        return sum(each.abs() for each in gradients) / len(gradients)
    around = mean if kind == "variance" else torch.zeros_like(mean)
    return sum((each - around) ** 2 for each in gradients) / len(gradients)
