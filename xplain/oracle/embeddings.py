"""Embeddings: the input of the last linear layer of a network, and gradients of distances between embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from xplain.core.errors import UsageError
from xplain.models import Classifier
from xplain.oracle.scores import compute_scores

if TYPE_CHECKING:
    from xplain.oracle.oracle import Oracle


class DistanceResult(NamedTuple):
    """Distances (rows,) to the goals, and the gradients (rows, C, H, W) of the squared distance and of the score."""

    distances: Tensor
    distance_gradients: Tensor
    score_gradients: Tensor


def embed(
    oracle: Oracle, x: Tensor, image: Tensor | None = None, *, method: str, check: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the embeddings (rows, d) and logits (rows, classes) of images (rows, C, H, W), without gradients.

    image, check: as in ``Oracle.logits``. Raises UsageError if the network has no linear layer.
    """
    model = oracle.inference_copy(fold=oracle.fold, access="layers")

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), _record_last_input(model) as recorder:
            logits = oracle.forward(model, x)
        oracle.count_rows(**{"checks" if check else "forwards": len(x)})
        return recorder.embedding(method), logits

    if not check:
        oracle.count_image_rows(len(x), image, backwards=0)
    embeddings, logits = oracle.run_in_batches(run, x, kind="forward")
    return embeddings, logits


def differentiate_distance(
    oracle: Oracle, x: Tensor, y: Tensor, goals: Tensor, image: Tensor, *, method: str
) -> DistanceResult:
    """Return the distances between the embeddings of images and goals, and gradients, from one forward and two backward passes.

    x: (rows, C, H, W). y: (rows,) target classes. goals: (rows, d). image: (rows,) the image to which each row belongs.
    Raises UsageError if the network has no linear layer, or if its input does not depend on the image.
    """
    model = oracle.inference_copy(fold=oracle.fold, access="gradients")

    def run(x: Tensor, y: Tensor, goals: Tensor, contrasts: Tensor | None) -> tuple[Tensor, ...]:
        x = x.detach().requires_grad_()
        with torch.enable_grad(), _record_last_input(model) as recorder:
            logits = oracle.forward(model, x)
            scores = compute_scores(logits, y, oracle.score, contrasts, oracle.output)
            squares = (recorder.embedding(method) - goals).square().sum(dim=1)
            if not squares.requires_grad:
                raise UsageError(f"{method}: the embedding does not depend on the image", "use another model")
            (distance_gradients,) = torch.autograd.grad(squares.sum(), x, retain_graph=True)
            (score_gradients,) = torch.autograd.grad(scores.sum(), x)
        oracle.count_rows(forwards=len(x), backwards=2 * len(x))
        return squares.detach().sqrt(), distance_gradients, score_gradients

    oracle.count_image_rows(len(x), image, backwards=2)
    contrasts = None if oracle.against is None else oracle.against[image]
    return DistanceResult(*oracle.run_in_batches(run, x, y, goals, contrasts, kind="gradient"))


@dataclass
class _Recorder:
    """The input of the linear layer that ran last."""

    value: Tensor | None = None

    def embedding(self, method: str) -> Tensor:
        """Return the input (rows, d) in float32 or float64. Raises UsageError if no linear layer ran."""
        if self.value is None:
            raise UsageError(
                f"{method} requires a network with a linear layer, whose input is the embedding", "use another method"
            )
        value = self.value.flatten(1)
        return value if value.dtype == torch.float64 else value.float()


@contextmanager
def _record_last_input(model: Classifier) -> Iterator[_Recorder]:
    """Record the inputs of the linear layers while the block runs."""
    recorder = _Recorder()

    def record(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        recorder.value = inputs[0]

    handles = [module.register_forward_pre_hook(record) for module in model.modules() if isinstance(module, nn.Linear)]
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()
