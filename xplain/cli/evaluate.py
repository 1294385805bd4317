"""``xplain evaluate``: how faithful explanations are, on a data set, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from xplain.cli import _options as common
from xplain.cli._console import put, say, show_counter
from xplain.cli._groups import option, with_groups
from xplain.cli._options import Loading, Running, Talking
from xplain.core.config import Choice, EvaluateConfig, parse_shard
from xplain.core.errors import EXIT_DONE, EXIT_INPUT, EXIT_PARTIAL, Failure, UsageError
from xplain.core.files import held, to_json
from xplain.core.types import Interval
from xplain.pipelines.distributed import launched_shard, wait_for_ranks
from xplain.reports.published import Published, find_figures, put_beside, read_published

NEFLAG = ["neflag"]
MODELS = [common.EMBEDDED]
NONE: list[str] = []


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
    limit: Annotated[int | None, option("--limit", help="This many images, evenly spread.", min=1)] = None,
    per_class: Annotated[int | None, option("--per-class", help="At most this many of each class.", min=1)] = None,
    labels: Annotated[str | None, option("--labels", help="CSV of file name and class, for a flat folder.")] = None,
    shard: Annotated[str | None, option("--shard", help="I/N: only every N-th image, from the I-th on.")] = None,
    fail_fast: Annotated[bool, option("--fail-fast", help="Stop at the first image that fails.")] = False,
    save_maps: Annotated[bool, option("--save-maps", help="Keep the raw attributions, as NPZ in RUN/maps.")] = False,
    save_curves: Annotated[bool, option("--save-curves", help="Keep whole curves, as NPZ in RUN/curves.")] = False,
    interval: Annotated[Interval, option("--interval", help="Bootstrap interval: percentile, or bca.")] = "percentile",
    output: Annotated[
        Path | None,
        option(
            "--output",
            "-o",
            help="Run directory (of several models: the folder of theirs); default xplain-runs/<data set>.<model>.",
        ),
    ] = None,
    model: common.Models = MODELS,
    loading: Loading = Loading(),
    running: Running = Running(),
    talking: Talking = Talking(),
) -> int:
    """Evaluate methods by metrics on a data set. The same command again goes on where it stopped.

    Writes RUN/items/*.jsonl image by image, then summary.json, .csv, .md and report.html; prints the table: means
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
        raise UsageError(f"target {target!r} is not for a data set", "give auto or label")
    request = EvaluateConfig(
        loading.compute(model[0], running),
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
        shard=parse_shard(shard) if shard else launched_shard(),
        fail_fast=fail_fast,
        interval=interval,
        save_maps=save_maps,
        save_curves=save_curves,
    )
    published = read_published(talking.config)
    requests = _for_each_model(request, model, output, published)
    return _run(requests, published, talking)


def _for_each_model(
    request: EvaluateConfig, models: Sequence[str], output: Path | None, published: Published | None
) -> list[EvaluateConfig]:
    """The request for each model, each with a run directory of its own. Raises UsageError for one that is named twice."""
    if repeated := next((name for name in models if models.count(name) > 1), None):
        raise UsageError(f"model {repeated!r} is asked for twice", "name it once")
    from xplain.pipelines.roar import own_networks

    data = Path(request.dataset).resolve().name
    if request.dataset.startswith("torchvision:"):
        data = request.dataset.split(":")[1]
    folders = [name.replace(":", "-").replace("/", "-") for name in models]
    if (metric := own_networks(request)) is not None:
        folders = [metric] * len(models)
    if output is None:
        table = f".{published.name}" if published else ""
        places = [Path("xplain-runs") / f"{data}.{folder}{table}" for folder in folders]
    else:
        places = [output / folder for folder in folders] if len(models) > 1 else [output]
    return [
        replace(request, compute=replace(request.compute, model=name), output=place)
        for name, place in zip(models, places, strict=True)
    ]


def _run(requests: Sequence[EvaluateConfig], published: Published | None, talking: Talking) -> int:
    """Each request in turn, reported when it is done; the worst exit code. Under torchrun the first process reports, at the end."""
    from xplain.pipelines import evaluate as evaluation
    from xplain.pipelines import roar as trials

    if published:
        find_figures(published)  # so that a name that is wrong is known before hours of work
    trials.check_requests(requests)
    if len(requests) > 1:
        evaluation.check_models(requests)
    shard = requests[0].shard
    together = shard == launched_shard() and shard[1] > 1
    failed, codes = 0, list[int]()
    for request in requests:
        failed += _evaluate(request, talking.watch)
        if not together:
            codes.append(_report(request, published, talking.as_json, first=not codes))
    if together:
        if not wait_for_ranks(shard):
            return EXIT_PARTIAL if failed else EXIT_DONE
        codes = [_report(request, published, talking.as_json, first=request is requests[0]) for request in requests]
    return max(codes, key=(EXIT_DONE, EXIT_PARTIAL, EXIT_INPUT).index)


def _evaluate(request: EvaluateConfig, watch: bool) -> int:
    """Do what is missing of a run; how many images failed. Raises the first failure if the request says so."""
    failed = 0
    for failure in _failures(request, watch):
        if request.fail_fast:
            raise failure.error
        failed += 1
        say(f"error: {failure.error}")
    return failed


def _failures(request: EvaluateConfig, watch: bool) -> Iterator[Failure]:
    """Do what is missing: first what looks at single images, then what trains networks on all of them."""
    from xplain.pipelines import evaluate as evaluation
    from xplain.pipelines import roar as trials

    with show_counter(watch) as advance:
        yield from evaluation.evaluate(request, advance)
    with show_counter(watch, "epochs") as advance:
        yield from trials.run_trials(request, advance)


def _report(request: EvaluateConfig, published: Published | None, as_json: bool, first: bool) -> int:
    """Write and print the summary of all that is in the run directory; the exit code."""
    from xplain.pipelines import examples as gallery
    from xplain.pipelines.plans import CONTROL
    from xplain.reports import summary
    from xplain.reports import tables as report

    with held(request.output, wait=True):  # shards that end at once
        found = summary.summarise_run(request.output, request.interval)
        if published:
            found = put_beside(found, published)
        gallery.write_gallery(request)
        report.write_report(request.output, found)
    for text in found["warnings"]:
        say(f"warning: {text}")
    if as_json:
        put(to_json(found))
    else:
        put(("" if first else "\n") + report.to_markdown(found).removesuffix("\n"))
    unasked = {CONTROL} - {choice.name for choice in request.methods}
    undefined = any(row["undefined"] for row in found["rows"] if row["method"] not in unasked)
    done = found["items"]["evaluated"] > 0 or any(row["n"] for row in found["rows"])
    return EXIT_DONE if not found["items"]["failed"] and not undefined else EXIT_PARTIAL if done else EXIT_INPUT
