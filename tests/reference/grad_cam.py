"""Grad-CAM: channel after channel, and bilinear up-sampling pixel after pixel."""

import math

import torch
from torch import Tensor, nn


def grad_cam(model: nn.Module, layer: nn.Module, image: Tensor, target: int) -> Tensor:
    """max(Σ_k α_k A^k, 0) at the layer's own size (h, w), α_k = the mean over space of ∂z_t/∂A^k."""
    held: list[Tensor] = []
    handle = layer.register_forward_hook(lambda *given: held.append(given[2]))
    score = model(image[None].detach().clone().requires_grad_(True))[0, target]
    handle.remove()
    (slopes,) = torch.autograd.grad(score, held[0])
    total = torch.zeros_like(held[0][0, 0])
    for activation, slope in zip(held[0][0], slopes[0], strict=True):
        total = total + slope.mean() * activation
    return total.detach().clamp(min=0)


def upsample(coarse: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, pixel centres at half integers, edges continued."""
    rows, columns = coarse.shape
    fine = torch.zeros(height, width, dtype=coarse.dtype)
    for i in range(height):
        for j in range(width):
            u, v = (i + 0.5) * rows / height - 0.5, (j + 0.5) * columns / width - 0.5
            for a in (math.floor(u), math.floor(u) + 1):
                for b in (math.floor(v), math.floor(v) + 1):
                    value = coarse[min(max(a, 0), rows - 1), min(max(b, 0), columns - 1)]
                    fine[i, j] += (1 - abs(u - a)) * (1 - abs(v - b)) * value
    return fine
