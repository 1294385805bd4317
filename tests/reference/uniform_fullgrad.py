"""Uniform FullGrad, with a loop over all biases of the network, as in DGA Eq. 4."""

import torch
from torch import Tensor, nn

from tests.reference.gradients import gradient, logit


def bias_of(module: nn.Module) -> Tensor | None:
    """Return the bias of a layer per channel, or None; batch norm in evaluation mode: β - γ mean / √(var + eps)."""
    if isinstance(module, nn.BatchNorm2d):
        return module.bias - module.weight * module.running_mean / (module.running_var + module.eps) ** 0.5
    return module.bias if isinstance(module, nn.Conv2d | nn.Linear) else None


def bias_total(model: nn.Module, image: Tensor, target: int) -> float:
    """Return Σ over layers, channels and positions of bias · ∂z_t / ∂(output of the layer)."""
    outputs: list[tuple[Tensor, Tensor]] = []

    def record(module: nn.Module, _: object, output: Tensor) -> None:
        bias = bias_of(module)
        if bias is not None:
            outputs.append((bias.detach(), output))

    handles = [module.register_forward_hook(record) for module in model.modules()]
    score = model(image[None].detach().clone().requires_grad_(True))[0, target]
    for handle in handles:
        handle.remove()
    total = 0.0
    for bias, output in outputs:
        (gradients,) = torch.autograd.grad(score, output, retain_graph=True)
        for channel, value in enumerate(bias):
            total += float(value) * float(gradients[0, channel].sum())
    return total


def uniform_fullgrad(model: nn.Module, image: Tensor, target: int) -> Tensor:
    """Return u ⊙ ∇f(u) + (Σ bias contributions / d) · 1, in the units u of the network's input."""
    terms = image * gradient(logit(model, target), image)
    return terms + bias_total(model, image, target) / image.numel()


def uniform_fullgrad_of_pixels(model: nn.Module, mean: Tensor, std: Tensor, image: Tensor, target: int) -> Tensor:
    """Return the same for pixels: the normalization is another layer, with the bias -mean / std. mean, std: (C, 1, 1)."""
    normalized = (image - mean) / std
    slope = gradient(logit(model, target), normalized)
    shift = float((slope * (-mean / std)).sum())
    return image * slope / std + (bias_total(model, normalized, target) + shift) / image.numel()
