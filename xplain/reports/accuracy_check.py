"""Warn if a model's top-1 accuracy on labeled images is implausible: wrong labels or a wrong class order make results meaningless."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

Confusions = Counter[tuple[int, int]]  # number of images by (label, predicted class)

ALLOWANCE = 0.15  # accepted drop on other photographs: 11 to 14 points on ImageNetV2 (Recht et al. 2019, table 1)
RARE = 0.001  # at most one in a thousand warnings is false
LIKELY = 0.01


def accuracy_warnings(
    correct: int,
    n: int,
    published: float | None,
    source: str,
    classes: int | None,
    halves: Sequence[Confusions] = (Counter(), Counter()),
) -> list[str]:
    """Return warnings about a top-1 accuracy that is far below the published one, or close to chance.

    correct, n: number of correctly classified images, and of labeled images.
    published: top-1 accuracy of the weights in [0, 1]; None if unknown.
    source: of the published accuracy.
    classes: number of the model's classes; None if unknown.
    halves: predictions in two disjoint parts of the images, from which ``suggest_class_order`` may explain chance.

    Far below: P(X <= correct) < RARE for X ~ Binomial(n, published - ALLOWANCE). Close to chance:
    P(X >= correct) > LIKELY for X ~ Binomial(n, 1 / classes), and P(X <= correct) < RARE for a model halfway between
    chance and always correct. Few images therefore give no warning.
    """
    texts = []
    if published is not None and n and _is_far_below(correct, n, published):
        texts.append(
            f"the top-1 accuracy on these {n} labeled images is {correct / n:.3f}, far below the published accuracy {published:.3f} "
            f"of the weights ({source}); check the labels, the preprocessing and the class order"
        )
    if classes and classes > 1 and n and _is_near_chance(correct, n, 1 / classes):
        text = (
            f"the top-1 accuracy on these {n} labeled images is {correct / n:.3f}, close to chance for {classes} classes; "
            "check that the class order matches the labels (--classes)"
        )
        suggestion = suggest_class_order(halves, classes)
        texts.append(f"{text}; {suggestion}" if suggestion else text)
    return texts


def _is_far_below(correct: int, n: int, published: float) -> bool:
    return _probability_at_most(correct, n, published - ALLOWANCE) < RARE


def _is_near_chance(correct: int, n: int, chance: float) -> bool:
    if _probability_at_least(correct, n, chance) <= LIKELY:
        return False
    return _probability_at_most(correct, n, (1 + chance) / 2) < RARE


def suggest_class_order(halves: Sequence[Confusions], classes: int) -> str:
    """Return a text about a class order that would make the predictions correct; empty if there is no evidence for one.

    halves: predictions in two disjoint parts of the labeled images.
    classes: number of the model's classes.

    The one-to-one renumbering of classes that is most often correct on one half is tested on the other half, and vice
    versa. A model that guesses is correct there with chance 1 / classes; a text is returned if so many or more correct
    images have a probability below RARE.
    """
    first, second = halves
    order, reverse_order = _best_order(first), _best_order(second)
    correct = _count_correct(second, order) + _count_correct(first, reverse_order)
    n = first.total() + second.total()
    if not n or _probability_at_least(correct, n, 1 / classes) >= RARE:
        return ""
    examples = []
    for label, predicted in sorted({**reverse_order, **order}.items()):
        if label != predicted:
            examples.append(f"images of class {label} are predicted as class {predicted}")
    ending = ", ..." if len(examples) > 3 else ""
    return (
        f"a different class order would increase the accuracy to {correct / n:.3f}: {', '.join(examples[:3])}{ending}"
    )


def _count_correct(confusions: Confusions, order: dict[int, int]) -> int:
    return sum(count for (label, predicted), count in confusions.items() if order.get(label) == predicted)


def _best_order(confusions: Confusions) -> dict[int, int]:
    """Return the one-to-one assignment from label to predicted class with the most correct images."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    labels = sorted({label for label, _ in confusions})
    classes = sorted({predicted for _, predicted in confusions})
    row_of = {label: row for row, label in enumerate(labels)}
    column_of = {predicted: column for column, predicted in enumerate(classes)}
    counts = np.zeros((len(labels), len(classes)))
    for (label, predicted), count in confusions.items():
        counts[row_of[label], column_of[predicted]] = count
    rows, columns = linear_sum_assignment(counts, maximize=True)
    pairs = zip(rows, columns, strict=True)
    return {labels[row]: classes[column] for row, column in pairs if counts[row, column]}


def _probability_at_most(k: int, n: int, p: float) -> float:
    """Return P(X <= k) for X ~ Binomial(n, p). A p outside [0, 1] is clipped."""
    from scipy.stats import binom  # slow to import

    return float(binom.cdf(k, n, min(max(p, 0.0), 1.0)))


def _probability_at_least(k: int, n: int, p: float) -> float:
    """Return P(X >= k) for X ~ Binomial(n, p)."""
    return 1 - _probability_at_most(k - 1, n, p)
