"""Grad-CAM++, LayerCAM and Score-CAM, channel after channel and cell after cell."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.reference.grad_cam import upsample


def read(model: nn.Module, layer: nn.Module, image: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """(K, h, w) activations of a layer and the gradients of the target's logit there."""
    held: list[Tensor] = []
    handle = layer.register_forward_hook(lambda *given: held.append(given[2]))
    score = model(image[None].detach().clone().requires_grad_(True))[0, target]
    handle.remove()
    (slopes,) = torch.autograd.grad(score, held[0])
    return held[0][0].detach(), slopes[0]


def grad_cam_plus_plus(activations: Tensor, slopes: Tensor) -> Tensor:
    """max(Σ_k w_k A^k, 0), w_k = Σ_ij g² / (2 g² + g³ Σ_ab A_ab) max(g, 0)."""
    total = torch.zeros_like(activations[0])
    for a, g in zip(activations, slopes, strict=True):
        weight = 0.0
        for cell in g.flatten().tolist():
            below = 2 * cell**2 + cell**3 * float(a.sum())
            if cell > 0 and below > 0:
                weight += cell**2 / below * cell
        total = total + weight * a
    return total.clamp(min=0)


def layer_cam(activations: Tensor, slopes: Tensor) -> Tensor:
    """max(Σ_k max(g, 0) A, 0)."""
    total = torch.zeros_like(activations[0])
    for a, g in zip(activations, slopes, strict=True):
        total = total + g.clamp(min=0) * a
    return total.clamp(min=0)


def score_cam(
    f: Callable[[Tensor], Tensor], image: Tensor, fill: Tensor, activations: Tensor, *, normalise: bool
) -> Tensor:
    """max(Σ_k w_k A^k, 0), w = f of the image masked by each channel, or the softmax of those scores over the channels."""
    scores = []
    for a in activations:
        fine = upsample(a, *image.shape[1:])
        if float(fine.max()) == float(fine.min()):
            scores.append(None)
            continue
        mask = (fine - fine.min()) / (fine.max() - fine.min())
        scores.append(float(f(fill + mask * (image - fill)).detach()))
    known = torch.tensor([each for each in scores if each is not None], dtype=activations.dtype)
    weights = iter((known.softmax(0) if normalise else known).tolist())
    total = torch.zeros_like(activations[0])
    for a, score in zip(activations, scores, strict=True):
        total = total + (0.0 if score is None else next(weights)) * a
    return total.clamp(min=0)
