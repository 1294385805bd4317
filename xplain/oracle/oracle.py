"""The oracle: the only caller of the model.

Methods say which points they need; the oracle decides how many go through the model at a time. It alone holds
the model, autograd, autocast, chunk sizes, memory back-off, hooks and the count of rows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xplain.core.errors import DeviceError, UsageError, device_error, did_you_mean, first_line, is_out_of_memory
from xplain.core.types import Cost, Precision, ScoreKind
from xplain.models import Classifier
from xplain.models.layers import Layout, find_last_spatial_layer, find_layout, find_weighted_layers, trace_outputs
from xplain.models.optimize import inference_copy, tf32_flags
from xplain.oracle.answers import AttentionResult, GradientResult, LayerResult, PropagationResult
from xplain.oracle.attention import NaNProbe, Tokens, check_global, find_patches, record_attention, token_groups
from xplain.oracle.blocks import Block, even_slices
from xplain.oracle.propagation import ANY_MODEL, Rules, check_same, rewritten
from xplain.oracle.scores import compute_scores

# rows that fit into memory, by image shape, once more did not
_LIMITS: WeakKeyDictionary[Classifier, dict[tuple[int, ...], int]] = WeakKeyDictionary()
# what was found by watching a forward of a working copy, by image size
_LAYERS: WeakKeyDictionary[Classifier, dict[tuple[int, int], tuple[str, Layout]]] = WeakKeyDictionary()
_TOKENS: WeakKeyDictionary[Classifier, dict[tuple[int, int], Tokens]] = WeakKeyDictionary()
CPU_PIXELS_A_CALL = 13 * 224 * 224  # measured: 8 to 16 rows of 224 x 224 beat more; 13 cut 50 points as evenly as 1000
GPU_PIXELS_A_CALL = 128 * 224 * 224


class Oracle:
    """A prepared classifier, the score that is explained, and the account of what it cost.

    score: the scalar kind. against: (B, A) rival classes of each image, or None.
    images: how many images the rows belong to; their rows are then also counted one by one, in ``spent``.
    batch_size: rows a call, or None for a size that depends on the device and the image only, so that a run
    repeats to the byte.
    fold: put batch norms into convolutions (faster, the same to rounding).
    tick: called with the number of rows after every model call.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        score: ScoreKind = "logit",
        against: Tensor | None = None,
        images: int = 0,
        batch_size: int | None = None,
        precision: Precision = "fp32",
        fold: bool = True,
        tick: Callable[[int], None] | None = None,
    ) -> None:
        self.classifier = classifier
        self.score = score
        self.against = against
        self.precision = precision
        self.fold = fold
        self.cost = Cost()
        self.spent = torch.zeros(images, 2, dtype=torch.float64, device=classifier.device)  # forwards, backwards
        self._batch_size = batch_size
        self._copies: dict[bool, Classifier] = {}
        self._tick = tick or (lambda _: None)

    @property
    def mean(self) -> Tensor:
        """(C, 1, 1) the colour that the normalisation maps to zero."""
        return self.classifier.mean

    def rows(self, x: Tensor) -> int:
        """Rows a call for images shaped like ``x`` (..., C, H, W)."""
        pixels = GPU_PIXELS_A_CALL if x.device.type != "cpu" else CPU_PIXELS_A_CALL
        automatic = min(max(pixels // (x.shape[-1] * x.shape[-2]), 1), 256)
        limits = _LIMITS.get(self.classifier, {})
        return min(self._batch_size or automatic, limits.get(tuple(x.shape[-3:]), sys.maxsize))

    # --------------------------------------------------------- forward, gradient

    def logits(self, x: Tensor, image: Tensor | None = None, *, check: bool = False) -> Tensor:
        """(rows, classes) float32 or better; no gradient.

        image: as in ``gradients``. check: count as a check, not as the method's own work.
        """

        def run(x: Tensor) -> tuple[Tensor]:
            with torch.no_grad():
                out = self._call(self._copy(fold=self.fold), x)
            self._count(checks=len(x)) if check else self._count(forwards=len(x))
            return (out,)

        if not check:
            self._account(len(x), image, backwards=0)
        return self._batched(run, x)[0]

    def scores(
        self,
        x: Tensor,
        y: Tensor,
        image: Tensor | None = None,
        *,
        check: bool = False,
        kind: ScoreKind | None = None,
    ) -> Tensor:
        """(rows,) scores of targets ``y`` (rows,); no gradient. image: as in ``gradients``. kind: instead of ``score``."""
        return compute_scores(self.logits(x, image, check=check), y, kind or self.score, self._contrasts(image))

    def change(self, start: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """(B,) scores at the images x (B, C, H, W) minus those at ``start``, what attributions may have to sum to; checks."""
        image = torch.arange(len(x), device=x.device).repeat(2)
        before, after = self.scores(torch.cat([start, x]), y[image], image, check=True).chunk(2)
        return after - before

    def gradients(self, x: Tensor, y: Tensor, image: Tensor | None = None) -> GradientResult:
        """Scores and their gradients at any number of rows.

        x: (rows, C, H, W). y: (rows,) the explained score of each row, or (rows, S) for the scores of S single
        classes of the same forward. image: (rows,) the image each row belongs to; None when rows are the images.
        """

        def run(x: Tensor, y: Tensor, contrasts: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                logits = self._call(self._copy(fold=self.fold), x)
                scores = compute_scores(logits, y, self.score, contrasts)
                wanted = scores.unbind(dim=1) if y.ndim == 2 else (scores,)
                last = len(wanted) - 1
                found = [torch.autograd.grad(each.sum(), x, retain_graph=k < last)[0] for k, each in enumerate(wanted)]
            self._count(forwards=len(x), backwards=len(x) * len(wanted))
            values = torch.stack(found, dim=1) if y.ndim == 2 else found[0]
            return scores.detach(), values, logits.detach().argmax(dim=1)

        self._account(len(x), image, backwards=1 if y.ndim == 1 else y.shape[1])
        return GradientResult(*self._batched(run, x, y, self._contrasts(image) if y.ndim == 1 else None))

    # ------------------------------------------------------------------- sweeps

    def blocks(self, x: Tensor, count: int) -> Iterator[Block]:
        """Rectangles that cover ``count`` points of each image of ``x``, near ``rows`` rows each, of even sizes."""
        rows, images = self.rows(x), len(x)
        groups, parts = -(-images // max(rows // count, 1)), -(-count // rows)
        for some in even_slices(images, groups):
            yield from (Block(some, points) for points in even_slices(count, parts))

    def block_gradients(self, block: Block, points: Tensor, y: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the gradients (b, k, C, H, W) of the score at the points of a block.

        points: (b, k, C, H, W), where block.shape = (b, k). y: (B,) targets of all images. image: (B,) as in ``gradients``.
        """
        row = self._block_rows(block, points.device)
        result = self.gradients(points.flatten(0, 1), y[row], row if image is None else image[row])
        return result.values.unflatten(0, block.shape)

    def block_scores(self, block: Block, points: Tensor, y: Tensor, kind: ScoreKind | None = None) -> Tensor:
        """Return the scores (b, k) at the points (b, k, C, H, W) of a block; no gradient. kind: instead of ``score``."""
        row = self._block_rows(block, points.device)
        return self.scores(points.flatten(0, 1), y[row], row, kind=kind).unflatten(0, block.shape)

    def sweep(
        self, x: Tensor, y: Tensor, count: int, points: Callable[[Block], Tensor], image: Tensor | None = None
    ) -> Iterator[tuple[Block, Tensor, Tensor]]:
        """Stream ``count`` points an image through the model; they are made on demand, a block at a time.

        x: (B, C, H, W), y: (B,). points: Block -> (b, k, C, H, W). image: (B,) as in ``gradients``.
        Yields (block, scores (b, k), gradients (b, k, C, H, W)).
        """
        for block in self.blocks(x, count):
            row = self._block_rows(block, x.device)
            found = self.gradients(points(block).flatten(0, 1), y[row], row if image is None else image[row])
            yield block, found.scores.unflatten(0, block.shape), found.values.unflatten(0, block.shape)

    def scan(
        self, x: Tensor, y: Tensor, count: int, points: Callable[[Block], Tensor], kind: ScoreKind | None = None
    ) -> Iterator[tuple[Block, Tensor]]:
        """As ``sweep`` without gradients: yields (block, scores (b, k)). kind: of score, instead of ``score``."""
        for block in self.blocks(x, count):
            image = self._block_rows(block, x.device)
            scores = self.scores(points(block).flatten(0, 1), y[image], image, kind=kind)
            yield block, scores.unflatten(0, block.shape)

    @staticmethod
    def _block_rows(block: Block, device: torch.device) -> Tensor:
        images = torch.arange(block.images.start, block.images.stop, device=device)
        return images.repeat_interleave(block.shape[1])

    # -------------------------------------------------------------------- probe

    def probe(self, x: Tensor, y: Tensor, layer: str = "auto", *, differentiate: bool = True) -> LayerResult:
        """Activations of a layer and the score's gradients there.

        layer: a module's name, or ``auto``: the last module in execution whose output is a map of the image (see
        ``find_last_spatial_layer``). A module that runs several times is read at its last run. Tokens and channels-last outputs
        are turned into maps; class and register tokens are left out.
        differentiate: without it there is no backward, and the gradients have no channels. Raises UsageError.
        """
        model = self._copy(fold=False)
        name, layout = self._find_layer(model, x, layer)
        held: list[Tensor] = []

        def hold(_: nn.Module, __: object, output: Tensor) -> Tensor:
            held[:] = [output]
            return output.clone()  # what follows may write into it

        def run(x: Tensor, y: Tensor, contrasts: Tensor | None) -> tuple[Tensor, Tensor]:
            with torch.set_grad_enabled(differentiate):
                logits = self._call(model, x.detach().requires_grad_(differentiate))
                gradient: Tensor | None = held[0]
                if differentiate:
                    score = compute_scores(logits, y, self.score, contrasts).sum()
                    (gradient,) = torch.autograd.grad(score, held[0], allow_unused=True)
            if gradient is None:
                raise UsageError(f"the score does not depend on layer {name!r}", "name another layer")
            self._count(forwards=len(x), backwards=len(x) if differentiate else 0)
            slopes = layout.to_map(gradient)
            return layout.to_map(held[0].detach()), slopes if differentiate else slopes[:, :0]

        self._account(len(x), None, backwards=int(differentiate))
        handle = model.model.get_submodule(name).register_forward_hook(hold)
        try:
            activations, gradients = self._batched(run, x, y, self._contrasts(None))
            return LayerResult(activations, gradients, name)
        finally:
            handle.remove()

    def _find_layer(self, model: Classifier, x: Tensor, name: str) -> tuple[str, Layout]:
        """The named layer, or with ``auto`` the last spatial one, and how its output is laid out; found once a model."""
        size = (x.shape[-2], x.shape[-1])

        def run(rows: int) -> Tensor:
            self._count(checks=rows)
            with torch.no_grad():
                return self._call(model, x[:1].expand(rows, -1, -1, -1))

        if name == "auto":
            known = _LAYERS.setdefault(model, {})
            if size not in known:
                known[size] = find_last_spatial_layer(model.model, run, size)
            return known[size]
        modules = [each for each, _ in model.model.named_modules() if each]
        if name not in modules:
            raise UsageError(f"the model has no layer {name!r}", did_you_mean(name, modules, "name one of its modules"))
        layout = find_layout(model.model, run, size, name)
        if layout is None:
            raise UsageError(f"layer {name!r} has no output with height and width", "name another layer")
        return name, layout

    # ---------------------------------------------------------------- attention

    def attention(
        self, x: Tensor, y: Tensor, method: str, join: Callable[[Tensor, Tensor | None], Tensor], *, differentiate: bool
    ) -> AttentionResult:
        """What ``join`` makes of each attention's weights (B, heads, N, N) and of the score's gradients there: (B, N, N).

        The attention is written out (see ``attention.py``). differentiate: without it there is no backward, and ``join`` gets
        no gradients. Raises UsageError, naming ``method``, unless all attention runs over the same tokens of a grid of
        patches, and when the logits are not the model's own.
        """
        model = self._copy(fold=self.fold)
        tokens = self._find_tokens(model, x[:1], method)

        def run(x: Tensor, y: Tensor, contrasts: Tensor | None) -> tuple[Tensor, ...]:
            with torch.set_grad_enabled(differentiate), record_attention(model.model) as sites:
                logits = self._call(model, x.detach().requires_grad_(differentiate))
                check_global(method, sites, len(x))
                weights = [site.weights for site in sites]
                slopes: Sequence[Tensor | None] = [None] * len(weights)
                if differentiate:
                    score = compute_scores(logits, y, self.score, contrasts).sum()
                    slopes = torch.autograd.grad(score, weights, materialize_grads=True)
            self._count(forwards=len(x), backwards=len(x) if differentiate else 0)
            with torch.no_grad():
                return tuple(join(each, slope) for each, slope in zip(weights, slopes, strict=True))

        self._account(len(x), None, backwards=int(differentiate))
        return AttentionResult(self._batched(run, x, y, self._contrasts(None)), tokens)

    @torch.no_grad()
    def _find_tokens(self, model: Classifier, x: Tensor, method: str) -> Tokens:
        """Among the tokens of one image the grid of patches, and those that the logits are read from; found once a model."""
        size = (x.shape[-2], x.shape[-1])
        known = _TOKENS.setdefault(model, {})
        if size not in known:
            expected = self._call(model, x)
            with record_attention(model.model) as sites:
                logits, seen = trace_outputs(model.model, lambda _: self._call(model, x), size)
            check_same(method, logits, expected, loose=self.precision != "fp32")
            layout = find_patches(method, check_global(method, sites, 1), [each.layout for each in seen])
            groups = token_groups(layout).to(x.device)
            with record_attention(model.model, NaNProbe(len(sites) - 1, groups)):
                used = self._call(model, x.expand(len(groups), -1, -1, -1)).isnan().any(dim=1)
            known[size] = Tokens(layout, groups[used].any(dim=0))
            self._count(checks=2 + len(groups))
        return known[size]

    def layers(self, x: Tensor) -> list[tuple[str, ...]]:
        """The layers with weights in the order of execution, each the names of its modules (see ``find_weighted_layers``)."""
        model = self._copy(fold=False)
        self._count(checks=1)
        return find_weighted_layers(model.model, lambda: self._call(model, x[:1]))

    # ---------------------------------------------------------------- propagate

    def propagate(self, x: Tensor, y: Tensor, rules: Rules, *streams: Tensor) -> PropagationResult:
        """The score's gradient, every operation of the model replaced by its rule (see ``rules.py``).

        streams: images (B, C, H, W) that go through the model together with x, such as baselines.
        Raises UsageError where an operation or the score has no rule, and when the logits are not the model's own.
        """
        rules.admit(self.score)
        model = self._copy(fold=self.fold)
        names: list[str] = []

        def run(x: Tensor, y: Tensor, contrasts: Tensor | None, *streams: Tensor) -> tuple[Tensor, ...]:
            rows = torch.cat([x, *streams]).detach().requires_grad_()
            with torch.enable_grad(), rewritten(model, rules, rows) as mode:
                try:
                    logits = self._call(model, rows)
                except RuntimeError as error:
                    if not streams or device_error(error):
                        raise
                    # streams end at the first layer; the model counted on their rows
                    why = f"{rules.method} cannot follow the model's forward: {first_line(error)}"
                    raise UsageError(why, ANY_MODEL) from None
                mode.check(logits)
            with torch.no_grad():
                check_same(rules.method, logits[:1], self._call(model, x[:1]), loose=self.precision != "fp32")
            with torch.enable_grad():
                scores = compute_scores(rules.seed(logits[: len(x)]), y, self.score, contrasts)
                (gradient,) = torch.autograd.grad(scores.sum(), rows)
            self._count(forwards=len(logits), backwards=len(logits), checks=1)
            self._account(len(logits), None, backwards=1)
            names[:] = mode.sums
            return scores.detach(), gradient.unflatten(0, (-1, len(x))).transpose(0, 1), *mode.sums.values()

        scores, gradients, *sums = self._batched(run, x, y, self._contrasts(None), *streams)
        return PropagationResult(scores, gradients, dict(zip(names, sums, strict=True)))

    # ----------------------------------------------------------------- one call

    def _copy(self, *, fold: bool) -> Classifier:
        """The classifier's working copy, looked up once."""
        if fold not in self._copies:
            self._copies[fold] = inference_copy(self.classifier, fold=fold)
        return self._copies[fold]

    def _call(self, model: Classifier, x: Tensor) -> Tensor:
        """Logits in float32 or better; autocast, where asked for, wraps the forward only."""
        autocast = torch.autocast(x.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with tf32_flags(self.precision, x.device), autocast:
            logits = model(model.to_memory_format(x))
        return logits if logits.dtype == torch.float64 else logits.float()

    def _batched(self, run: Callable[..., tuple[Tensor, ...]], x: Tensor, *others: Tensor | None) -> list[Tensor]:
        """``run`` over even chunks of rows, its outputs concatenated; the chunk is halved when memory runs out."""
        parts: list[tuple[Tensor, ...]] = []
        start = 0
        while start < len(x):
            left = len(x) - start
            size = -(-left // -(-left // self.rows(x)))
            some = slice(start, start + size)
            try:
                part = run(x[some], *(None if each is None else each[some] for each in others))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                part = None
            if part is None:  # outside the except block, whose traceback holds on to the tensors
                self._shrink(size, x)
                continue
            parts.append(part)
            start += size
        return [torch.cat(column) if len(column) > 1 else column[0] for column in zip(*parts, strict=True)]

    def _shrink(self, size: int, x: Tensor) -> None:
        if x.device.type == "cuda":
            torch.cuda.empty_cache()
        if size == 1:
            side = f"{x.shape[-2]}x{x.shape[-1]}"
            raise DeviceError(
                f"out of memory on {x.device} with one row of {side}", "use a smaller model or another --device"
            )
        _LIMITS.setdefault(self.classifier, {})[tuple(x.shape[-3:])] = size // 2

    def _contrasts(self, image: Tensor | None) -> Tensor | None:
        return self.against if self.against is None or image is None else self.against[image]

    def _account(self, rows: int, image: Tensor | None, backwards: int) -> None:
        """Book rows on their images; rows of unknown images are shared evenly."""
        count = len(self.spent)
        if count:
            shares = torch.full((count,), rows / count, dtype=self.spent.dtype)
            own = shares if image is None else torch.bincount(image, minlength=count)
            self.spent += own.to(self.spent)[:, None] * torch.tensor([1, backwards]).to(self.spent)

    def _count(self, forwards: int = 0, backwards: int = 0, checks: int = 0) -> None:
        self.cost = self.cost + Cost(forwards, backwards, checks)
        self._tick(forwards + checks)
