"""Important direction gradient integration (IDGI): each change of the score along a path, shared by squared gradients."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Direction = Literal["none", "idgi"]


class ScoreChanges:
    """Share the changes of the score along a path of each image: φ = Σ_k (f_{k+1} - f_k) g_k² / Σ_j g_kj².

    x: images (B, C, H, W). The points of an image are added in the order of its path.
    """

    def __init__(self, x: Tensor) -> None:
        self._values, self._shares = torch.zeros_like(x), torch.zeros_like(x)
        self._first, self._last = x.new_zeros(len(x)), x.new_zeros(len(x))
        self._started = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def add(self, images: slice | Tensor, scores: Tensor, gradients: Tensor) -> None:
        """Add the next points of some images.

        scores: (b, k). gradients: (b, k, C, H, W).
        """
        started, last = self._started[images], self._last[images]
        self._first[images] = torch.where(started, self._first[images], scores[:, 0])
        self._share_change(images, torch.where(started, scores[:, 0] - last, 0))
        shares = divide_by_squares(gradients)
        self._values[images] += torch.einsum("bk,bkchw->bchw", scores.diff(dim=1), shares[:, :-1])
        self._shares[images] = shares[:, -1]
        self._last[images], self._started[images] = scores[:, -1], True

    def finish(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the attributions (B, C, H, W) and the changes of the score over the whole paths (B,).

        scores: the scores (B,) at the ends of the paths.
        """
        self._share_change(slice(None), scores - self._last)
        return self._values, scores - self._first

    def _share_change(self, images: slice | Tensor, change: Tensor) -> None:
        """Share the changes (b,) of the score since the last points."""
        self._values[images] += change[:, None, None, None] * self._shares[images]


def divide_by_squares(gradients: Tensor) -> Tensor:
    """Return g² / Σ g² over the last three axes of ``gradients`` (..., C, H, W); zero gradients give zeros.

    The gradients are divided by the largest absolute value first: the squares of small ones would be zero in float32.
    """
    largest = gradients.abs().amax(dim=(-3, -2, -1), keepdim=True)
    squares = (gradients / torch.where(largest > 0, largest, 1)).square()
    total = squares.sum(dim=(-3, -2, -1), keepdim=True)
    return squares / torch.where(total > 0, total, 1)
