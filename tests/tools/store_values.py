"""Store the values of every method and metric at their defaults: ``python -m tests.tools.store_values``.

``tests/contracts/test_stored_values.py`` compares them with the current code. Run this after a change of a definition, together with a new
version number of the method or metric.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import xplain
from tests.conftest import ROOT, SAMPLES
from tests.helpers import toys
from xplain.core.errors import UsageError
from xplain.core.registry import METHODS, METRICS
from xplain.core.run_store import fingerprint
from xplain.data.preprocessing import Preprocessing
from xplain.pipelines.method_run import MethodRun
from xplain.pipelines.metric_run import MetricRun

FILE = ROOT / "tests" / "contracts" / "stored_values.json"
BOXES = torch.tensor([[[10.0, 8.0, 24.0, 20.0]], [[0.0, 0.0, 9.0, 9.0]]], dtype=torch.float64)
ON_SALIENCY = (  # which attribute again, many times
    "max-sensitivity", "ris", "ros", "parameter-randomisation", "smprt", "emprt", "label-randomisation",
    "stability-draws", "stability-rounding", "stability-noise",
)  # fmt: skip
FEWER_STEPS: dict[str, Any] = {"samp": {"steps": 32}, "ig2": {"steps": 20}}  # which take seconds at their defaults
ON_PHOTOGRAPH = {
    "saliency": {}, "integrated-gradients": {}, "smoothgrad": {}, "agi": {"classes": 4}, "neflag": {}, "mfaba": {},
    "dga": {}, "grad-cam": {}, "lrp": {}, "guided-backprop": {},
}  # fmt: skip


def make_convolutional() -> nn.Module:
    """Return a small convolutional network with a batch norm, in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        network = toys.SmallNet().eval()
        with torch.no_grad():
            network.norm1.running_mean.normal_(0, 0.1)
            network.norm1.running_var.uniform_(0.5, 1.5)
            network.head.weight.mul_(4)
    network.size = 32
    return network


def make_transformer() -> nn.Module:
    """Return a small vision transformer with 16 patches, in float32."""
    from torchvision.models import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12)
        network = VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
        )
        nn.init.normal_(network.heads.head.weight, std=0.5)
    network.size = 32
    return network.eval()


def make_images() -> Tensor:
    """Return two images (2, 3, 32, 32) of noise with a bright rectangle."""
    images = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(5))
    images[:, :, 8:20, 10:24] = images[:, :, 8:20, 10:24] * 0.3 + 0.7
    return images


def compute_values(network: nn.Module) -> dict[str, Tensor]:
    """Return the attributions of every method that fits, and the values and curves of every metric, by name."""
    classifier = xplain.load_classifier(network, "cpu")
    images = make_images()
    values = {}
    for spec in METHODS:
        try:
            settings = FEWER_STEPS.get(spec.name, {})
            values[f"method/{spec.name}"] = xplain.attribute(classifier, images, spec.name, **settings).values
        except UsageError:  # no rule for a layer, or no attention
            continue
    for spec in METRICS:
        if spec.scope == "image":
            score = _measure(classifier, images, spec.name)
            values[f"metric/{spec.name}"] = score.values
            if score.curve is not None:
                values[f"curve/{spec.name}"] = score.curve
    return values


def _measure(classifier: xplain.Classifier, images: Tensor, metric: str) -> xplain.Score:
    method = "saliency" if metric in ON_SALIENCY else "ig"
    attribution = xplain.attribute(classifier, images, method)
    settings: dict[str, Any] = {}
    if "boxes" in METRICS.get(metric).parameters:
        settings["boxes"] = BOXES
    if metric in ("aic", "sic"):
        settings["min_probability"] = 0.0
    return xplain.measure(
        classifier, images, attribution.values, metric, target=attribution.target, method=method, **settings
    )


def compute_photograph() -> dict[str, Tensor]:
    """Return attributions of the sample photograph of a cat by the embedded model."""
    classifier = xplain.load_classifier(device="cpu")
    image = xplain.read_image(SAMPLES / "cat.jpg", preprocessing=classifier.preprocessing)[None]
    values = {"image": image}
    for name, settings in ON_PHOTOGRAPH.items():
        values[f"method/{name}"] = xplain.attribute(classifier, image, name, **settings).values
    return values


GROUPS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "convolutional": lambda: compute_values(make_convolutional()),
    "transformer": lambda: compute_values(make_transformer()),
    "photograph": compute_photograph,
}


def compute_digests() -> dict[str, str]:
    """Return a digest of what identifies each method and metric at its defaults in run directories."""
    digests = {}
    for spec in METHODS:
        digests[f"method/{spec.name}"] = fingerprint(MethodRun.resolve(spec, {}, Preprocessing()).describe())
    for spec in METRICS:
        digests[f"metric/{spec.name}"] = fingerprint(MetricRun.resolve(spec, {}).describe())
    return digests


def summarize(values: Tensor) -> dict[str, Any]:
    """Return the SHA-256 of the bytes, and three sums that tell how far other bytes are away."""
    flat = values.detach().double().flatten().nan_to_num()
    waves = torch.cos(torch.arange(len(flat), dtype=torch.float64))
    return {
        "sha256": hashlib.sha256(values.detach().contiguous().numpy().tobytes()).hexdigest(),
        "norm": float(flat.norm()),
        "sum": float(flat.sum()),
        "projection": float(flat @ waves),
    }


def describe_environment() -> dict[str, str]:
    """Return what the bytes depend on besides the code."""
    return {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}


def main(file: Path = FILE) -> None:
    """Compute everything and write the file."""
    torch.set_num_threads(1)
    values = {group: {name: summarize(value) for name, value in compute().items()} for group, compute in GROUPS.items()}
    content = {"environment": describe_environment(), "digests": compute_digests(), "values": values}
    file.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
