"""A method or metric that ``xplain bench`` measures: run on some of the images, and held against float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xplain.core.config import Choice, ComputeOptions
from xplain.core.registry import MethodSpec, Spec
from xplain.core.types import Attribution, Precision, Score
from xplain.metrics._similarity import spearman
from xplain.models import Classifier
from xplain.pipelines.attribution import attribute, label_of
from xplain.pipelines.measurement import measure
from xplain.pipelines.timing import Account


@dataclass(frozen=True, eq=False)
class Subject:
    """spec, choice: what is run, with the settings asked for. maps: (B, 1, H, W) attributions that metrics are given."""

    spec: Spec
    choice: Choice
    compute: ComputeOptions
    classifier: Classifier
    maps: Tensor

    @property
    def kind(self) -> str:
        """Method or metric."""
        return "method" if isinstance(self.spec, MethodSpec) else "metric"

    @property
    def settings(self) -> dict[str, Any]:
        """All parameters with their values."""
        return self.spec.resolve(dict(self.choice.params))

    @property
    def label(self) -> str:
        """The name with the parameters that were asked for."""
        return label_of(self.choice, self.spec.name)

    def run(self, x: Tensor, y: Tensor) -> Account:
        """Once on images (b, C, H, W) and their classes (b,)."""
        calls = list[int]()
        found = self._result(x, y, self.compute.precision, calls.append)
        return Account(found.cost, max(calls, default=0))

    def agreement(self, x: Tensor, y: Tensor) -> dict[str, float] | None:
        """How close the results are to float32's, at the image where they are least so; None in float32 itself.

        Of attributions the cosine and Spearman's rank correlation, of a metric's values the largest difference.
        """
        if self.compute.precision == "fp32":
            return None
        exact, found = (self._result(x, y, each) for each in ("fp32", self.compute.precision))
        if isinstance(self.spec, MethodSpec):
            cosine = torch.cosine_similarity(exact.values.double().flatten(1), found.values.double().flatten(1), dim=1)
            return {"cosine": float(cosine.min()), "spearman": float(spearman(exact.values, found.values).min())}
        return {"largest_difference": float((exact.values - found.values).abs().max())}

    def _result(
        self, x: Tensor, y: Tensor, precision: Precision, tick: Callable[[int], None] | None = None
    ) -> Attribution | Score:
        params = dict[str, Any](self.choice.params)
        rows, seed = self.compute.batch_size or "auto", self.compute.seed
        if isinstance(self.spec, MethodSpec):
            return attribute(
                self.classifier, x, self.choice.name, target=y, seed=seed, precision=precision, batch_size=rows,
                progress=tick, **params,
            )  # fmt: skip
        return measure(
            self.classifier, x, self.maps[: len(x)], self.choice.name, target=y, method="saliency", seed=seed,
            precision=precision, batch_size=rows, progress=tick, **params,
        )  # fmt: skip
