"""ISA, one image at a time, in the order of the authors' program."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.reference.gradients import Scalar


def isa(
    f: Scalar, image: Tensor, noises: dict[str, list[list[Tensor]]], *, block: int, step_size: float, penalty: float,
    factor: float,
) -> Tensor:  # fmt: skip
    """Run ISA on one image. f: the log-probability. noises: for ``ascent`` and ``descent``, one list of noise images per round."""
    mask, importance = torch.ones_like(image), torch.full_like(image, torch.nan)
    count, removed = image.numel(), 0
    for number in range(-(-count // block)):
        up, gain_up = _total(f, image * mask, None, noises["ascent"][number], step_size, penalty, "add")
        down, gain_down = _total(f, image * mask, mask, noises["descent"][number], step_size, penalty, "minus")
        total = up / gain_up + down / gain_down
        combine = ((total + total.min()) * image).abs()
        ranked = sorted(
            (float(value), index)
            for index, (value, left) in enumerate(zip(combine.flatten(), mask.flatten(), strict=True))
            if left
        )
        chosen = ranked[:block]
        low, high = chosen[0][0], chosen[-1][0]
        for value, index in chosen:
            importance.view(-1)[index] = number + (value - low) / (high - low + 1e-6) * factor
            mask.view(-1)[index] = 0
        removed += len(chosen)
    assert removed == count
    return importance


def _total(
    f: Scalar, x: Tensor, mask: Tensor | None, noises: list[Tensor], step_size: float, penalty: float, op: str
) -> tuple[Tensor, float]:
    """Return Σ α |g| of one walk and the change of its loss."""
    losses, total = [], torch.zeros_like(x)
    for noise in noises:
        leaf = x.detach().clone().requires_grad_()
        norm = leaf.square().sum().sqrt()
        loss = -f(leaf + noise) + (-penalty if op == "add" else penalty) * norm
        (gradient,) = torch.autograd.grad(loss, leaf)
        if mask is not None:
            gradient = gradient * mask
        x = x + (step_size if op == "add" else -step_size) * gradient.sign()
        total = total + step_size * gradient.sign() * gradient
        losses.append(float(loss.detach()))
    return total, losses[-1] - losses[0] if op == "add" else losses[0] - losses[-1]
