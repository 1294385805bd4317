"""Run a method again with other draws, in other arithmetic or on noisy images, and compare the maps with the reported ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from xplain.core.errors import MODEL_ERRORS, device_error
from xplain.core.rng import Streams
from xplain.core.stability import SHARE, SIGNED_SUM, Look, SourceStability
from xplain.data.jpeg import compress_as_jpeg
from xplain.metrics._ranking import ranks
from xplain.metrics._similarity import spearman
from xplain.metrics.inputs import Explain, MetricInput, Repeat
from xplain.models.optimize import channels_first_copy, double_copy
from xplain.models.outputs import OutputKind

MAX_CHANGE = 0.05  # of the target's probability, beyond which a noisy image does not count
JPEG_QUALITY = 90
NOT_FINITE = "the map or a repeat is not finite"
ZERO, CONSTANT = "the map is zero", "the map is constant"
CONSTANT_REPEAT = "the map of a repeat is constant"
FEW_PIXELS = "fewer than a tenth of the pixels are marked"
LOST = "too few noisy images keep the prediction"


def repeat_draws(inputs: MetricInput, explain: Explain, count: int, look: Look = SIGNED_SUM) -> SourceStability:
    """Compare the maps with those of ``count`` other seeds.

    The first repeat runs for all images, the others only for those whose map it changed; a map that it did not change has no draws.
    """
    reported = inputs.attributions
    first = explain(inputs.images, inputs.y, repeat=Repeat(draw=0)).to(reported)
    is_same = _equal_maps(first, reported)
    changed = (~is_same).nonzero()[:, 0]
    maps = [first]
    for draw in range(1, count):
        repeated = reported.clone()
        if len(changed):
            repeated[changed] = explain(
                inputs.images[changed], inputs.y[changed], image=changed, repeat=Repeat(draw=draw)
            ).to(reported)
        maps.append(repeated)
    return compare_repeats(reported, maps, look=look)


def without_draws(reported: Tensor, count: int, look: Look = SIGNED_SUM) -> SourceStability:
    """Return the result of ``repeat_draws`` for attributions (B, C, H, W) of a method that draws no random numbers."""
    return replace(compare_repeats(reported, [reported] * count, look=look), votes=None)


def repeat_rounding(
    inputs: MetricInput, explain: Explain, *, precise: bool = True, look: Look = SIGNED_SUM
) -> SourceStability:
    """Compare the maps with those in float64, and in float32 with one row per model call and batch norms that are not folded.

    On CUDA, the latter also have the channels first in memory if those of the reported maps are last.
    precise: run in float64; for tf32 and bf16, in fp32. It is left out where the device or the model has no float64.
    """
    maps, names = [], []
    if precise:
        exact = _run_precisely(inputs, explain)
        if exact is not None:
            name, values = exact
            names.append(name)
            maps.append(values)
    channels_first = channels_first_copy(inputs.oracle.classifier) if inputs.images.device.type == "cuda" else None
    names.append("one row per call" if channels_first is None else "one row per call, channels first")
    maps.append(explain(inputs.images, inputs.y, classifier=channels_first, repeat=Repeat(plain=True)))
    return compare_repeats(inputs.attributions, maps, facts={"arithmetic": names}, look=look)


def _run_precisely(inputs: MetricInput, explain: Explain) -> tuple[str, Tensor] | None:
    """Return the maps in a higher precision and its name, or None if there is none."""
    oracle = inputs.oracle
    if oracle.precision != "fp32":
        return "fp32", explain(inputs.images, inputs.y, repeat=Repeat(precision="fp32"))
    try:
        double = double_copy(oracle.classifier)
        if double is None:
            return None
        return "float64", explain(inputs.images.double(), inputs.y, classifier=double)
    except MODEL_ERRORS as error:  # a model may create tensors of another type
        if device_error(error):
            raise
        return None


def repeat_noise(
    inputs: MetricInput,
    explain: Explain,
    rng: Streams,
    *,
    radius: float,
    count: int,
    logits: Tensor | None = None,
    look: Look = SIGNED_SUM,
) -> SourceStability:
    """Compare the maps with those of ``count`` noisy images clip(x + U(-radius, radius)), with the class and the draws held.

    A noisy image counts if the model decides as for the clean one and the target's probability changes by at most MAX_CHANGE. Values
    without a threshold have no decision, so that every noisy image counts.
    logits: (B, classes) of the images, or None to compute them.
    """
    x = inputs.images
    samples = torch.arange(count, device=x.device)
    noise = (2 * rng.uniform(samples, tuple(x.shape[1:]), x.dtype) - 1) * radius
    noisy = (x[:, None] + noise).clamp(0, 1).flatten(0, 1)
    facts: dict[str, object] = {"radius": round(radius, 5)}
    return _repeat_on_images(inputs, explain, noisy, count, facts=facts, logits=logits, look=look)


def repeat_compressed(inputs: MetricInput, explain: Explain) -> SourceStability:
    """Compare the maps with those of the images after JPEG compression, with the class and the draws held, as ``repeat_noise``."""
    compressed = compress_as_jpeg(inputs.images, JPEG_QUALITY)
    facts: dict[str, object] = {"jpeg_quality": JPEG_QUALITY}
    return _repeat_on_images(inputs, explain, compressed, 1, facts=facts)


def _repeat_on_images(
    inputs: MetricInput,
    explain: Explain,
    changed: Tensor,
    count: int,
    *,
    facts: dict[str, object],
    logits: Tensor | None = None,
    look: Look = SIGNED_SUM,
) -> SourceStability:
    """Compare the maps of images (B, C, H, W) with those of changed ones (B * count, C, H, W) that keep the prediction."""
    x, y, oracle = inputs.images, inputs.y, inputs.oracle
    image = torch.arange(len(x), device=x.device).repeat_interleave(count)
    clean_logits = oracle.logits(x) if logits is None else logits
    kept = _keep_prediction(oracle.output, clean_logits[image], oracle.logits(changed), y[image])
    row = kept.nonzero()[:, 0]
    repeated = inputs.attributions[image].clone()
    if len(row):
        repeated[row] = explain(changed[row], y[image[row]], image=image[row]).to(repeated)
    maps = repeated.unflatten(0, (len(x), count)).unbind(dim=1)
    return compare_repeats(inputs.attributions, maps, kept.unflatten(0, (len(x), count)), facts, look)


def _keep_prediction(output: OutputKind, clean: Tensor, noisy: Tensor, y: Tensor) -> Tensor:
    """Return (rows,) bool: whether noisy logits (rows, classes) mean the same decision and nearly the same probability."""
    if not output.has_decisions:
        return torch.ones(len(y), dtype=torch.bool, device=y.device)
    if output.activation in ("softmax", "binary"):
        is_same = output.top_classes(clean) == output.top_classes(noisy)
    else:
        is_same = (output.decisions(clean) == output.decisions(noisy)).gather(1, y[:, None])[:, 0]
    if not output.has_probabilities:
        return is_same
    change = output.probabilities(noisy.double()) - output.probabilities(clean.double())
    return is_same & (change.gather(1, y[:, None])[:, 0].abs() <= MAX_CHANGE)


def compare_repeats(
    reported: Tensor,
    maps: Sequence[Tensor],
    kept: Tensor | None = None,
    facts: dict[str, object] | None = None,
    look: Look = SIGNED_SUM,
) -> SourceStability:
    """Compare reported attributions (B, C, H, W) with K repeats of them, all reduced to one value per pixel by ``look``.

    kept: (B, K) bool, whether a repeat counts; None: all. An image needs two repeats that count, or one if K = 1.
    """
    count = len(maps)
    if kept is None:
        kept = torch.ones(len(reported), count, dtype=torch.bool, device=reported.device)
    own = look.apply(reported)
    sums = [look.apply(repeated) for repeated in maps]
    undefined = _find_undefined(own, torch.stack([values.to(own) for values in sums], dim=1), kept)
    no_correlation = torch.stack([mask for reason, mask in undefined.items() if reason != FEW_PIXELS]).any(dim=0)
    no_overlap = no_correlation | undefined[FEW_PIXELS]
    is_highest = find_highest(own)
    highest = torch.stack([find_highest(values) for values in sums], dim=1)
    shared = (is_highest[:, None] & highest).flatten(2).sum(dim=2)
    overlaps = (shared / _top_count(own.flatten(1))).double()
    correlations = torch.stack([spearman(own, values) for values in sums], dim=1)
    is_same = torch.stack([_equal_maps(repeated.to(reported), reported) for repeated in maps], dim=1)
    flat = own.flatten(1)
    lowest = flat.sort(dim=1, descending=True).values[:, _top_count(flat) - 1]
    return SourceStability(
        overlaps=overlaps.masked_fill(~kept | no_overlap[:, None], torch.nan),
        correlations=correlations.masked_fill(~kept | no_correlation[:, None], torch.nan),
        kept=kept,
        constant=(is_same | ~kept).all(dim=1) & kept.any(dim=1),
        ties=(flat == lowest[:, None]).sum(dim=1),
        repeats=count,
        undefined=undefined,
        facts=facts or {},
        votes=(highest & kept[:, :, None, None]).sum(dim=1, dtype=torch.int32),
    )


def find_highest(values: Tensor) -> Tensor:
    """Return (B, H, W) bool: the highest tenth of the pixels of maps (B, H, W). Ties keep raster order."""
    flat = values.flatten(1)
    return (ranks(flat) < _top_count(flat)).view_as(values)


def _find_undefined(own: Tensor, sums: Tensor, kept: Tensor) -> dict[str, Tensor]:
    """Return a mask (B,) for each reason without an overlap. own: (B, H, W). sums: (B, K, H, W) of the repeats. kept: (B, K)."""
    flat, repeats = own.flatten(1), sums.flatten(2)
    finite = flat.isfinite().all(dim=1) & (repeats.isfinite().all(dim=2) | ~kept).all(dim=1)
    is_constant = flat.amax(dim=1) == flat.amin(dim=1)
    is_zero = (flat == 0).all(dim=1)
    constant_repeat = ((repeats.amax(dim=2) == repeats.amin(dim=2)) & kept).any(dim=1)
    count = _top_count(flat)
    few = (flat != 0).sum(dim=1) < count
    few_in_repeat = (((repeats != 0).sum(dim=2) < count) & kept).any(dim=1)
    lost = kept.sum(dim=1) < min(kept.shape[1], 2)
    usable = finite & ~is_constant
    return {
        NOT_FINITE: ~finite,
        ZERO: finite & is_zero,
        CONSTANT: finite & is_constant & ~is_zero,
        LOST: usable & lost,
        CONSTANT_REPEAT: usable & ~lost & constant_repeat,
        FEW_PIXELS: usable & ~lost & ~constant_repeat & (few | few_in_repeat),
    }


def _top_count(flat: Tensor) -> int:
    """Return the number of pixels in the highest tenth of maps (B, N)."""
    return max(round(SHARE * flat.shape[1]), 1)


def _equal_maps(a: Tensor, b: Tensor) -> Tensor:
    """Return (B,) bool: whether attributions (B, C, H, W) are equal bit for bit."""
    return (a == b).flatten(1).all(dim=1)
