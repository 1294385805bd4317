"""IG2: gradients along the path on which the representation of the image approaches that of other images."""

from typing import NamedTuple

import torch
from torch import Tensor

from xplain.core.errors import InputError
from xplain.core.papers import Paper
from xplain.core.parameters import Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.methods._paths import normalize_l2, project
from xplain.methods._references import check_shape
from xplain.oracle import Oracle
from xplain.oracle.embeddings import differentiate_distance, embed


class Pairs(NamedTuple):
    """Pairs of an image and a reference. image: (P,) the image of each pair. goals: (P, d) the embeddings of the references."""

    image: Tensor
    goals: Tensor


@method(
    "ig2",
    parameter_aliases={"baseline": "baselines"},
    paper=Paper(
        "IG2: Integrated gradient on iterative gradient path for feature attribution",
        "Yue Zhuo, Zhiqiang Ge",
        2024,
        "IEEE TPAMI",
        "2406.10852",
        journal=True,
    ),
    axioms=frozenset({"dummy"}),
    undecided={"sensitivity-a": "no single baseline"},
    cost=lambda steps, references_per_image, **_: (
        references_per_image * (steps + 1),
        references_per_image * steps * 2,
    ),
    at_most=True,
    parallel=lambda references_per_image, **_: references_per_image,
    deviations="Moves and gradients are both in pixel units; the authors' notebook moves by pixels of 0..255 and multiplies by "
    "gradients in normalized units, so that the map does not sum to the change of the score. The step is 1, the authors' 256 of 255.",
    rounding="The path follows normalized gradients, so that differences between correct float32 implementations grow along it.",
)
def ig2(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    references: Tensor | None,
    baselines: str = "noise",
    references_per_image: Steps = 8,
    steps: Steps = 201,
    step_size: Positive = 1.0,
) -> Attribution:
    """Integrate the gradient along paths on which the embedding of the image approaches those of images of other classes.

    h is the input of the last linear layer. From x_0 = x, T times x_{j+1} = x_j - η d / ‖d‖₂, clamped to [0, 1], with
    d = ∇‖h(x_j) - h(r)‖². φ = mean over r of Σ_j (x_j - x_{j+1}) ⊙ ∇f(x_j). For each r the sum approaches f(x) - f(x_T) if η is small.
    ``distance_left`` is the mean over r of ‖h(x_{T-1}) - h(r)‖ / ‖h(x) - h(r)‖: if it is not small, the references were not reached.
    The references are drawn from the baselines that are not predicted as the target; with ``noise``, they are uniform random images.
    The forward passes for the embeddings of the baselines are counted as checks.
    Raises InputError if no baseline is left or if baselines and images differ in shape, and UsageError without a linear layer.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    references: the images (N, C, H, W) of ``baselines``, or None for noise.
    baselines: ``noise`` or a directory of images; in Python also a tensor (N, C, H, W). ``baseline`` is another name of this
    parameter.
    references_per_image: number of references r, fewer if fewer baselines are left.
    steps: number of moves T.
    step_size: η, the L2 length of a move, in pixel units.
    """
    if references is None:
        pairs = _draw_noise(oracle, x, rng, references_per_image)
    else:
        check_shape(references, x)
        pairs = _draw_references(oracle, y, references, rng, references_per_image)
    image = pairs.image
    point, total = x[image], torch.zeros_like(x[image])
    first = last = torch.zeros_like(point[:, 0, 0, 0])
    for step in range(steps):
        result = differentiate_distance(oracle, point, y[image], pairs.goals, image, method="ig2")
        first, last = (result.distances if step == 0 else first), result.distances
        moved = project(point - step_size * normalize_l2(result.distance_gradients), point, None)
        total += (point - moved) * result.score_gradients
        point = moved
    share = torch.where(first > 0, last / torch.where(first > 0, first, 1), 0).to(x.dtype)
    count = torch.bincount(image, minlength=len(x)).to(x.dtype)
    values = torch.zeros_like(x).index_add_(0, image, total) / count[:, None, None, None]
    left = torch.zeros_like(count).index_add_(0, image, share) / count
    return Attribution(values, details={"distance_left": left})


def _draw_noise(oracle: Oracle, x: Tensor, rng: Streams, count: int) -> Pairs:
    """Pair each image with ``count`` uniform random images."""
    image = torch.arange(len(x), device=x.device).repeat_interleave(count)
    noise = rng.uniform(torch.arange(count, device=x.device), tuple(x.shape[1:]), x.dtype)
    return Pairs(image, embed(oracle, noise.flatten(0, 1), image, method="ig2")[0])


def _draw_references(oracle: Oracle, y: Tensor, references: Tensor, rng: Streams, count: int) -> Pairs:
    """Pair each image with up to ``count`` different references whose predicted class is not its target."""
    embeddings, logits = embed(oracle, references, method="ig2", check=True)
    usable = oracle.output.top_classes(logits)[None] != y[:, None]
    if not bool(usable.any(dim=1).all()):
        raise InputError(
            "all baselines are predicted as the explained class", "pass baselines of other classes as well"
        )
    ranks = rng.uniform(torch.zeros(1, device=y.device), (len(references),), torch.float64)[:, 0]
    order = torch.where(usable, ranks, 2.0).argsort(dim=1, stable=True)[:, :count]
    image, column = usable.gather(1, order).nonzero(as_tuple=True)
    return Pairs(image, embeddings[order[image, column]])
