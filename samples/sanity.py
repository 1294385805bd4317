"""Draw the figure of the sanity checks (Adebayo et al. 2018; AGI, figure 8): ``python samples/sanity.py [PHOTO [PICTURE]]``.

Rows are methods. Columns are the trained network, and the same network with new random weights in more and more layers, the last ones
first. The number below a map is its rank correlation with the map of the trained network.
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
}
STAGES = 5
SEED = 1  # of the new weights; with some seeds Grad-CAM's map is zero, because every channel decreases the score


def main(photo: str = str(Path(__file__).with_name("cat.jpg")), picture: str = "sanity.jpg") -> None:
    """Compute the maps of each method and draw them."""
    clf = xplain.load_classifier("efficientnet-lite0")
    x = xplain.read_image(photo, preprocessing=clf.preprocessing)[None].to(clf.device)
    rows = {}
    for method, params in METHODS.items():
        rows[method] = randomize(clf, x, method, params)
        print(f"{method:16}", *(f"{correlation:6.2f}" for _, correlation in rows[method]))
    draw(x[0].permute(1, 2, 0).cpu().numpy(), rows, picture)


def randomize(clf: xplain.Classifier, x, method: str, params: dict) -> list[tuple[np.ndarray, float]]:
    """Return the map of the trained network and of each stage, with their rank correlation to the first."""
    trained = xplain.attribute(clf, x, method, **params)
    maps = [trained.values]

    def explain(classifier, images, target):
        maps.append(xplain.attribute(classifier, images, method, target=target.tolist(), **params).values)
        return maps[-1]

    score = xplain.measure(
        clf, x, trained.values, "parameter-randomisation",
        method=explain, target=trained.target.tolist(), stages=STAGES, seed=SEED,
    )  # fmt: skip
    correlations = score.curve[0].tolist()
    return [(m[0].sum(dim=0).cpu().numpy(), r) for m, r in zip(maps, correlations, strict=True)]


def draw(photo: np.ndarray, rows: dict[str, list[tuple[np.ndarray, float]]], picture: str) -> None:
    """Draw the photograph and a row per method: the positive part of each map, brightest at its 99th percentile."""
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
