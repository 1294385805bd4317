"""Run the method that another method, such as ``smooth``, runs on points near the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from xplain.core.options import ComputeOptions
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import make_baseline
from xplain.models import Classifier
from xplain.oracle import Oracle

if TYPE_CHECKING:
    from xplain.pipelines.method_run import MethodRun

IMAGE_DEPENDENT = ("blur", "uniform")  # baselines


@dataclass(frozen=True, eq=False)
class InnerMethod:
    """A method that runs on points near the images, and adds its rows to the cost of an oracle.

    images, targets, contrasts: of the clean images (B, ...). content: images that seed the random numbers.
    """

    method_run: MethodRun
    classifier: Classifier
    oracle: Oracle
    images: Tensor
    content: Tensor
    targets: Tensor
    contrasts: Tensor | None
    compute: ComputeOptions
    on_rows: Callable[[int], None] | None

    def __call__(self, points: Tensor, row: Tensor) -> Attribution:
        """Return the attributions of points (R, C, H, W); row: (R,) the image to which each belongs."""
        method_run = self.method_run
        baselines = self._find_baselines()
        chosen = {name: images if len(images) == 1 else images[row] for name, images in baselines.items()}
        method_run = replace(method_run, baselines=chosen)
        result = method_run.attribute(
            self.classifier,
            points,
            self.targets[row],
            self.compute,
            contrasts=None if self.contrasts is None else self.contrasts[row],
            on_rows=self.on_rows,
            flag_maps=False,
        )
        self.oracle.cost = self.oracle.cost + replace(result.cost, seconds=0.0)
        for column, name in enumerate(("forwards", "backwards")):
            self.oracle.image_rows[:, column].index_add_(0, row, result.details[name])
        return result

    def _find_baselines(self) -> dict[str, Tensor]:
        """Return the baseline images by parameter; those that depend on the image are made from the clean images."""
        method_run = self.method_run
        baselines = dict(method_run.baselines)
        for parameter in method_run.spec.parameters.values():
            kind = method_run.settings[parameter.name]
            if parameter.file is None or kind not in IMAGE_DEPENDENT:
                continue
            rng = Streams.of(self.content, self.compute.seed, method_run.spec.name, self.images.device)
            if parameter.name != "baseline":  # of several, each with its own draws
                rng = rng.child(parameter.name.removesuffix("_baseline"))
            baselines[parameter.name] = make_baseline(kind, self.images, self.oracle.mean_color(self.images), rng)
        return baselines
