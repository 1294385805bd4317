"""Try every method on a model of every family, with random weights: ``python -m tests.tools.model_matrix``.

The README's table is made of the result. A method either keeps its contract on a model, or xplain refuses the pair with a one-line
error; everything else is broken, and the script then exits with code 1. Each result is appended to a file, so that the same command
continues an interrupted run. Model names as arguments restrict the run to these models.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import xplain
from tests.helpers import toys
from tests.helpers.on_models import BrokenError, count_rows, keep_contract
from tests.helpers.state import state
from tests.tools.update_readme import README, ROOT, replace_section
from xplain.core.errors import XplainError, first_line
from xplain.core.registry import METHODS, MethodSpec
from xplain.pipelines.compatibility import minimal_settings
from xplain.reports.tables import markdown_table

SIDE = 64  # image size in pixels, if the model accepts it
RESULTS = ROOT / "build" / "matrix.jsonl"
# The smallest model of each family of torchvision, models of four families of timm, and the default model, with their image sizes.
# Inception's unpadded convolutions need 107 pixels; MaxViT's windows and the mixer's tokens are fixed.
MODELS: dict[str, int] = {
    "efficientnet-lite0": SIDE,
    "alexnet": SIDE,
    "vgg11_bn": SIDE,
    "squeezenet1_1": SIDE,
    "resnet18": SIDE,
    "resnext50_32x4d": SIDE,
    "wide_resnet50_2": SIDE,
    "densenet121": SIDE,
    "googlenet": SIDE,
    "inception_v3": 107,
    "mobilenet_v2": SIDE,
    "mobilenet_v3_small": SIDE,
    "mnasnet0_5": SIDE,
    "shufflenet_v2_x0_5": SIDE,
    "efficientnet_b0": SIDE,
    "efficientnet_v2_s": SIDE,
    "regnet_y_400mf": SIDE,
    "convnext_tiny": SIDE,
    "vit_b_32": SIDE,
    "swin_t": SIDE,
    "swin_v2_t": SIDE,
    "maxvit_t": 224,
    "timm:resnet10t": SIDE,
    "timm:vit_little_patch16_reg4_gap_256": SIDE,
    "timm:swin_tiny_patch4_window7_224": SIDE,
    "timm:mixer_s32_224": 224,
}


@dataclass(frozen=True)
class PairResult:
    """The result of a method on a model. outcome: fits, refused or broken. text: the reason, if it does not fit."""

    model: str
    method: str
    outcome: str
    text: str = ""


Results = Mapping[str, Mapping[str, PairResult]]  # by model and method


def try_methods(name: str, done: Collection[str] = ()) -> Iterator[PairResult]:
    """Yield the result of every method on a model, except for methods in ``done``."""
    missing = [spec for spec in METHODS if spec.name not in done]
    if not missing:
        return
    classifier = xplain.load_classifier(name, device="cpu", weights="random", image_size=MODELS[name])
    images = toys.images(2, *classifier.size).float()
    rows = count_rows(classifier, classifier.size)
    before = state(classifier)
    for spec in missing:
        outcome, text = try_method(spec, classifier, images, rows)
        after = state(classifier)
        if after != before:
            outcome, text = "broken", "the method changed the model"
        before = after
        yield PairResult(name, spec.name, outcome, text)


def try_method(
    spec: MethodSpec, classifier: xplain.Classifier, images: torch.Tensor, rows: Counter[str]
) -> tuple[str, str]:
    """Return outcome and text as in PairResult. rows: as ``keep_contract`` takes it."""
    try:
        keep_contract(spec, classifier, images, minimal_settings(spec, classifier.size), rows)
    except XplainError as error:
        return "refused", str(error)
    except BrokenError as error:
        return "broken", str(error)
    except Exception as error:  # a crash of the method is a result too
        return "broken", f"{type(error).__name__}: {first_line(error)}"
    return "fits", ""


def readme_table(results: Results) -> str:
    """Return the README's table: a row per set of refusing methods, with its models and their image sizes if not SIDE."""
    models_by_refusals: dict[str, list[str]] = {}
    for name, by_method in results.items():
        refused = [f"`{result.method}`" for result in by_method.values() if result.outcome == "refused"]
        size = "" if MODELS[name] == SIDE else f" ({MODELS[name]})"
        models_by_refusals.setdefault(", ".join(refused) or "none", []).append(f"`{name}`{size}")
    rows = [[", ".join(models), refused] for refused, models in models_by_refusals.items()]
    return markdown_table(["models", "methods that refuse them"], rows)


def full_table(results: Results) -> str:
    """Return a table of methods by models, and a table of the reasons why methods do not fit."""
    words = {"fits": "fits", "refused": "–", "broken": "BROKEN"}
    rows = []
    for spec in METHODS:
        outcomes = []
        for by_method in results.values():
            result = by_method.get(spec.name)
            outcomes.append("?" if result is None else words[result.outcome])
        rows.append([spec.name, *outcomes])
    reasons = []
    for by_method in results.values():
        reasons += [[result.model, result.method, result.text] for result in by_method.values() if result.text]
    table = markdown_table(["method", *results], rows)
    return table + "\n\n" + markdown_table(["model", "method", "why not"], reasons)


def load_results(path: Path) -> dict[str, dict[str, PairResult]]:
    """Return the results of a file by model and method, in the order of MODELS and METHODS."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    loaded = [PairResult(**json.loads(line)) for line in lines]
    by_pair = {(result.model, result.method): result for result in loaded}
    results = {}
    for name in MODELS:
        by_method = {spec.name: by_pair[name, spec.name] for spec in METHODS if (name, spec.name) in by_pair}
        if by_method:
            results[name] = by_method
    return results


def run_missing(names: Sequence[str], path: Path) -> None:
    """Try the pairs that the file at ``path`` does not have yet, and append each result to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        with path.open("a", encoding="utf-8") as stream:
            for result in try_methods(name, load_results(path).get(name, {})):
                print(json.dumps(asdict(result), ensure_ascii=False), file=stream, flush=True)
                print(*asdict(result).values(), sep="\t", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run what is missing; write the README's table if every pair was tried and none is broken. Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.model_matrix", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="try these models only")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the results (default: %(default)s)")
    parser.add_argument("--table", type=Path, help="write the table of all pairs to this Markdown file")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.models if name not in MODELS]
    if unknown:
        parser.error(f"unknown models: {', '.join(unknown)}")
    torch.set_num_threads(1)
    run_missing(options.models or list(MODELS), options.results)
    results = load_results(options.results)
    outcomes = Counter(result.outcome for by_method in results.values() for result in by_method.values())
    print(*(f"{count} {outcome}" for outcome, count in outcomes.items()), sep=", ")
    if options.table is not None:
        options.table.write_text(full_table(results) + "\n", "utf-8")
    if outcomes["fits"] + outcomes["refused"] == len(MODELS) * len(list(METHODS)):
        README.write_text(replace_section(README.read_text("utf-8"), "fits", readme_table(results)), "utf-8")
    return int(outcomes["broken"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
