"""Scores of a model in which single channels of a layer are set to zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from xplain.core.errors import MODEL_ERRORS, is_out_of_memory
from xplain.models import Classifier
from xplain.oracle.layers import LayerResult
from xplain.oracle.scores import compute_scores

if TYPE_CHECKING:
    from xplain.oracle.oracle import Oracle

EXACT = 1e-8  # largest difference of two correct runs in float64, relative to the largest logit
CLOSE = 1e-3  # in float32
LOOSE = 5e-2  # in reduced precision


def score_without_channels(oracle: Oracle, x: Tensor, y: Tensor, probe: LayerResult) -> Tensor:
    """Return the scores (B, K) of the images when one channel of a layer's map is zero at all positions.

    x: (B, C, H, W) images. y: (B,) target classes. probe: the layer, of the same images.
    The layers before run once per image and model call, and the others once per channel. If the model does not allow that, because it
    relies on the number of images or combines later values with earlier ones, all layers run once per channel. Each channel counts as a
    forward row either way.
    """
    model = oracle.inference_copy(fold=False, access="layers")
    ablation = _ChannelAblation(oracle, model, probe)
    channels = probe.activations.shape[1]
    scores = x.new_zeros(len(x), channels)

    def run(x: Tensor, y: Tensor, image: Tensor, channel: Tensor, contrasts: Tensor | None) -> tuple[Tensor]:
        logits = ablation.logits(x, image, channel)
        oracle.count_rows(forwards=len(x))
        return (compute_scores(logits, y, oracle.score, contrasts, oracle.output),)

    for block in oracle.blocks(x, channels):
        image = block.image_indices(x.device)
        channel = block.point_indices(x.device).repeat(block.shape[0])
        contrasts = None if oracle.against is None else oracle.against[image]
        oracle.count_image_rows(len(image), image, backwards=0)
        (values,) = oracle.run_in_batches(run, x[image], y[image], image, channel, contrasts)
        scores[block.images, block.points] = values.unflatten(0, block.shape).to(scores.dtype)
    return scores


class _ChannelAblation:
    """Runs a model with one channel of a layer set to zero in each row."""

    def __init__(self, oracle: Oracle, model: Classifier, probe: LayerResult) -> None:
        self.oracle, self.model, self.probe = oracle, model, probe
        self.starts_at_layer = True
        self.is_verified = False

    def logits(self, x: Tensor, image: Tensor, channel: Tensor) -> Tensor:
        """Return the logits (rows, classes) of images x (rows, C, H, W), each without one channel.

        image: (rows,) the index of the image that a row shows; rows of the same image are consecutive. channel: (rows,).
        """
        if self.starts_at_layer:
            _, source, counts = image.unique_consecutive(return_inverse=True, return_counts=True)
            if len(counts) < len(x):
                logits = self._try_shared(x, source, counts.cumsum(0) - counts, channel)
                if logits is not None:
                    return logits
                self.starts_at_layer = False
        return self._forward(x, torch.arange(len(x), device=x.device), channel)

    def _try_shared(self, x: Tensor, source: Tensor, first: Tensor, channel: Tensor) -> Tensor | None:
        """Return the logits from one row per image before the layer, or None if the model does not allow that.

        source: (rows,) the position of each row's image among the images. first: the first row of each image.
        """
        try:
            logits = self._forward(x[first], source, channel)
        except MODEL_ERRORS as error:
            if is_out_of_memory(error):
                raise
            return None
        if len(logits) != len(x):
            self.oracle.count_rows(checks=len(logits))
            return None
        if not self.is_verified:
            self.is_verified = True
            expected = self._forward(x[-1:], torch.zeros_like(source[:1]), channel[-1:])
            self.oracle.count_rows(checks=1)
            if not self._agrees(logits[-1:], expected):
                self.oracle.count_rows(checks=len(logits))
                return None
        return logits

    def _agrees(self, actual: Tensor, expected: Tensor) -> bool:
        """Return whether two runs have the same logits, up to rounding."""
        tolerance = EXACT if expected.dtype == torch.float64 else CLOSE
        if self.oracle.precision != "fp32":
            tolerance = LOOSE
        return bool((actual - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1.0))

    def _forward(self, x: Tensor, source: Tensor, channel: Tensor) -> Tensor:
        """Return the logits (rows, classes) of rows whose values before the layer are those of the images x at ``source`` (rows,)."""
        row = torch.arange(len(source), device=x.device)

        def remove_channel(output: Tensor) -> Tensor:
            copies = output[source]
            self.probe.layout.to_map(copies)[row, channel] = 0
            return copies

        module = self.model.model.get_submodule(self.probe.layer)
        with torch.no_grad(), _change_last_output(module, self.probe.runs, remove_channel):
            return self.oracle.forward(self.model, x)


@contextmanager
def _change_last_output(module: nn.Module, runs: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the output of the last of ``runs`` runs of a module in this context."""
    remaining = runs

    def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
        nonlocal remaining
        remaining -= 1
        return output if remaining else change(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
