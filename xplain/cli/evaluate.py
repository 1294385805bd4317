"""``xplain evaluate``: how faithful explanations are, on a data set, with intervals."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from xplain.cli import _options as common
from xplain.cli._console import say, show_counter
from xplain.cli._options import option
from xplain.config import Choice, EvaluateConfig, parse_shard
from xplain.errors import EXIT_DONE, EXIT_INPUT, EXIT_PARTIAL, UsageError
from xplain.types import Interval, ScoreKind

NEFLAG: list[str] = ["neflag"]
NONE: list[str] = []


def evaluate(
    dataset: Annotated[
        str, typer.Argument(help="A folder of class folders, a flat folder, a text file of paths, or tar shards.")
    ],
    metric: Annotated[
        list[str], option("--metric", "-M", help="NAME[:key=value,...]; repeatable. Default: insertion, deletion.")
    ] = NONE,
    method: Annotated[list[str], option("--method", "-a", help="NAME[:key=value,...]; repeatable.")] = NEFLAG,
    protocol: Annotated[
        str | None, option("--protocol", help="A preset of metrics: xplain, rise, agi, mfaba, neflag or dga.")
    ] = None,
    target: Annotated[str, option("--target", help="auto (the model's top class) or label (the true class).")] = "auto",
    score: Annotated[
        ScoreKind | None, option("--score", help="The scalar explained; default: the method's own.")
    ] = None,
    limit: Annotated[int | None, option("--limit", help="This many images, evenly spread.", min=1)] = None,
    per_class: Annotated[int | None, option("--per-class", help="At most this many of each class.", min=1)] = None,
    labels: Annotated[str | None, option("--labels", help="CSV of file name and class, for a flat folder.")] = None,
    shard: Annotated[str | None, option("--shard", help="I/N: only every N-th image, from the I-th on.")] = None,
    fail_fast: Annotated[bool, option("--fail-fast", help="Stop at the first image that fails.")] = False,
    interval: Annotated[Interval, option("--interval", help="Bootstrap interval: percentile, or bca.")] = "percentile",
    output: Annotated[
        Path | None, option("--output", "-o", help="Run directory; default xplain-runs/<data set>.<model>.")
    ] = None,
    model: common.Model = "efficientnet-lite0",
    weights: common.Weights = None,
    classes: common.Classes = None,
    image_size: common.ImageSize = None,
    device: common.Device = "auto",
    precision: common.PrecisionOption = "fp32",
    batch_size: common.BatchSize = "auto",
    seed: common.Seed = 0,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    no_progress: common.NoProgress = False,
    config: common.Config = None,
    version: common.Version = False,
) -> int:
    """Evaluate methods by metrics on a data set. The same command again goes on where it stopped.

    Examples: xplain evaluate ./imagenet_val --metric deletion;
    xplain evaluate ./imagenet_val -a neflag -a agi -a ig --limit 1000 -o runs/a;  xplain evaluate ./val --shard 0/4
    """
    if target not in ("auto", "label"):
        raise UsageError(f"target {target!r} is not for a data set", "give auto or label")
    request = EvaluateConfig(
        common.make_compute(model, weights, classes, device, precision, batch_size, seed, image_size),
        dataset,
        tuple(Choice.parse(text) for text in method),
        tuple(Choice.parse(text) for text in metric),
        output or Path("xplain-runs") / f"{Path(dataset).resolve().name}.{model.replace(':', '-').replace('/', '-')}",
        protocol,
        target,
        score,
        limit,
        per_class,
        labels,
        parse_shard(shard) if shard else launched_shard(),
        fail_fast,
        interval,
    )
    return _run(request, as_json, not (quiet or no_progress))


def launched_shard() -> tuple[int, int]:
    """The shard of this process under torchrun: RANK of WORLD_SIZE."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _run(request: EvaluateConfig, as_json: bool, watch: bool) -> int:
    """Report failures, then the summary of all that is in the run directory; the exit code."""
    from xplain import evaluation, gallery, report, summary

    failed = 0
    with show_counter(watch) as advance:
        for failure in evaluation.evaluate(request, advance):
            failed += 1
            say(f"error: {failure.error}")
            if request.fail_fast:
                return failure.error.exit_code
    if launched_shard() == request.shard and not evaluation.wait_for_ranks(request.shard):
        return EXIT_PARTIAL if failed else EXIT_DONE  # the first rank prints
    found = summary.summarise_run(request.output, request.interval)
    gallery.write_gallery(request)
    report.write_report(request.output, found)
    print(json.dumps(found, ensure_ascii=False) if as_json else report.to_markdown(found), end="\n" if as_json else "")
    undefined = any(row["undefined"] for row in found["rows"])
    done = found["items"]["evaluated"] > 0
    return EXIT_DONE if not found["items"]["failed"] and not undefined else EXIT_PARTIAL if done else EXIT_INPUT
