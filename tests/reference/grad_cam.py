"""Grad-CAM, channel by channel, and bilinear upsampling, pixel by pixel."""

import math

import torch
from torch import Tensor, nn


def grad_cam(model: nn.Module, layer: nn.Module, image: Tensor, target: int) -> Tensor:
    """Return max(Σ_k α_k A^k, 0) at the size (h, w) of the layer, where α_k is the spatial mean of ∂z_t/∂A^k."""
    outputs: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    score = model(image[None].detach().clone().requires_grad_(True))[0, target]
    handle.remove()
    (gradients,) = torch.autograd.grad(score, outputs[0])
    total = torch.zeros_like(outputs[0][0, 0])
    for activation, gradient in zip(outputs[0][0], gradients[0], strict=True):
        total = total + gradient.mean() * activation
    return total.detach().clamp(min=0)


def upsample(coarse: Tensor, height: int, width: int) -> Tensor:
    """Return a map (height, width): bilinear, with pixel centers at half integers and edges repeated."""
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
