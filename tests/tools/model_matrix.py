"""Try every method on models of every kind, with random weights: ``python -m tests.tools.model_matrix``.

samples/guides/models.md is made of the result. A method either keeps its contract on a model, or xplain refuses the pair with a one-line
error; everything else is broken, and the script then exits with code 1. A CAM or attention map must also have its cells where the image
shows them. Each result is appended to a file, so that the same command continues an interrupted run. Model names as arguments restrict
the run to these models.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch

import xplain
from tests.helpers import toys
from tests.helpers.model_zoo import MODELS, load, located_side
from tests.helpers.on_models import BrokenError, count_rows, keep_contract
from tests.helpers.single_regions import layer_keeps_places, map_keeps_places
from tests.helpers.state import state
from tests.tools.model_guide import PairResult, full_table, guide_page
from tests.tools.readme_pictures import ROOT
from xplain.core.errors import ModelNote, XplainError, first_line
from xplain.core.registry import METHODS, MethodSpec
from xplain.pipelines.compatibility import minimal_settings

RESULTS = ROOT / "build" / "matrix.jsonl"
GUIDE = ROOT / "samples" / "guides" / "models.md"


def try_methods(name: str, done: Collection[str] = ()) -> Iterator[PairResult]:
    """Yield the result of every method on a model, except for methods in ``done``."""
    missing = [spec for spec in METHODS if spec.name not in done]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelNote)
        classifier = load(name, Path(folder))

        check_places = PlaceCheck(name, Path(folder), classifier)
        images = toys.images(2, *classifier.size, channels=classifier.input_channels).float()
        rows = count_rows(classifier, classifier.size)
        before = state(classifier)
        for spec in missing:
            outcome, text = try_method(spec, classifier, images, rows)
            if outcome == "fits" and not check_places(spec):
                outcome, text = "broken", "the cells of the map are not where the image shows them"
            after = state(classifier)
            if after != before:
                outcome, text = "broken", "the method changed the model"
            before = after
            yield PairResult(name, spec.name, outcome, text)


def try_method(
    spec: MethodSpec, classifier: xplain.Classifier, images: torch.Tensor, rows: Counter[str]
) -> tuple[str, str]:
    """Return outcome and text as in PairResult. rows: as ``keep_contract`` takes it."""
    settings = minimal_settings(spec, classifier.size, classifier.input_channels)
    try:
        keep_contract(spec, classifier, images, settings, rows)
    except XplainError as error:
        return "refused", str(error)
    except BrokenError as error:
        return "broken", str(error)
    except Exception as error:  # a crash of the method is a result too
        return "broken", f"{type(error).__name__}: {first_line(error)}"
    return "fits", ""


class PlaceCheck:
    """Checks that the cells of maps are where the image shows them, at an image size where there are enough cells."""

    def __init__(self, name: str, folder: Path, classifier: xplain.Classifier) -> None:
        self.name, self.folder, self.classifier = name, folder, classifier

    @cached_property
    def larger(self) -> xplain.Classifier:
        """The classifier for images of ``located_side``."""
        side = located_side(self.name)
        return self.classifier if side is None else load(self.name, self.folder, side)

    @cached_property
    def is_layer_located(self) -> bool:
        """Whether the layer that all CAM methods read is in order."""
        return layer_keeps_places(self.larger)

    def __call__(self, spec: MethodSpec) -> bool:
        """Return whether the maps of a method are in order. Those of methods without a layer or tokens always are."""
        if "layer" in spec.parameters:
            return self.is_layer_located
        return "layout" not in spec.parameters or map_keeps_places(spec.name, self.larger, {})


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
    """Run what is missing; write the guide if every pair was tried and none is broken. Return the exit code."""
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
        GUIDE.parent.mkdir(parents=True, exist_ok=True)
        GUIDE.write_text(guide_page(results), "utf-8")
    return int(outcomes["broken"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
