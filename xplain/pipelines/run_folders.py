"""Choose the default run directory of ``xplain evaluate``: one per recipe, and the same one for the same command."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from xplain.core.config import SIMILAR, EvaluateConfig
from xplain.core.errors import InputError
from xplain.core.request import Request, changed_options, describe_path
from xplain.core.run_store import DifferentRunError, fingerprint, read_run
from xplain.data.splits import is_torchvision

NAMED_OPTIONS = {"target", "seed", "precision"}  # whose values are in the folder's name


def describe_request(config: EvaluateConfig) -> Request:
    """Return what the command says about the numbers of a run, except what a run may be extended by: methods, metrics and images.

    New options of the model, the arithmetic and the pixels belong to it, unless they are ignored here.
    """
    options = {
        "target": config.target,
        "score": config.score,
        "labels": config.labels,
        "layer": config.layer,
        "layout": config.layout,
    }
    if config.labels is not None:
        options["labels"] = describe_path(config.labels)
    if config.per_class_order == "first":
        options["per_class_order"] = "first"
    return {
        "dataset": config.dataset if is_torchvision(config.dataset) else describe_path(config.dataset),
        "model": config.model.name,
        **changed_options(config.model, ("name", "device", "offline")),
        **changed_options(config.compute, ("batch_size", "threads")),
        **changed_options(config.pixels, ("bands",)),
        **{name: value for name, value in options.items() if value not in (None, "auto")},
    }


def choose_run_folder(folder: Path, config: EvaluateConfig, refused: Collection[Path] = ()) -> Path:
    """Return the default run directory of a request: ``folder``, or one beside it if that has a run of another recipe.

    refused: folders of earlier versions, which stored no request, whose runs turned out to be different.
    """
    request = describe_request(config)
    candidates = _list_candidates(folder, request)
    descriptions = {candidate: _read_description(candidate) for candidate in candidates}
    for candidate, description in descriptions.items():
        if description is not None and description.get("request") == request:
            return candidate
    for candidate, description in descriptions.items():
        if candidate not in refused and description is not None and _may_continue(description, config):
            return candidate
    for candidate, description in descriptions.items():
        if description is None and _is_name_of(candidate, folder, request):
            return candidate
    return candidates[-1]


def choose_other_folder(config: EvaluateConfig, refused: Collection[Path]) -> Path | None:
    """Return another default run directory after the run in ``config.output`` turned out to be of another recipe.

    Returns None if the user chose the folder, or if it has a run of the same request, whose files have changed since.
    """
    if config.default_output is None:
        return None
    folder = choose_run_folder(config.default_output, config, refused)
    return None if folder == config.output or folder in refused else folder


def check_request(config: EvaluateConfig, folder: Path) -> None:
    """Raise DifferentRunError if another command has begun a run in the default run directory in the meantime."""
    stored = read_run(folder)[0].get("request")
    if config.default_output is not None and stored not in (None, describe_request(config)):
        raise DifferentRunError(f"{str(folder)!r} contains a run of another command", "use another --output")


def _list_candidates(folder: Path, request: Request) -> list[Path]:
    """Return the names that a run directory may have. The last two have a digest of the request and are never shared."""
    values = {"target": "auto", "precision": "fp32", "seed": 0} | request
    target = str(values["target"])
    if target.startswith(SIMILAR):
        target = f"similar-{Path(target).stem}"
    named = f"{folder.name}.{target}.{values['precision']}.seed={values['seed']}"
    digest = fingerprint(request)
    return [folder, *(folder.with_name(f"{named}{end}") for end in ("", f".{digest[:8]}", f".{digest}"))]


def _is_name_of(candidate: Path, folder: Path, request: Request) -> bool:
    """Return whether a new run may get this name. A name with target, precision and seed only is for requests without other options."""
    options = request.keys() - {"dataset", "model"}
    return candidate != _list_candidates(folder, request)[1] or (bool(options) and options <= NAMED_OPTIONS)


def _read_description(folder: Path) -> dict[str, Any] | None:
    try:
        return read_run(folder)[0]
    except InputError:
        return None


def _may_continue(description: Mapping[str, Any], config: EvaluateConfig) -> bool:
    """Return whether a run of an earlier version, which stored no request, may be of this request. Opening the run decides."""
    if "request" in description:
        return False
    expected = {"target": config.target, "seed": config.compute.seed, "precision": config.compute.precision}
    if any(description["fingerprint"].get(key) not in (value, None) for key, value in expected.items()):
        return False
    dataset = description.get("dataset")
    location = dataset.get("location") if isinstance(dataset, Mapping) else None
    if isinstance(location, str) and _is_other_folder(location, config.dataset):
        return False
    methods = description["methods"].values()
    scores = [method.get("score") for method in methods if isinstance(method, Mapping)]
    return config.score is None or config.score in scores


def _is_other_folder(first: str, second: str) -> bool:
    """Return whether both paths exist and are not the same; a folder that was moved has only one of them."""
    try:
        return not Path(first).samefile(second)
    except (OSError, ValueError):
        return False
