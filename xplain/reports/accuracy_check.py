"""Whether a model does on the labelled images what it should: a wrong label file or class order makes every number meaningless."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import exp, lgamma, log

import numpy as np

Confusions = Counter[tuple[int, int]]  # how many images of a class (label) are taken for which (predicted)

ALLOWANCE = 0.15  # other photographs of the same classes: 11 to 14 points on ImageNetV2 (Recht et al. 2019, table 1)
RARE = 0.001  # a warning is wrong once in a thousand runs, or less
LIKELY = 0.01


def accuracy_warnings(
    right: int,
    n: int,
    published: float | None,
    source: str,
    classes: int | None,
    halves: Sequence[Confusions] = (Counter(), Counter()),
) -> list[str]:
    """What is to be said of a top-1 of ``right`` in ``n`` labelled images; nothing where it is as it should be.

    Far under: a model that is right with chance ``published - ALLOWANCE`` would get this few or fewer right with a probability
    under RARE, P(X <= right), X ~ Binomial(n, p). Near chance: this many or more are no rarer than LIKELY where each is
    right with chance 1 / classes, and this few are rarer than RARE half-way between that and always. Few images say little, and
    then nothing is said. published: top-1 share, or None where it is not known; so is classes. halves: as for ``renumbering``, which
    is named where it explains what is near chance.
    """
    found = []
    if published is not None and n and _at_most(right, n, published - ALLOWANCE) < RARE:
        found.append(
            f"the model's top-1 on these {n} labelled images is {right / n:.3f}, far under the {published:.3f} that its weights "
            f"publish ({source}); check the labels, the preprocessing and the class order"
        )
    if classes and classes > 1 and n:
        chance = 1 / classes
        if 1 - _at_most(right - 1, n, chance) > LIKELY and _at_most(right, n, (1 + chance) / 2) < RARE:
            better = renumbering(halves, classes)
            found.append(
                f"the model's top-1 on these {n} labelled images is {right / n:.3f}, as if it guessed among {classes} classes; "
                "check that its class order is that of the labels (--classes)" + (f"; {better}" if better else "")
            )
    return found


def renumbering(halves: Sequence[Confusions], classes: int) -> str:
    """What a wrong class order looks like, said in words; nothing where the predictions do not look so.

    halves: two disjoint parts of the labelled images. The one-to-one renumbering of classes that is right most often on one half is
    tried on the other, and the other way round: guesses are right there with chance 1 / classes, and a text is given where this
    many or more would be rarer than RARE.
    """
    right, found = 0, dict[int, int]()
    for some, others in (halves, halves[::-1]):
        order = _best_renumbering(some)
        right += sum(count for (label, predicted), count in others.items() if order.get(label) == predicted)
        found = order | found
    n = sum(half.total() for half in halves)
    if not n or 1 - _at_most(right - 1, n, 1 / classes) >= RARE:
        return ""
    moved = [f"{label} are taken for {predicted}" for label, predicted in sorted(found.items()) if label != predicted]
    more = ", ..." if len(moved) > 3 else ""
    return f"with its classes renumbered it would be {right / n:.3f}: images of class {', of '.join(moved[:3])}{more}"


def _best_renumbering(confusions: Confusions) -> dict[int, int]:
    """Predicted class by label, each used once, so that as many images as can be are right."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    labels, predictions = (sorted({pair[k] for pair in confusions}) for k in (0, 1))
    row, column = ({each: place for place, each in enumerate(some)} for some in (labels, predictions))
    counts = np.zeros((len(labels), len(predictions)))
    for (label, predicted), count in confusions.items():
        counts[row[label], column[predicted]] = count
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return {labels[i]: predictions[k] for i, k in zip(rows, columns, strict=True) if counts[i, k]}


def _at_most(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p)."""
    if k < 0:
        return 0.0
    if p <= 0 or k >= n:
        return 1.0
    if p >= 1:
        return 0.0
    logs = (lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) + i * log(p) + (n - i) * log(1 - p) for i in range(k + 1))
    return sum(map(exp, logs))
