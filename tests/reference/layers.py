"""Grad-CAM++, LayerCAM and Score-CAM, channel by channel and cell by cell."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.reference.grad_cam import upsample


def read(model: nn.Module, layer: nn.Module, image: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Return the activations (K, h, w) of a layer and the gradients of the target's logit there."""
    outputs: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    score = model(image[None].detach().clone().requires_grad_(True))[0, target]
    handle.remove()
    (gradients,) = torch.autograd.grad(score, outputs[0])
    return outputs[0][0].detach(), gradients[0]


def grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return max(Σ_k w_k A^k, 0), w_k = Σ_ij g² / (2 g² + g³ Σ_ab A_ab) max(g, 0)."""
    total = torch.zeros_like(activations[0])
    for activation, gradient in zip(activations, gradients, strict=True):
        weight = 0.0
        for g in gradient.flatten().tolist():
            denominator = 2 * g**2 + g**3 * float(activation.sum())
            if g > 0 and denominator > 0:
                weight += g**2 / denominator * g
        total = total + weight * activation
    return total.clamp(min=0)


def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return max(Σ_k max(g, 0) A, 0)."""
    total = torch.zeros_like(activations[0])
    for activation, gradient in zip(activations, gradients, strict=True):
        total = total + gradient.clamp(min=0) * activation
    return total.clamp(min=0)


def hires_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return max(Σ_k g A, 0)."""
    total = torch.zeros_like(activations[0])
    for activation, gradient in zip(activations, gradients, strict=True):
        total = total + gradient * activation
    return total.clamp(min=0)


def xgrad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return max(Σ_k α_k A^k, 0), α_k = Σ_ij g A / Σ_ij A, and 0 for a channel without activation."""
    total = torch.zeros_like(activations[0])
    for activation, gradient in zip(activations, gradients, strict=True):
        if float(activation.sum()) != 0:
            total = total + float((gradient * activation).sum()) / float(activation.sum()) * activation
    return total.clamp(min=0)


def score_cam(
    f: Callable[[Tensor], Tensor], image: Tensor, fill: Tensor, activations: Tensor, *, normalize: bool
) -> Tensor:
    """Return max(Σ_k w_k A^k, 0), where w_k is f of the image masked by channel k.

    normalize: take the softmax of those scores over the channels. Constant channels have the weight 0.
    """
    scores: dict[int, float] = {}
    for channel, activation in enumerate(activations):
        upsampled = upsample(activation, *image.shape[1:])
        if float(upsampled.max()) == float(upsampled.min()):
            continue
        mask = (upsampled - upsampled.min()) / (upsampled.max() - upsampled.min())
        scores[channel] = float(f(fill + mask * (image - fill)).detach())
    weights = torch.tensor(list(scores.values()), dtype=activations.dtype)
    if normalize:
        weights = weights.softmax(0)
    total = torch.zeros_like(activations[0])
    for channel, weight in zip(scores, weights.tolist(), strict=True):
        total = total + weight * activations[channel]
    return total.clamp(min=0)


def ablation_cam(
    model: nn.Module,
    layer: nn.Module,
    image: Tensor,
    score: Callable[[Tensor], Tensor],
    prefix: int | None = None,
    runs: int = 1,
) -> Tensor:
    """Return max(Σ_k (f - f_k) A^k, 0), where f_k is the score of the logits (1, classes) with channel k of the layer at zero.

    prefix: the number of tokens before the patches, which stay as they are; None if the layer returns maps. A map of tokens is (N, 1).
    runs: how often the layer runs in a forward pass; the last run counts.
    """
    outputs: list[Tensor] = []

    def run(channel: int | None) -> float:
        outputs.clear()

        def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
            outputs.append(output.detach())
            changed = output.clone()
            if len(outputs) < runs or channel is None:
                return changed
            if prefix is None:
                changed[:, channel] = 0
            else:
                changed[:, prefix:, channel] = 0
            return changed

        handle = layer.register_forward_hook(hook)
        value = float(score(model(image[None]).detach()))
        handle.remove()
        return value

    full = run(None)
    activations = outputs[-1][0] if prefix is None else outputs[-1][0, prefix:].T[:, :, None]
    total = torch.zeros_like(activations[0])
    for channel, activation in enumerate(activations):
        total = total + (full - run(channel)) * activation
    return total.clamp(min=0)
