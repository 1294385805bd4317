"""``xplain evaluate``: evaluate attribution methods on a dataset."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xplain.cli import _options as common
from xplain.cli._console import log, print_json
from xplain.cli._groups import option, with_groups
from xplain.cli._options import NONE, OutputOptions
from xplain.cli._progress import show_progress
from xplain.cli._results import RESULTS
from xplain.cli._tables import print_report
from xplain.core.config import SIMILAR, Choice, EvaluateConfig, MapFolder, PerClassOrder
from xplain.core.errors import ExitCode, Failure, UsageError
from xplain.core.files import lock_directory
from xplain.core.option_values import parse_shard
from xplain.core.options import EMBEDDED, ComputeOptions, ModelOptions, PixelOptions
from xplain.core.run_store import DifferentRunError
from xplain.core.sweeps import parse_choices
from xplain.core.threads import set_threads
from xplain.core.types import Interval
from xplain.data.output_checks import check_run_directory
from xplain.pipelines.distributed import shard_from_env, wait_for_ranks
from xplain.reports.published import Published, read_published, resolve_values

if TYPE_CHECKING:
    from xplain.pipelines.evaluation_plan import EvaluationPlan

KNOWN = "known:"  # before the name of a planted mechanism
NEFLAG, MODELS = ["neflag"], [EMBEDDED]
SEVERITY = (ExitCode.OK, ExitCode.PARTIAL, ExitCode.INPUT_ERROR)  # exit codes, from best to worst


@with_groups
def evaluate(
    context: typer.Context,
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="Directory with one folder per class, flat directory of images, text file of paths, tar shards, "
            "torchvision:NAME:ROOT, or known:NAME or known:all: networks with a planted mechanism (see xplain list known).",
        ),
    ],
    metric: common.Metrics = NONE,
    method: common.Methods = NEFLAG,
    maps: Annotated[
        list[str],
        option("--maps", help="NAME=DIR: evaluate maps of another program (.npy, .npz), named by image; repeatable."),
    ] = NONE,
    protocol: common.Protocol = None,
    target: Annotated[
        str,
        option(
            "--target",
            help="Class to explain: auto (predicted class), label (true class) or similar:IMAGE, as in explain.",
        ),
    ] = "auto",
    layer: common.Layer = None,
    layout: common.Layout = None,
    score: common.Score = None,
    limit: Annotated[
        int | None, option("--limit", help="Maximum number of images, selected evenly across the dataset.", min=1)
    ] = None,
    per_class: Annotated[int | None, option("--per-class", help="Maximum number of images per class.", min=1)] = None,
    per_class_order: Annotated[
        PerClassOrder | None,
        option(
            "--per-class-order",
            help="Images that --per-class selects: random (depends on --seed) or first (default: random).",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        option(
            "--labels",
            help="Table of file names and classes, for a directory of images; several labels of an image are joined by semicolons.",
        ),
    ] = None,
    shard: Annotated[
        str | None, option("--shard", help="Process shard I of N, written I/N, with I counted from 0.")
    ] = None,
    fail_fast: Annotated[bool, option("--fail-fast", help="Stop at the first failure.")] = False,
    save_maps: Annotated[
        bool, option("--save-maps", help="Save the raw attributions as NPZ files in RUN/maps.")
    ] = False,
    save_curves: Annotated[
        bool, option("--save-curves", help="Save the full curves as NPZ files in RUN/curves.")
    ] = False,
    interval: Annotated[
        Interval, option("--interval", help="Bootstrap confidence interval: percentile or bca.")
    ] = "percentile",
    output: Annotated[
        Path | None,
        option(
            "--output",
            "-o",
            help="Run directory RUN. With several models, the parent of their run directories "
            "(default: xplain-runs/DATASET.MODEL, or a directory next to it if that has a run with other settings).",
        ),
    ] = None,
    model: common.Models = MODELS,
    model_options: ModelOptions = ModelOptions(),
    pixels: PixelOptions = PixelOptions(),
    compute: ComputeOptions = ComputeOptions(),
    out: OutputOptions = OutputOptions(),
) -> int:
    """Evaluate attribution methods on a dataset.

    Writes the results of each image to RUN/items/*.jsonl, and then summary.json, summary.csv, summary.md,
    report.html and, for labeled images, groups.md and classes.csv. Prints a table of mean scores with 95% bootstrap confidence intervals
    and paired differences from the first method. A random control is included. To resume an interrupted run, run the same
    command again.

    known:NAME plants a network whose relevant pixels are known: it scores methods by this truth (without --method, all that fit) and
    grades how often metrics give better maps better values (without --metric, nine of them), on --limit images per mechanism (default: 8).

    \b
    Examples:
      xplain evaluate photos --metric deletion
      xplain evaluate photos -a neflag -a agi -a ig --limit 1000 -o runs/a
      xplain evaluate photos -a agi --protocol agi
      xplain evaluate photos -M road -M sensitivity-n:masks=50 -a ig --target label
      xplain evaluate photos --shard 0/4 -o runs/b
      xplain evaluate photos -m resnet50 -m vgg16 -a agi
      xplain evaluate photos -a ig --maps captum=maps/captum
      xplain evaluate known:or -a ig -a occlusion -M deletion
    """
    if target not in ("auto", "label") and not target.startswith(SIMILAR):
        raise UsageError(f"evaluate does not support target {target!r}", "use auto, label or similar:IMAGE")
    if per_class_order is not None and per_class is None:
        raise UsageError("--per-class-order requires --per-class", "add --per-class N")
    is_known = dataset.startswith(KNOWN)
    if is_known and _is_default(context, "method"):
        method = []  # all
    set_threads(compute.threads)
    config = EvaluateConfig(
        replace(model_options, name=model[0]),
        compute,
        dataset=dataset,
        methods=parse_choices(method),
        metrics=tuple(Choice.parse(text) for text in metric),
        output=output or Path(),
        protocol=protocol,
        target=target,
        score=score,
        layer=layer,
        layout=layout,
        limit=limit,
        per_class=per_class,
        per_class_order=per_class_order,
        labels=labels,
        shard=parse_shard(shard) if shard else shard_from_env(),
        fail_fast=fail_fast,
        interval=interval,
        save_maps=save_maps,
        save_curves=save_curves,
        maps=tuple(MapFolder.parse(text) for text in maps),
        pixels=pixels,
    )
    published = read_published(out.config)
    if is_known:
        from xplain.cli._known_truth import evaluate_known_truth

        return evaluate_known_truth(config, output, out)
    configs = _for_each_model(config, model, output, published)
    return _run(configs, published, out)


def _is_default(context: typer.Context, name: str) -> bool:
    """Return whether the user did not set an option, neither on the command line nor in the environment or a configuration file."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT"


def _for_each_model(
    config: EvaluateConfig, models: Sequence[str], output: Path | None, published: Published | None
) -> list[EvaluateConfig]:
    """Return one configuration per model, each with its own run directory. Raises UsageError for a repeated model."""
    repeated = next((name for name in models if models.count(name) > 1), None)
    if repeated is not None:
        raise UsageError(f"model {repeated!r} is specified more than once", "pass each model once")
    folders = _run_directories(config, models, output, published)
    configs = [
        replace(config, model=replace(config.model, name=name), output=folder)
        for name, folder in zip(models, folders, strict=True)
    ]
    return configs if output is not None else [_choose_folder(config) for config in configs]


def _run_directories(
    config: EvaluateConfig, models: Sequence[str], output: Path | None, published: Published | None
) -> list[Path]:
    """Return the run directory of each model. The default is xplain-runs/<dataset>.<model>[.<table>], or one next to it."""
    from xplain.pipelines.roar import trains_own_networks

    names = [name.replace(":", "-").replace("/", "-") for name in models]
    own = trains_own_networks(config)
    if own is not None:
        names = [own] * len(models)
    if output is not None:
        return [output / name for name in names] if len(models) > 1 else [output]
    data = Path(config.dataset).resolve().name
    if config.dataset.startswith("torchvision:"):
        data = config.dataset.split(":")[1]
    table = f".{published.name}" if published else ""
    return [Path("xplain-runs") / f"{data}.{name}{table}" for name in names]


def _choose_folder(config: EvaluateConfig) -> EvaluateConfig:
    """Return the configuration with a run directory that has no run of another recipe, instead of the default one."""
    from xplain.pipelines.run_folders import choose_run_folder

    return replace(config, output=choose_run_folder(config.output, config), default_output=config.output)


def _run(configs: Sequence[EvaluateConfig], published: Published | None, out: OutputOptions) -> int:
    """Evaluate and report each model and return the worst exit code.

    With torchrun, rank 0 writes the reports after all ranks have finished.
    """
    from xplain.pipelines import roar
    from xplain.pipelines.evaluation_plan import check_models
    from xplain.pipelines.external_maps import check_map_requests

    if published:
        resolve_values(published)  # fail early on unknown names
    check_map_requests(configs)
    roar.check_requests(configs)
    for config in configs:
        check_run_directory(config.dataset, config.output)
    if len(configs) > 1:
        check_models(configs)
    shard = configs[0].shard
    is_rank = shard == shard_from_env() and shard[1] > 1
    evaluated, codes = list[tuple[EvaluateConfig, Covered]](), list[ExitCode]()
    for config in configs:
        used, covered = _evaluate_in_folder(config, out)
        if is_rank:
            evaluated.append((used, replace(covered, plan=None)))  # do not keep all models in memory
        else:
            codes.append(_report(used, covered, published, out, first=not codes))
    if is_rank:
        if not wait_for_ranks(shard):
            return ExitCode.PARTIAL if any(covered.failed for _, covered in evaluated) else ExitCode.OK
        for used, covered in evaluated:
            codes.append(_report(used, covered, published, out, first=not codes))
    return max(codes, key=SEVERITY.index)


@dataclass
class Covered:
    """The images that a command evaluates.

    selected: keys of the images of all shards, or None for all images of the run. plan: what the command computes, or None if no metric
    evaluates single images. failed: keys of the images that failed in this process.
    """

    selected: frozenset[str] | None
    plan: EvaluationPlan | None = None
    failed: list[str] = field(default_factory=list)

    @property
    def keys(self) -> frozenset[str] | None:
        """The keys of the images that the summary covers."""
        return None if self.selected is None else self.selected.union(self.failed)


def _evaluate_in_folder(config: EvaluateConfig, out: OutputOptions) -> tuple[EvaluateConfig, Covered]:
    """Evaluate as ``_evaluate`` does; use another default run directory if the run in it turns out to be of another recipe.

    Returns the configuration with the directory that was used.
    """
    from xplain.pipelines.run_folders import choose_other_folder

    refused: list[Path] = []
    while True:
        try:
            return config, _evaluate(config, out)
        except DifferentRunError:
            refused.append(config.output)
            folder = choose_other_folder(config, refused)
            if folder is None:
                raise
        config = replace(config, output=folder)
        check_run_directory(config.dataset, config.output)


def _evaluate(config: EvaluateConfig, out: OutputOptions) -> Covered:
    """Compute the missing results of a run and log the failed images. With --fail-fast, raise the first failure."""
    from xplain.pipelines.evaluation_plan import load_plan

    plan = load_plan(config)
    covered = Covered(None if plan is None else frozenset(item.key for item in plan.items), plan)
    for failure in _failures(config, plan, out):
        if config.fail_fast:
            raise failure.error
        covered.failed.append(failure.name)
        log.error("%s", failure.error)
    return covered


def _failures(config: EvaluateConfig, plan: EvaluationPlan | None, out: OutputOptions) -> Iterator[Failure]:
    """Compute per-image metrics and then metrics that train networks on the whole dataset. Yield the failed images."""
    from xplain.pipelines import roar
    from xplain.pipelines.evaluate import run_plan

    if plan is not None:
        with show_progress(out.show_progress, "images") as on_progress:
            RESULTS.start_part()
            yield from run_plan(plan, on_progress, RESULTS)
    with show_progress(out.show_progress, "epochs") as on_progress:
        yield from roar.run_trials(config, on_progress)


def _report(
    config: EvaluateConfig, covered: Covered, published: Published | None, out: OutputOptions, first: bool
) -> ExitCode:
    """Write and print the summary of a run directory; return the exit code."""
    from xplain.pipelines.examples import write_examples
    from xplain.reports.evaluation_report import evaluation_table, terminal_table, write_report
    from xplain.reports.published_summary import summarize_with_published
    from xplain.reports.summary import summarize_run

    with lock_directory(config.output, wait=True):  # shards may finish at the same time
        if published:
            summary = summarize_with_published(config.output, published, config.interval, covered.keys)
        else:
            summary = summarize_run(config.output, config.interval, covered.keys)
        with show_progress(out.show_progress, "overlays") as on_progress:
            write_examples(config, covered.keys, plan=covered.plan, on_progress=on_progress)
        write_report(config.output, summary)
    for text in summary["warnings"]:
        log.warning("%s", text)
    if out.as_json:
        print_json(summary)
    else:
        table = terminal_table(summary) if sys.stdout.isatty() else evaluation_table(summary)
        print_report(("" if first else "\n") + table)
    log.info("the report is %s, the run directory %s", config.output / "report.html", config.output)
    return _exit_code(config, summary)


def _exit_code(config: EvaluateConfig, summary: dict[str, Any]) -> ExitCode:
    """Return the exit code of a run.

    OK: no image failed, and no value is undefined or excludes images, except for values of a control that was not requested.
    PARTIAL: something was evaluated. INPUT_ERROR: nothing was evaluated.
    """
    from xplain.reports.control import CONTROL

    unrequested = {CONTROL} - {choice.name for choice in config.methods}
    rows = [row for row in summary["rows"] if row["method"] not in unrequested]
    has_undefined = any(row["undefined"] or "undefined_images" in row for row in rows)
    if not summary["items"]["failed"] and not has_undefined:
        return ExitCode.OK
    if summary["items"]["evaluated"] > 0 or any(row["n"] for row in summary["rows"]):
        return ExitCode.PARTIAL
    return ExitCode.INPUT_ERROR
