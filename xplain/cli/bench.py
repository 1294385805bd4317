"""``xplain bench``: measure the speed of methods and metrics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from xplain.cli import _options as common
from xplain.cli._completion import complete_metric
from xplain.cli._console import log, print_json, print_lines
from xplain.cli._groups import option, with_groups
from xplain.cli._options import NONE, OutputOptions
from xplain.core.config import EMBEDDED, BenchConfig, Choice, ComputeOptions, ModelOptions
from xplain.core.errors import ExitCode, StoppedError

METHODS = ["saliency", "integrated-gradients", "smoothgrad", "neflag"]
MODELS = [EMBEDDED]


@with_groups
def bench(
    images: Annotated[list[str] | None, typer.Argument(help="Images to run on; default: uniform noise.")] = None,
    method: common.Methods = METHODS,
    metric: Annotated[
        list[str], option("--metric", "-M", help="NAME[:key=value,...]; repeatable.", autocompletion=complete_metric)
    ] = NONE,
    model: common.Models = MODELS,
    size: Annotated[int | None, option("--size", help="Alias of --image-size; takes precedence.", min=1)] = None,
    count: Annotated[int, option("--images", help="Number of images to measure, in addition to one.", min=1)] = 8,
    repeats: Annotated[int, option("--repeats", help="Timed rounds, after one warm-up run.", min=1)] = 5,
    peer: Annotated[
        Literal["captum"] | None,
        option(
            "--peer",
            help="Also time captum's version, or a plain loop for agi, mfaba, insertion, deletion and difference.",
        ),
    ] = None,
    output: Annotated[Path | None, option("--output", "-o", help="Directory for bench.json and bench.md.")] = None,
    model_options: ModelOptions = ModelOptions(),
    compute: ComputeOptions = ComputeOptions(),
    out: OutputOptions = OutputOptions(),
) -> int:
    """Measure images/s and rows/s of methods and metrics, on one image and on many.

    The ceiling is the model without a method, timed in the same rounds. The share of the ceiling is the time that the plain model takes
    for the same rows, divided by the time of the method. With --output, run the same command again to resume.

    \b
    Examples:
      xplain bench
      xplain bench -a ig -a sg --peer captum
      xplain bench -a ig -a agi -m resnet50 --weights random -o speed
      xplain bench photos -a mfaba -M insertion --images 16
    """
    config = BenchConfig(
        replace(model_options, image_size=size or model_options.image_size),
        compute,
        models=tuple(model),
        methods=tuple(Choice.parse(text) for text in method),
        metrics=tuple(Choice.parse(text) for text in metric),
        inputs=tuple(images or ()),
        images=count,
        repeats=repeats,
        peer=peer is not None,
    )
    try:
        return _run(config, output, out)
    except KeyboardInterrupt:
        if output is not None:
            raise
        raise StoppedError("interrupted, and no results were saved", "use --output to make bench resumable") from None


def _run(config: BenchConfig, output: Path | None, out: OutputOptions) -> int:
    """Print the records as they are measured, or the tables at the end."""
    from xplain.pipelines import benchmark as pipeline
    from xplain.reports.benchmark_report import benchmark_table

    records: list[dict[str, Any]] = []
    is_read = True
    for group in pipeline.bench(config, output):
        if not is_read:
            raise KeyboardInterrupt  # the reader of stdout has left before the end
        for record in group:
            is_read = _print_record(record, out) and is_read
        records += group
    if not out.as_json:
        print_lines(benchmark_table(records).removesuffix("\n"))
    return ExitCode.OK


def _print_record(record: dict[str, Any], out: OutputOptions) -> bool:
    """Print the record, or what was measured. Returns False if the reader of stdout has left."""
    if out.show_progress and record["kind"] == "run":
        log.info(
            "measured %s on %s (images: %d, program: %s)",
            record["label"],
            record["model"],
            record["images"],
            record["program"],
        )
    return print_json(record) if out.as_json else True
