"""``xplain evaluate``: how faithful explanations are, on a data set, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from xplain.cli import _options as common
from xplain.cli._console import log, print_json, print_lines
from xplain.cli._groups import option, with_groups
from xplain.cli._options import NONE, OutputOptions
from xplain.cli._progress import show_progress
from xplain.core.config import EMBEDDED, Choice, ComputeOptions, EvaluateConfig, ModelOptions, parse_shard
from xplain.core.errors import ExitCode, Failure, InputError, UsageError
from xplain.core.files import lock_directory
from xplain.core.run_store import read_run
from xplain.core.types import Interval
from xplain.pipelines.distributed import shard_from_env, wait_for_ranks
from xplain.reports.published import Published, add_published, read_published, resolve_values

NEFLAG, MODELS = ["neflag"], [EMBEDDED]
SEVERITY = (ExitCode.OK, ExitCode.PARTIAL, ExitCode.INPUT_ERROR)  # of exit codes, the worst last


@with_groups
def evaluate(
    dataset: Annotated[
        str,
        typer.Argument(
            help="A folder of class folders, a flat folder, a text file of paths, tar shards, or torchvision:NAME:ROOT."
        ),
    ],
    metric: common.Metrics = NONE,
    method: common.Methods = NEFLAG,
    protocol: common.Protocol = None,
    target: Annotated[str, option("--target", help="auto (the model's top class) or label (the true class).")] = "auto",
    score: common.Score = None,
    limit: Annotated[int | None, option("--limit", help="Number of images, evenly spread.", min=1)] = None,
    per_class: Annotated[int | None, option("--per-class", help="Maximum number of images per class.", min=1)] = None,
    labels: Annotated[str | None, option("--labels", help="CSV of file name and class, for a flat folder.")] = None,
    shard: Annotated[str | None, option("--shard", help="Process shard I of N, I/N, counted from 0.")] = None,
    fail_fast: Annotated[bool, option("--fail-fast", help="Stop at the first image that fails.")] = False,
    save_maps: Annotated[bool, option("--save-maps", help="Save the raw attributions as NPZ in RUN/maps.")] = False,
    save_curves: Annotated[bool, option("--save-curves", help="Save full curves as NPZ in RUN/curves.")] = False,
    interval: Annotated[Interval, option("--interval", help="Bootstrap interval: percentile or bca.")] = "percentile",
    output: Annotated[
        Path | None,
        option(
            "--output",
            "-o",
            help="Run directory, or with several models the parent of theirs; default: xplain-runs/<data set>.<model>.",
        ),
    ] = None,
    model: common.Models = MODELS,
    model_options: ModelOptions = ModelOptions(),
    compute: ComputeOptions = ComputeOptions(),
    out: OutputOptions = OutputOptions(),
) -> int:
    """Evaluate methods by metrics on a data set. Run the same command again to resume.

    Writes RUN/items/*.jsonl image by image, then summary.json, .csv, .md and report.html. Prints the table: means
    with 95 % bootstrap intervals, a random control, and paired differences to the first method.

    \b
    Examples:
      xplain evaluate photos --metric deletion
      xplain evaluate photos -a neflag -a agi -a ig --limit 1000 -o runs/a
      xplain evaluate photos -a agi --protocol agi
      xplain evaluate photos -M road -M sensitivity-n:masks=50 -a ig --target label
      xplain evaluate photos --shard 0/4 -o runs/b
      xplain evaluate photos -m resnet50 -m vgg16 -a agi
    """
    if target not in ("auto", "label"):
        raise UsageError(f"target {target!r} is not supported for data sets", "use auto or label")
    config = EvaluateConfig(
        replace(model_options, name=model[0]),
        compute,
        dataset=dataset,
        methods=tuple(Choice.parse(text) for text in method),
        metrics=tuple(Choice.parse(text) for text in metric),
        output=output or Path(),
        protocol=protocol,
        target=target,
        score=score,
        limit=limit,
        per_class=per_class,
        labels=labels,
        shard=parse_shard(shard) if shard else shard_from_env(),
        fail_fast=fail_fast,
        interval=interval,
        save_maps=save_maps,
        save_curves=save_curves,
    )
    published = read_published(out.config)
    configs = _for_each_model(config, model, output, published)
    return _run(configs, published, out)


def _for_each_model(
    config: EvaluateConfig, models: Sequence[str], output: Path | None, published: Published | None
) -> list[EvaluateConfig]:
    """Return one configuration per model, each with its own run directory. Raises UsageError for a repeated model."""
    repeated = next((name for name in models if models.count(name) > 1), None)
    if repeated is not None:
        raise UsageError(f"model {repeated!r} is repeated", "pass each model once")
    folders = _run_directories(config, models, output, published)
    return [
        replace(config, model=replace(config.model, name=name), output=folder)
        for name, folder in zip(models, folders, strict=True)
    ]


def _run_directories(
    config: EvaluateConfig, models: Sequence[str], output: Path | None, published: Published | None
) -> list[Path]:
    """Return the run directory of each model; without --output xplain-runs/<data set>.<model>[.<table>]."""
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
    folders = [Path("xplain-runs") / f"{data}.{name}{table}" for name in names]
    return [_choose_folder(folder, config) for folder in folders]


def _choose_folder(folder: Path, config: EvaluateConfig) -> Path:
    """Return the default run directory, or one beside it that names the settings if it has a run with others."""
    expected = {"target": config.target, "seed": config.compute.seed, "precision": config.compute.precision}
    try:
        existing = read_run(folder)[0]["fingerprint"]
    except InputError:
        return folder
    if all(existing.get(key) in (value, None) for key, value in expected.items()):
        return folder
    return folder.with_name(f"{folder.name}.{config.target}.{config.compute.precision}.seed={config.compute.seed}")


def _run(configs: Sequence[EvaluateConfig], published: Published | None, out: OutputOptions) -> int:
    """Evaluate and report each model; return the worst exit code. Under torchrun rank 0 reports when all ranks are done."""
    from xplain.pipelines import evaluate as pipeline
    from xplain.pipelines import roar

    if published:
        resolve_values(published)  # reports an unknown name before hours of work
    roar.check_requests(configs)
    if len(configs) > 1:
        pipeline.check_models(configs)
    shard = configs[0].shard
    is_rank = shard == shard_from_env() and shard[1] > 1
    failed, codes = 0, list[ExitCode]()
    for config in configs:
        failed += _evaluate(config, out)
        if not is_rank:
            codes.append(_report(config, published, out.as_json, first=not codes))
    if is_rank:
        if not wait_for_ranks(shard):
            return ExitCode.PARTIAL if failed else ExitCode.OK
        for config in configs:
            codes.append(_report(config, published, out.as_json, first=not codes))
    return max(codes, key=SEVERITY.index)


def _evaluate(config: EvaluateConfig, out: OutputOptions) -> int:
    """Compute what a run is missing; return the number of failed images. Raises the first failure with --fail-fast."""
    failed = 0
    for failure in _failures(config, out):
        if config.fail_fast:
            raise failure.error
        failed += 1
        log.error("%s", failure.error)
    return failed


def _failures(config: EvaluateConfig, out: OutputOptions) -> Iterator[Failure]:
    """Compute metrics of single images, then metrics that train networks on the whole data set; yield failed images."""
    from xplain.pipelines import evaluate as pipeline
    from xplain.pipelines import roar

    with show_progress(out.show_progress, "images") as on_progress:
        yield from pipeline.evaluate(config, on_progress)
    with show_progress(out.show_progress, "epochs") as on_progress:
        yield from roar.run_trials(config, on_progress)


def _report(config: EvaluateConfig, published: Published | None, as_json: bool, first: bool) -> ExitCode:
    """Write and print the summary of a run directory; return the exit code."""
    from xplain.pipelines.examples import write_examples
    from xplain.reports.evaluation_report import evaluation_table, write_report
    from xplain.reports.summary import summarize_run

    with lock_directory(config.output, wait=True):  # shards may end at the same time
        summary = summarize_run(config.output, config.interval)
        if published:
            summary = add_published(summary, published)
        write_examples(config)
        write_report(config.output, summary)
    for text in summary["warnings"]:
        log.warning("%s", text)
    if as_json:
        print_json(summary)
    else:
        print_lines(("" if first else "\n") + evaluation_table(summary).removesuffix("\n"))
    log.info("the report is %s, the run directory %s", config.output / "report.html", config.output)
    return _exit_code(config, summary)


def _exit_code(config: EvaluateConfig, summary: dict[str, Any]) -> ExitCode:
    """Return OK if nothing failed or is undefined (except for the unrequested control), PARTIAL if something was evaluated."""
    from xplain.pipelines.attribution import CONTROL

    unrequested = {CONTROL} - {choice.name for choice in config.methods}
    rows = [row for row in summary["rows"] if row["method"] not in unrequested]
    if not summary["items"]["failed"] and not any(row["undefined"] for row in rows):
        return ExitCode.OK
    if summary["items"]["evaluated"] > 0 or any(row["n"] for row in summary["rows"]):
        return ExitCode.PARTIAL
    return ExitCode.INPUT_ERROR
