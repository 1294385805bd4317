"""Try every method on a model of every family, with random weights: ``python -m tests.tools.model_matrix``.

The README's table is made from the result.

A pair of model and method gives a map that keeps the contract, or is refused in one line; what does neither is broken, and the script
then ends with 1. Each pair is kept in a file as it is done, so that the same command goes on after an interruption.
Model names after the command choose some, for a sample.
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
from tests.tools.update_readme import README, ROOT, put
from xplain.core.errors import XplainError, first_line
from xplain.core.registry import METHODS, MethodSpec
from xplain.pipelines.compatibility import minimal_settings

SIDE = 64  # pixels, where the model takes that
KEPT = ROOT / "build" / "matrix.jsonl"
# The smallest model of each family of torchvision's, of four kinds of timm's, and the embedded one; with the side of its images
# where it is not SIDE: Inception's unpadded convolutions leave no map of less, MaxViT's windows and the mixer's tokens are fixed.
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
class Pair:
    """What came of a method on a model. outcome: fits, refused or broken; text: why it does not fit."""

    model: str
    method: str
    outcome: str
    text: str = ""


Found = Mapping[str, Mapping[str, Pair]]  # by model and method


def try_pairs(name: str, known: Collection[str] = ()) -> Iterator[Pair]:
    """Every method on a model, but for those that are ``known``."""
    missing = [spec for spec in METHODS if spec.name not in known]
    if not missing:
        return
    classifier = xplain.load_classifier(name, device="cpu", weights="random", image_size=MODELS[name])
    images = toys.images(2, *classifier.size).float()
    rows = count_rows(classifier, classifier.size)
    before = state(classifier)
    for spec in missing:
        outcome, text = try_method(spec, classifier, images, rows)
        if (after := state(classifier)) != before:
            outcome, text = "broken", "the model is not as it was"
        before = after
        yield Pair(name, spec.name, outcome, text)


def try_method(
    spec: MethodSpec, classifier: xplain.Classifier, images: torch.Tensor, rows: Counter[str]
) -> tuple[str, str]:
    """(outcome, text) as in Pair. rows: as in ``keep_contract``."""
    try:
        keep_contract(spec, classifier, images, minimal_settings(spec, classifier.size), rows)
    except XplainError as refusal:
        return "refused", str(refusal)  # one line, as every XplainError
    except BrokenError as error:
        return "broken", str(error)
    except Exception as error:  # any other is a crash, and is listed as one
        return "broken", f"{type(error).__name__}: {first_line(error)}"
    return "fits", ""


def summary(found: Found) -> str:
    """The README's table: models that the same methods refuse are in one row, with the side of their images in pixels."""
    rows: dict[str, list[str]] = {}
    for name, pairs in found.items():
        refused = ", ".join(f"`{pair.method}`" for pair in pairs.values() if pair.outcome == "refused")
        rows.setdefault(refused or "none", []).append(f"`{name}`" + f" ({MODELS[name]})" * (MODELS[name] != SIDE))
    lines = ["| models | methods that refuse them |", "|---|---|"]
    return "\n".join(lines + [f"| {', '.join(names)} | {refused} |" for refused, names in rows.items()])


def every_pair(found: Found) -> str:
    """A row for each method, a column for each model; below, why methods do not fit."""
    words = {"fits": "fits", "refused": "–", "broken": "BROKEN"}
    lines = [f"| method | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for spec in METHODS:
        outcomes = [words[pairs[spec.name].outcome] if spec.name in pairs else "?" for pairs in found.values()]
        lines.append(f"| {spec.name} | {' | '.join(outcomes)} |")
    lines += ["", "| model | method | why not |", "|---|---|---|"]
    for pair in (pair for pairs in found.values() for pair in pairs.values() if pair.text):
        text = pair.text.replace("|", "\\|")
        lines.append(f"| {pair.model} | {pair.method} | {text} |")
    return "\n".join(lines)


def read_kept(path: Path) -> dict[str, dict[str, Pair]]:
    """The pairs that are done, by model and method, in the order of MODELS and METHODS."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    pairs = {(pair.model, pair.method): pair for pair in (Pair(**json.loads(line)) for line in lines)}
    done = {name: {m.name: pairs[name, m.name] for m in METHODS if (name, m.name) in pairs} for name in MODELS}
    return {name: found for name, found in done.items() if found}


def try_missing(names: Sequence[str], path: Path) -> None:
    """Try the pairs that are not in the file at ``path`` yet, and append each to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        with path.open("a", encoding="utf-8") as stream:
            for pair in try_pairs(name, read_kept(path).get(name, {})):
                print(json.dumps(asdict(pair), ensure_ascii=False), file=stream, flush=True)
                print(*asdict(pair).values(), sep="\t", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Try what is missing; put the table into the README once every pair has been tried and none is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.model_matrix", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="only these")
    parser.add_argument("--kept", type=Path, default=KEPT, help="where pairs are kept (default: %(default)s)")
    parser.add_argument("--table", type=Path, help="write the table of all pairs here, as Markdown")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.models if name not in MODELS]:
        parser.error(f"not among the models that are tried: {', '.join(unknown)}")
    torch.set_num_threads(1)
    try_missing(chosen.models or list(MODELS), chosen.kept)
    found = read_kept(chosen.kept)
    outcomes = Counter(pair.outcome for pairs in found.values() for pair in pairs.values())
    print(*(f"{count} {outcome}" for outcome, count in outcomes.items()), sep=", ")
    if chosen.table is not None:
        chosen.table.write_text(every_pair(found) + "\n", "utf-8")
    if outcomes["fits"] + outcomes["refused"] == len(MODELS) * len(list(METHODS)):
        README.write_text(put(README.read_text("utf-8"), "fits", summary(found)), "utf-8")
    return int(outcomes["broken"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
