"""Methods with a planted fault, for metrics that run the method again: ignored weights, or noise with draws, images or rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.core.registry import MetricSpec
from xplain.core.rng import seed_of
from xplain.metrics.inputs import SAME_SETTINGS, Repeat
from xplain.models import Classifier

Fault = Literal["weights", "draws", "noise", "rounding"]
FLOOR = 0.05  # height of a smooth map that is added, so that no map is zero in most pixels
# The fault that each metric is made for.
FAULTS: dict[str, Fault] = {
    "parameter-randomisation": "weights",
    "smprt": "weights",
    "emprt": "weights",
    "stability-draws": "draws",
    "max-sensitivity": "noise",
    "ris": "noise",
    "ros": "noise",
    "stability-noise": "noise",
    "stability-rounding": "rounding",
}


def find_fault(spec: MetricSpec) -> Fault | None:
    """Return the fault that a metric is made for, or None if it is not known to find one."""
    return FAULTS.get(spec.name)


@dataclass(frozen=True, eq=False)
class FaultyMethod:
    """A method that mixes a map of the network with a fault; ``Explain`` of metrics.

    Without fault it returns the magnitudes of gradient times input, plus a low Gaussian at the center.
    share: of the fault, from 0 to 1. ``weights`` is the Sobel magnitude of the image; the others are noise that is drawn again for each
    set of draws, for each image, or for each arithmetic.
    """

    classifier: Classifier
    fault: Fault
    share: float

    def __call__(
        self,
        images: Tensor,
        y: Tensor,
        classifier: Classifier | None = None,
        image: Tensor | None = None,
        repeat: Repeat = SAME_SETTINGS,
    ) -> Tensor:
        """Return maps (N, 1, H, W)."""
        network = classifier or self.classifier
        maps = _scale(_gradient_times_input(network, images, y)) + FLOOR * _center(images)
        if not self.share:
            return maps
        faults = torch.cat([self._make_fault(row, network, repeat) for row in images.split(1)])
        return (1 - self.share) * maps + self.share * faults.to(maps)

    def _make_fault(self, image: Tensor, network: Classifier, repeat: Repeat) -> Tensor:
        """Return the map of the fault (1, 1, H, W), with a maximum of 1."""
        if self.fault == "weights":
            return _scale(_edges(image))
        causes = {
            "draws": repeat.draw,
            "noise": image.double().sum().item() if self.fault == "noise" else None,
            "rounding": (repeat.precision, repeat.plain, str(network.dtype)),
        }
        generator = torch.Generator().manual_seed(seed_of("known fault", self.fault, causes[self.fault]))
        return torch.rand((1, 1, *image.shape[2:]), generator=generator, dtype=torch.float64).to(image)


def _gradient_times_input(network: Classifier, images: Tensor, y: Tensor) -> Tensor:
    """Return |Σ_c x ∂z/∂x| (N, 1, H, W) of the logits of the classes y (N,)."""
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        logits = network(x).gather(1, y[:, None]).sum()
        (gradient,) = torch.autograd.grad(logits, x)
    return (gradient * images).sum(dim=1, keepdim=True).abs().detach()


def _edges(image: Tensor) -> Tensor:
    """Return the Sobel magnitude (1, 1, H, W) of an image."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=image.dtype, device=image.device)
    gray = F.pad(image.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(gray, torch.stack([kernel, kernel.T])[:, None]).norm(dim=1, keepdim=True)


def _center(images: Tensor) -> Tensor:
    """Return a Gaussian (1, 1, H, W) at the center."""
    side = images.shape[-1]
    axis = torch.linspace(-1, 1, side, dtype=images.dtype, device=images.device)
    return torch.exp(-2 * (axis[:, None] ** 2 + axis**2))[None, None]


def _scale(maps: Tensor) -> Tensor:
    """Return maps divided by their maximum, unless it is 0."""
    largest = maps.amax(dim=(1, 2, 3), keepdim=True)
    return maps / torch.where(largest > 0, largest, 1)
