"""Do explanations change when the network forgets? The figure of the sanity checks (Adebayo et al. 2018; AGI, figure 8).

``python samples/sanity.py [PHOTO [PICTURE]]``: rows are methods; columns are the trained network, and the same network with more and
more of its layers initialised anew, from the output inwards. Under each map: its rank correlation with the trained network's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import xplain

METHODS = {
    "saliency": {},
    "grad-cam": {},
    "guided-backprop": {},
    "neflag": {},
    "agi": {"classes": 5},
}  # with their parameters
STAGES = 5
SEED = 1  # of the new weights; at some seeds they are against the class everywhere, and Grad-CAM's map is zero


def main(photo: str = str(Path(__file__).with_name("cat.jpg")), picture: str = "sanity.jpg") -> None:
    """Attribute, measure, draw."""
    clf = xplain.load_classifier("efficientnet-lite0")
    x = xplain.read_image(photo, preprocessing=clf.preprocessing)[None].to(clf.device)
    rows = {}
    for method, params in METHODS.items():
        rows[method] = forget(clf, x, method, params)
        print(f"{method:16}", *(f"{correlation:6.2f}" for _, correlation in rows[method]))
    draw(x[0].permute(1, 2, 0).cpu().numpy(), rows, picture)


def forget(clf: xplain.Classifier, x, method: str, params: dict) -> list[tuple[np.ndarray, float]]:
    """The map of the trained network, then that of each stage, each with its rank correlation to the first."""
    trained = xplain.attribute(clf, x, method, **params)
    maps = [trained.values]

    def explain(classifier, images, target):
        maps.append(xplain.attribute(classifier, images, method, target=target.tolist(), **params).values)
        return maps[-1]

    score = xplain.measure(
        clf, x, trained.values, "parameter-randomisation",
        method=explain, target=trained.target.tolist(), stages=STAGES, seed=SEED,
    )  # fmt: skip
    return [(each[0].sum(dim=0).cpu().numpy(), r) for each, r in zip(maps, score.curve[0].tolist(), strict=True)]


def draw(photo: np.ndarray, rows: dict[str, list[tuple[np.ndarray, float]]], picture: str) -> None:
    """The photograph, then one row a method: the positive part of each map, bright at its 99th percentile."""
    fig, axes = plt.subplots(len(rows), STAGES + 2, figsize=(11.2, 1.85 * len(rows)), layout="constrained")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    axes[0, 0].imshow(photo)
    axes[0, 0].set_title("photograph", fontsize=11)
    for k in range(STAGES + 1):
        axes[0, k + 1].set_title("trained" if k == 0 else f"last {100 * k // STAGES} % new", fontsize=11)
    for (method, maps), line in zip(rows.items(), axes, strict=True):
        line[1].set_ylabel(method, fontsize=11)
        for axis, (values, correlation) in zip(line[1:], maps, strict=True):
            high = np.percentile(values.clip(0), 99)
            axis.imshow(values, cmap="inferno", vmin=0, vmax=high if high > 0 else 1)
            text = f"ρ = {correlation + 0.0:.2f}".replace("-0.00", "0.00").replace("-", "−")
            axis.set_xlabel(text if correlation == correlation else "all zero", fontsize=10)
    fig.savefig(picture, dpi=88, pil_kwargs={"quality": 80, "optimize": True})


if __name__ == "__main__":
    main(*sys.argv[1:])
