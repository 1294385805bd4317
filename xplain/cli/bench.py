"""``xplain bench``: measure the speed of methods and metrics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from xplain.cli import _options as common
from xplain.cli._completion import complete_metric
from xplain.cli._console import log, print_json
from xplain.cli._groups import option, with_groups
from xplain.cli._options import NONE, OutputOptions
from xplain.cli._results import RESULTS
from xplain.cli._tables import print_report
from xplain.core.config import BenchConfig, Choice
from xplain.core.errors import ExitCode, StoppedError
from xplain.core.options import EMBEDDED, ComputeOptions, ModelOptions, PixelOptions
from xplain.core.sweeps import parse_choices
from xplain.core.threads import set_threads
from xplain.reports.published import Published, read_published

METHODS = ["saliency", "integrated-gradients", "smoothgrad", "neflag"]
MODELS = [EMBEDDED]


@with_groups
def bench(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE", help="Images to run on (default: uniform noise).")
    ] = None,
    method: common.Methods = METHODS,
    metric: Annotated[
        list[str],
        option(
            "--metric",
            "-M",
            help='Metric, NAME[:key=value,...]; repeatable. See "xplain list metrics".',
            autocompletion=complete_metric,
        ),
    ] = NONE,
    model: common.Models = MODELS,
    size: Annotated[
        int | None, option("--size", help="Alias for --image-size; takes precedence over it.", min=1)
    ] = None,
    count: Annotated[
        int,
        option(
            "--images", help="Number of images in the second measurement; the first measurement uses one image.", min=1
        ),
    ] = 8,
    repeats: Annotated[int, option("--repeats", help="Number of timed rounds after one warm-up run.", min=1)] = 5,
    peer: Annotated[
        Literal["captum"] | None,
        option(
            "--peer",
            help="Also time a reference implementation: Captum's, or a simple loop for agi, mfaba, insertion, deletion and difference.",
        ),
    ] = None,
    layer: common.Layer = None,
    layout: common.Layout = None,
    output: Annotated[
        Path | None, option("--output", "-o", help="Directory in which to save bench.json and bench.md.")
    ] = None,
    model_options: ModelOptions = ModelOptions(),
    pixels: PixelOptions = PixelOptions(),
    compute: ComputeOptions = ComputeOptions(),
    out: OutputOptions = OutputOptions(),
) -> int:
    """Measure the speed of methods and metrics.

    Reports the throughput on a single image and on several images, in images/s and in samples/s through the model. The bare
    model, without an attribution method, is timed in the same rounds. The efficiency of a method is the time that the bare
    model needs for the same number of samples divided by the time of the method. With --output, an interrupted benchmark can
    be resumed by running the same command again.

    \b
    Examples:
      xplain bench
      xplain bench -a ig -a sg --peer captum
      xplain bench -a ig -a agi -m resnet50 --weights random -o speed
      xplain bench photos -a mfaba -M insertion --images 16
    """
    set_threads(compute.threads)
    config = BenchConfig(
        replace(model_options, image_size=size or model_options.image_size),
        compute,
        models=tuple(model),
        methods=parse_choices(method),
        metrics=tuple(Choice.parse(text) for text in metric),
        inputs=tuple(images or ()),
        images=count,
        repeats=repeats,
        peer=peer is not None,
        layer=layer,
        layout=layout,
        pixels=pixels,
    )
    try:
        return _run(config, read_published(out.config), output, out)
    except KeyboardInterrupt:
        if output is not None:
            raise
        raise StoppedError(
            "interrupted before any results were saved", "use --output to make the benchmark resumable"
        ) from None


def _run(config: BenchConfig, published: Published | None, output: Path | None, out: OutputOptions) -> int:
    """Print each record as soon as it is measured, or the tables at the end."""
    from xplain.pipelines import benchmark as pipeline
    from xplain.reports.benchmark_report import benchmark_table
    from xplain.reports.published_speeds import PublishedSpeeds, add_published_speeds

    speeds = None if published is None else PublishedSpeeds.of(published, config.model, config.images)
    records: list[dict[str, Any]] = []
    is_read = True
    for group in pipeline.bench(config, output, speeds, RESULTS):
        if not is_read:
            raise KeyboardInterrupt  # the reader closed stdout early
        for record in group:
            is_read = _print_record(record if speeds is None else speeds.annotate(record), out) and is_read
        records += group
    shown = add_published_speeds(records, speeds)
    if not out.as_json:
        print_report(benchmark_table(shown))
    elif speeds is not None:
        print_json(shown[-1])
    return ExitCode.OK


def _print_record(record: dict[str, Any], out: OutputOptions) -> bool:
    """Print the record or log the measurement. Return False if stdout was closed."""
    if out.show_progress and record["kind"] == "run":
        log.info(
            "measured %s on %s (images: %d, implementation: %s)",
            record["label"],
            record["model"],
            record["images"],
            record["program"],
        )
    return print_json(record) if out.as_json else True
