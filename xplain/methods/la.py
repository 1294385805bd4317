"""LA: local attribution, AGI's restarted ascents inside a box whose size follows the image."""

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.methods.agi import draw_classes
from xplain.oracle import Oracle


@method(
    "la",
    paper=Paper(
        "Enhancing model interpretability with local attribution over global exploration",
        "Zhu, Jin, Zhang, Chen",
        2024,
        "ACM Multimedia",
        "2408.07736",
    ),
    score="prob",
    axioms=frozenset({"dummy", "implementation-invariance"}),
    cost=lambda steps, classes, **_: (classes * steps, (2 * classes - 1) * steps),
    at_most=True,
    parallel=lambda classes, **_: classes,
    deviations="False classes are drawn for each image from all classes but the target; the program draws once a call, unseeded, and "
    "replaces the predicted class by a neighbour. Its scores sum over the labels of the whole batch (a batch of one is not "
    "affected); each image has its own here. In place of the last of its 20 classes comes the descent of the target, as here. "
    "Its library default is share=0.1, steps=30; its experiments use 0.05 and 20.",
    plain=True,
    rounding="Signed steps: entries of the gradient near zero change sign between correct float32 programs.",
)
def la(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    against: Tensor | None,
    share: Positive = 0.05,
    steps: Steps = 20,
    classes: Steps = 20,
) -> Attribution:
    """Gradients of the target around the image, times displacements towards false classes and away from the target.

    r = share · x for every value. For each of ``classes`` - 1 false classes i, from x_0 = x, ``steps`` times:
    x_k = clamp(x + r ⊙ sign ∇f^i(x_{k-1})); once more with x_k = clamp(x - r ⊙ sign ∇f^t(x_{k-1}));
    φ = -Σ ∇f^t(x_{k-1}) ⊙ (x_k - x). Every step restarts from the image, so this is no path integral.
    Black values do not move and get exactly 0. against: exactly these false classes, else random ones of each image
    (all there are, if fewer). x: (B, C, H, W) in [0, 1], y: (B,). Raises UsageError for a model of one class.
    """
    false = against if against is not None else draw_classes(oracle, x, y, rng, classes - 1)
    every = torch.arange(len(x), device=x.device)
    image = every.repeat_interleave(false.shape[1])
    towards = torch.stack([false.flatten(), y[image]], dim=1)
    total = _explore(oracle, x, image, towards, share, steps) + _explore(oracle, x, every, y[:, None], -share, steps)
    return Attribution(total, details={"classes": false})


def _explore(oracle: Oracle, x: Tensor, image: Tensor, wanted: Tensor, share: float, steps: int) -> Tensor:
    """(B, C, H, W) the sums over the rows of each image.

    wanted: (R, S) the class whose gradient is followed first, the target last. A negative share goes against it.
    """
    total = torch.zeros_like(x)
    origin = point = x[image]
    for _ in range(steps if len(image) else 0):
        gradients = oracle.gradients(point, wanted, image).values
        point = (origin + share * origin * gradients[:, 0].sign()).clamp(0, 1)
        total.index_add_(0, image, -gradients[:, -1] * (point - origin))
    return total
