"""Oracle: the only component that calls the model. It computes logits, scores and gradients and counts the rows.

A method requests values at a set of points, and the oracle chooses the batch size of each model call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from xplain.core.registry import Access
from xplain.core.types import Cost, Precision, ScoreKind
from xplain.models import Classifier
from xplain.models.arithmetic import float32_precision
from xplain.models.optimize import inference_copy
from xplain.models.outputs import OutputKind
from xplain.oracle.access import check_access, check_precision
from xplain.oracle.batching import Block, PassKind, make_blocks, rows_per_call, run_in_batches
from xplain.oracle.engines import active_engine
from xplain.oracle.layers import LayerResult, probe_layer
from xplain.oracle.scores import ComputedScore, compute_scores
from xplain.oracle.shared_forward import ForwardPass, SharedForward


class GradientResult(NamedTuple):
    """Scores and gradients of a batch.

    scores: (rows,) or (rows, S).
    values: gradients (rows, C, H, W) or (rows, S, C, H, W).
    predicted: top classes (rows,).
    decisions: (rows, classes) bool, whether the model decides for a class; true for values without a threshold.
    """

    scores: Tensor
    values: Tensor
    predicted: Tensor
    decisions: Tensor

    def decides(self, y: Tensor) -> Tensor:
        """Return (rows,) bool: whether the model decides for the class y (rows,) of each row."""
        return self.decisions.gather(1, y[:, None])[:, 0]


class Oracle:
    """Run a classifier for one method or metric, and count the rows.

    score: the scalar that is explained, see ``compute_scores``.
    against: (B, A) contrast classes per image, or None.
    images: the number of images for which ``image_rows`` counts rows; 0 if nobody reads it.
    batch_size: rows per model call; None: a number that depends on the device and the image size only, so that runs
    are reproducible to the byte.
    precision: fp32, tf32 or bf16.
    fold: fold batch norms into convolutions, which is faster and equal up to rounding.
    on_rows: function called with the number of rows after each model call.
    shared: the forward pass of the prediction of the images, or None.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        score: ComputedScore = "logit",
        against: Tensor | None = None,
        images: int = 0,
        batch_size: int | None = None,
        precision: Precision = "fp32",
        fold: bool = True,
        on_rows: Callable[[int], None] | None = None,
        shared: SharedForward | None = None,
    ) -> None:
        check_precision(classifier, precision)
        self.classifier = classifier
        self.score = score
        self.against = against
        self.precision = precision
        self.fold = fold
        self.cost = Cost()
        self.image_rows = torch.zeros(images, 2, dtype=torch.float64, device=classifier.device)  # forwards, backwards
        self._batch_size = batch_size
        self._inference_copies: dict[bool, Classifier] = {}
        self._on_rows = on_rows
        self.shared = shared

    def mean_color(self, x: Tensor) -> Tensor:
        """Return the color (C or 1, 1, 1) that the normalization maps to zero, for images x (..., C, H, W)."""
        return self.classifier.mean_color(x.shape[-3])

    def color_scale(self, x: Tensor) -> Tensor:
        """Return the change of a color (C or 1, 1, 1) that changes the normalized input by 1, for images x (..., C, H, W)."""
        return self.classifier.color_scale(x.shape[-3])

    @property
    def output(self) -> OutputKind:
        """The meaning of the logits."""
        return self.classifier.output

    def decides(self, x: Tensor, y: Tensor, image: Tensor | None = None, *, check: bool = False) -> Tensor:
        """Return (rows,) bool: whether the model decides for the classes y (rows,); arguments as in ``scores``."""
        decisions = _find_decisions(self.output, self.logits(x, image, check=check))
        return decisions.gather(1, y[:, None])[:, 0]

    def logits(self, x: Tensor, image: Tensor | None = None, *, check: bool = False) -> Tensor:
        """Return logits (rows, classes) in float32 or float64, without gradients.

        x: (rows, C, H, W). image: (rows,) as in ``gradients``.
        check: count the rows as checks, which are not part of the method.
        """

        model = self.inference_copy(fold=self.fold)
        engine = active_engine(self.classifier, self.precision, fold=self.fold)

        def run(x: Tensor) -> tuple[Tensor]:
            logits = None if engine is None else engine.logits(x)
            if logits is None:
                with torch.no_grad():
                    logits = self.forward(model, x)
            rows = self.classifier.rows_run(len(x))
            if check:
                self.count_rows(checks=rows)
            else:
                self.count_rows(forwards=rows)
            return (logits,)

        if not check:
            self.count_image_rows(len(x), image, backwards=0)
        return self.run_in_batches(run, x, kind="forward")[0]

    def scores(
        self,
        x: Tensor,
        y: Tensor,
        image: Tensor | None = None,
        *,
        check: bool = False,
        kind: ComputedScore | None = None,
        against: Tensor | None = None,
    ) -> Tensor:
        """Return the scores (rows,) of the target classes, without gradients.

        x: (rows, C, H, W). y: (rows,) target classes. image: (rows,) as in ``gradients``. check: as in ``logits``.
        kind: the kind of score; defaults to that of the oracle.
        against: (rows, A) contrast classes; default: those of the oracle.
        """
        logits = self.logits(x, image, check=check)
        contrasts = self._contrasts_of(image) if against is None else against
        return compute_scores(logits, y, kind or self.score, contrasts, self.output)

    def score_change(self, start: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return the scores (B,) at x minus those at ``start``, both (B, C, H, W). The rows count as checks."""
        image = torch.arange(len(x), device=x.device).repeat(2)
        before, after = self.scores(torch.cat([start, x]), y[image], image, check=True).chunk(2)
        return after - before

    def gradients(self, x: Tensor, y: Tensor, image: Tensor | None = None) -> GradientResult:
        """Return scores and their gradients.

        x: (rows, C, H, W).
        y: (rows,) target classes, or (rows, S) for the scores of S classes per row from one forward pass, without
        contrast classes.
        image: (rows,) the index of the image to which each row belongs; None if the rows are the images.
        """

        model = self.inference_copy(fold=self.fold, access="gradients")
        engine = active_engine(self.classifier, self.precision, fold=self.fold)

        def run(x: Tensor, y: Tensor, contrasts: Tensor | None) -> tuple[Tensor, ...]:
            computed = None if engine is None else engine.gradients(x, y, self.score, contrasts)
            taken = None if computed is not None or self.shared is None else self.shared.take(x, folded=self.fold)
            if computed is not None:
                logits, gradients = computed
                scores = compute_scores(logits, y, self.score, contrasts, self.output)
            else:
                with torch.enable_grad():
                    leaf, logits, _ = self._run_with_graph(model, x) if taken is None else taken
                    scores = compute_scores(logits, y, self.score, contrasts, self.output)
                    gradients = _differentiate(scores, leaf)
            if taken is None:
                self.count_rows(forwards=len(x), backwards=scores.numel())
            else:  # progress does not count predictions
                self.cost = self.cost + Cost(forwards=len(x), backwards=scores.numel())
            logits = logits.detach()
            return scores.detach(), gradients, self.output.top_classes(logits), _find_decisions(self.output, logits)

        backwards = 1 if y.ndim == 1 else y.shape[1]
        contrasts = self._contrasts_of(image) if y.ndim == 1 else None
        self.count_image_rows(len(x), image, backwards)
        return GradientResult(*self.run_in_batches(run, x, y, contrasts, kind="gradient"))

    def predict(self, x: Tensor) -> tuple[Tensor, SharedForward | None]:
        """Return the logits (B, classes) of images, and the forward pass with its graph if it was a single model call.

        The rows count as checks. x: (B, C, H, W).
        """
        model = self.inference_copy(fold=self.fold, access="gradients")
        passes: list[SharedForward] = []

        def run(x: Tensor) -> tuple[Tensor]:
            with torch.enable_grad():
                forward_pass = self._run_with_graph(model, x)
            self.count_rows(checks=len(x))
            passes.append(SharedForward(x, self.fold, forward_pass))
            return (forward_pass.logits.detach(),)

        logits = self.run_in_batches(run, x, kind="gradient")[0]
        return logits, passes[0] if len(passes) == 1 else None

    def blocks(self, x: Tensor, points: int | range, images: Tensor | None = None) -> Iterator[Block]:
        """Return blocks of even sizes, at most ``rows_per_call`` rows each, that cover the points of each image of x.

        points: their number or their indices. images: the indices (N,) of the images to cover; default: all.
        """
        return make_blocks(len(x) if images is None else images, points, self.rows_per_call(x))

    def block_gradients(self, block: Block, points: Tensor, y: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the gradients (b, k, C, H, W) of the score at the points of a block.

        points: (b, k, C, H, W), where block.shape = (b, k). y: (B,) targets of all images. image: (B,) as in ``gradients``.
        """
        return self.block_gradients_and_scores(block, points, y, image)[0]

    def block_gradients_and_scores(
        self, block: Block, points: Tensor, y: Tensor, image: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients (b, k, C, H, W) and the scores (b, k) at the points of a block, see ``block_gradients``."""
        row = block.image_indices(points.device)
        result = self.gradients(points.flatten(0, 1), y[row], row if image is None else image[row])
        return result.values.unflatten(0, block.shape), result.scores.unflatten(0, block.shape)

    def block_scores(
        self,
        block: Block,
        points: Tensor,
        y: Tensor,
        kind: ScoreKind | None = None,
        against: Tensor | None = None,
    ) -> Tensor:
        """Return the scores (b, k) at the points (b, k, C, H, W) of a block, without gradients.

        y: (B,) targets of all images. kind: the kind of score; defaults to that of the oracle.
        against: (B, A) contrast classes of all images; default: those of the oracle.
        """
        row = block.image_indices(points.device)
        contrasts = None if against is None else against[row]
        scores = self.scores(points.flatten(0, 1), y[row], row, kind=kind, against=contrasts)
        return scores.unflatten(0, block.shape)

    def probe(
        self, x: Tensor, y: Tensor, layer: str = "auto", layout: str = "auto", *, differentiate: bool = True
    ) -> LayerResult:
        """Return the activations of a layer and the gradients of the score there, see ``probe_layer``."""
        return probe_layer(self, x, y, layer, layout, differentiate=differentiate)

    def inference_copy(self, *, fold: bool, access: Access = "outputs") -> Classifier:
        """Return the inference copy of the classifier.

        fold: with batch norms folded into convolutions.
        access: what the caller needs of the model. Raises UsageError if the model does not offer it.
        """
        check_access(self.classifier, access, "the method")
        if fold not in self._inference_copies:
            self._inference_copies[fold] = inference_copy(self.classifier, fold=fold)
        return self._inference_copies[fold]

    def forward(self, model: Classifier, x: Tensor) -> Tensor:
        """Return the logits of an inference copy in float32 or float64. Autocast wraps the forward pass only."""
        autocast = torch.autocast(x.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with float32_precision(self.precision, x.device), autocast:
            logits = model(model.to_memory_format(x))
        return logits if logits.dtype == torch.float64 else logits.float()

    def rows_per_call(self, x: Tensor) -> int:
        """Return the number of rows per model call for images shaped like x (..., C, H, W)."""
        return rows_per_call(self.classifier, x, self._batch_size)

    def run_in_batches(
        self, run: Callable[..., tuple[Tensor, ...]], x: Tensor, *others: Tensor | None, kind: PassKind = "other"
    ) -> list[Tensor]:
        """Call ``run`` on batches of rows in the oracle's precision, also its backward passes, and concatenate its outputs.

        See ``batching.run_in_batches``.
        """
        with float32_precision(self.precision, x.device):
            return run_in_batches(run, self.classifier, self._batch_size, x, *others, kind=kind)

    def count_rows(self, forwards: int = 0, backwards: int = 0, checks: int = 0) -> None:
        """Add the rows of a model call to ``cost`` and report them to ``on_rows``."""
        self.cost = self.cost + Cost(forwards, backwards, checks)
        if self._on_rows is not None:
            self._on_rows(forwards + checks)

    def count_image_rows(self, rows: int, image: Tensor | None, backwards: int) -> None:
        """Add rows to ``image_rows``.

        image: (rows,) as in ``gradients``; None: all images have the same number of rows.
        backwards: the number of backward passes per row.
        """
        count = len(self.image_rows)
        if count == 0:
            return
        forwards = rows / count if image is None else _count_rows_of_images(image, count).to(self.image_rows)
        self.image_rows[:, 0] += forwards
        self.image_rows[:, 1] += forwards * backwards

    def _run_with_graph(self, model: Classifier, x: Tensor) -> ForwardPass:
        """Return the rows that entered the model and their logits, with the graph between them."""
        leaf = x.detach().requires_grad_()
        return ForwardPass(leaf, self.forward(model, leaf), {})

    def _contrasts_of(self, image: Tensor | None) -> Tensor | None:
        """Return the contrast classes (rows, A) of the image of each row, or None."""
        if self.against is None or image is None:
            return self.against
        return self.against[image]


def _count_rows_of_images(image: Tensor, count: int) -> Tensor:
    """Return the number of rows (count,) of each image, without waiting for the device as ``bincount`` does.

    image: (rows,) the index of the image of each row.
    """
    return (image == torch.arange(count, device=image.device)[:, None]).sum(dim=1)


def _find_decisions(output: OutputKind, logits: Tensor) -> Tensor:
    """Return (rows, classes) bool: whether the model decides for a class; true for values without a threshold."""
    return output.decisions(logits) if output.has_decisions else torch.ones_like(logits, dtype=torch.bool)


def _differentiate(scores: Tensor, x: Tensor) -> Tensor:
    """Return the gradients (rows, C, H, W) of scores (rows,), or (rows, S, C, H, W) of scores (rows, S)."""
    if scores.ndim == 1:
        return torch.autograd.grad(scores.sum(), x)[0]
    columns = scores.unbind(dim=1)
    last = len(columns) - 1
    gradients = [torch.autograd.grad(column.sum(), x, retain_graph=k < last)[0] for k, column in enumerate(columns)]
    return torch.stack(gradients, dim=1)
