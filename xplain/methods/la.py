"""LA (local attribution): AGI's restarted ascents inside a box whose size is proportional to the pixel values."""

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.methods._false_classes import choose_classes, pair_images
from xplain.oracle import Oracle


@method(
    "la",
    paper=Paper(
        "Enhancing model interpretability with local attribution over global exploration",
        "Zhiyu Zhu, Zhibo Jin, Jiayu Zhang, Huaming Chen",
        2024,
        "ACM Multimedia",
        "2408.07736",
    ),
    score="prob",
    axioms=frozenset({"dummy", "implementation-invariance"}),
    violates=frozenset({"sensitivity-a"}),
    cost=lambda steps, classes, **_: (classes * steps, (2 * classes - 1) * steps),
    at_most=True,
    parallel=lambda classes, **_: classes,
    deviations="False classes are drawn per image from all classes except the target; the authors' code draws once per call, without a "
    "seed, and replaces the predicted class by a neighbor. The scores of the code sum over the labels of the whole batch (a batch of one "
    "is not affected); here each image has its own. As in the code, a descent of the target replaces the last of the 20 classes. "
    "The library defaults of the code are share=0.1, steps=30; its experiments use 0.05 and 20.",
    plain=True,
    rounding="Signed steps: gradient entries near zero change sign between correct float32 implementations.",
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
    """Sum the gradient of the target times displacements toward false classes and away from the target.

    Let r = share · x elementwise. For each of ``classes`` - 1 false classes i, start at x_0 = x and repeat ``steps`` times:
    x_k = clamp(x + r ⊙ sign ∇f^i(x_{k-1})); once more with x_k = clamp(x - r ⊙ sign ∇f^t(x_{k-1}));
    φ = -Σ ∇f^t(x_{k-1}) ⊙ (x_k - x). Every step restarts from the image, so this is not a path integral.
    Zero values do not move and receive an attribution of exactly 0.
    Raises UsageError if the model has only one class.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    against: false classes (B, A) to use instead of random ones.
    share: step size as a fraction of the pixel values.
    steps: number of steps per class.
    classes: number of classes per image: the target and ``classes`` - 1 random false classes. If the model has fewer classes, all of
    them are used.
    """
    false_classes = choose_classes(oracle, x, y, rng, classes - 1, against, "la")
    all_images = torch.arange(len(x), device=x.device)
    image, false_class = pair_images(false_classes)
    toward_false = torch.stack([false_class, y[image]], dim=1)
    total = _explore(oracle, x, image, toward_false, share, steps)
    total = total + _explore(oracle, x, all_images, y[:, None], -share, steps)
    return Attribution(total, details={"classes": false_classes})


def _explore(oracle: Oracle, x: Tensor, image: Tensor, classes: Tensor, share: float, steps: int) -> Tensor:
    """Return the sums (B, C, H, W) of -∇f^t ⊙ displacement over the rows of each image.

    image: (R,) the image of each row. classes: (R, S) the followed class first, the target last.
    share: negative to descend the followed class.
    """
    total = torch.zeros_like(x)
    if not len(image):
        return total
    origin = point = x[image]
    for _ in range(steps):
        gradients = oracle.gradients(point, classes, image).values
        point = (origin + share * origin * gradients[:, 0].sign()).clamp(0, 1)
        total.index_add_(0, image, -gradients[:, -1] * (point - origin))
    return total
