"""``xplain compare``: compare methods on images, or evaluation runs paired by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from xplain.cli import _options as common
from xplain.cli._completion import complete_method, complete_model
from xplain.cli._console import log, print_json, print_paths
from xplain.cli._groups import option, with_groups
from xplain.cli._options import NONE, OutputOptions
from xplain.cli._progress import show_progress
from xplain.cli._results import RESULTS
from xplain.cli._tables import print_report
from xplain.core.config import Choice, CompareConfig
from xplain.core.errors import ExitCode, Failure, UsageError, no_image_error
from xplain.core.files import printable
from xplain.core.options import EMBEDDED, ComputeOptions, ModelOptions, PixelOptions, RenderOptions
from xplain.core.sweeps import parse_choices
from xplain.core.threads import set_threads
from xplain.reports.stability_summary import StabilitySummary

METHODS, MODELS, OVERLAY = ["saliency", "ig", "neflag", "random"], [EMBEDDED], ["overlay"]
DEFAULT_FOLDER, DEFAULT_RUNS_FOLDER = Path("xplain-compare"), Path("xplain-compare-runs")
RUN_OPTIONS = ("inputs", "save", "overwrite", "output", "offline", *(field.name for field in fields(OutputOptions)))
SHOW_HELP = (
    "What to show: overlay, heatmap, masked (heatmap times input; AGI paper, Fig. 3), top10 (top 10% of pixels; DGA paper, Fig. 6) "
    "or curves (metric curves; AGI paper, Fig. 5); repeatable."
)


@with_groups
def compare(
    context: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help='Images (files, directories, glob patterns, @list.txt or -), or run directories written by "xplain evaluate".',
        ),
    ] = None,
    method: Annotated[
        list[str],
        option(
            "--method",
            "-a",
            help="Attribution method, shown as one column: NAME[:key=value,...]; repeatable; key=a|b|c (quote it) adds a column per value. "
            'See "xplain list methods".',
            autocompletion=complete_method,
        ),
    ] = METHODS,
    model: Annotated[
        list[str],
        option(
            "--model",
            "-m",
            help=f"{common.MODEL_HELP}; repeatable. The figure has one row per image and model.",
            autocompletion=complete_model,
        ),
    ] = MODELS,
    metric: common.Metrics = NONE,
    protocol: common.Protocol = None,
    no_metrics: Annotated[
        bool, option("--no-metrics", help="Skip the metrics and show only the maps and their agreement (much faster).")
    ] = False,
    target: common.Target = "auto",
    against: Annotated[
        list[str],
        option(
            "--against",
            help="Contrast classes, CLASS[,CLASS...] or runner-up; repeatable, one column per value (AGI paper, Fig. 7).",
        ),
    ] = NONE,
    show: Annotated[list[str], option("--show", help=SHOW_HELP)] = OVERLAY,
    save: Annotated[list[str], option("--save", help="Additional figure format: pdf or svg; repeatable.")] = NONE,
    render: RenderOptions = RenderOptions(),
    layer: common.Layer = None,
    layout: common.Layout = None,
    score: common.Score = None,
    stability: common.Stability = "quick",
    files_from: common.FilesFrom = None,
    null: common.Null = False,
    overwrite: Annotated[
        bool, option("--overwrite", help="Overwrite existing files that were not written by this comparison.")
    ] = False,
    fail_fast: Annotated[bool, option("--fail-fast", help="Stop at the first failure.")] = False,
    output: Annotated[
        Path | None,
        option("--output", "-o", help="Output directory; default: xplain-compare, or xplain-compare-runs for runs."),
    ] = None,
    model_options: ModelOptions = ModelOptions(),
    pixels: PixelOptions = PixelOptions(),
    compute: ComputeOptions = ComputeOptions(),
    out: OutputOptions = OutputOptions(),
) -> int:
    """Compare methods on images, or compare evaluation runs.

    For images, writes compare.png, compare.html, compare.json and agreement.png and prints their paths. For runs, which are
    paired by image, prints a table of paired differences with confidence intervals, win rates and Holm-corrected p-values.

    \b
    Examples:
      xplain compare cat.jpg -a agi -a ig -a neflag
      xplain compare cat.jpg espresso.jpg --no-metrics --show heatmap --show top10 --save pdf
      xplain compare cat.jpg -a 'agi:classes=1|5|20'
      xplain compare cat.jpg -a agi --against tabby --against lynx --no-metrics
      xplain compare cat.jpg -m resnet50 -m vgg16 -a agi
      xplain compare runs/a runs/b
    """
    formats = tuple(name for name in dict.fromkeys(save) if name != "png")
    if find_runs(inputs or ()):
        _refuse_image_options(context)
        return _compare_runs([Path(name) for name in inputs or ()], output, formats, overwrite, out.as_json)
    if not inputs and files_from is None:
        raise no_image_error()
    set_threads(compute.threads)
    config = CompareConfig(
        model_options,
        compute,
        models=tuple(dict.fromkeys(model)),
        inputs=tuple(inputs or ()),
        methods=parse_choices(method),
        output=output or DEFAULT_FOLDER,
        any_folder=output is None,
        metrics=tuple(Choice.parse(text) for text in metric),
        protocol=protocol,
        measured=not no_metrics,
        files_from=files_from,
        null=null,
        target=target,
        against=tuple(dict.fromkeys(against)),
        score=score,
        stability=stability,
        layer=layer,
        layout=layout,
        shows=tuple(dict.fromkeys(show)),
        formats=formats,
        render=render,
        overwrite=overwrite,
        fail_fast=fail_fast,
        pixels=pixels,
    )
    return _compare_images(config, out)


def find_runs(inputs: Sequence[str]) -> bool:
    """Return whether all inputs are run directories. Raise UsageError if only some of them are."""
    runs = [name for name in inputs if (Path(name) / "run.json").is_file()]
    if runs and len(runs) < len(inputs):
        other = next(name for name in inputs if name not in runs)
        raise UsageError(
            f"cannot compare the run directory {runs[0]!r} with {other!r}, which is not a run directory",
            "pass either images or run directories",
        )
    return bool(runs)


def _refuse_image_options(context: typer.Context) -> None:
    """Raise UsageError if the command line has an option that does not apply to run directories."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in RUN_OPTIONS:
            option_name = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option_name} does not apply to run directories", f"remove {option_name}")


def _compare_runs(
    folders: Sequence[Path], output: Path | None, formats: Sequence[str], overwrite: bool, as_json: bool
) -> int:
    """Compare runs, print the table or the record, and return the exit code."""
    from xplain.pipelines.compare_runs import write_run_comparison
    from xplain.reports.run_comparison import run_comparison_table

    record = write_run_comparison(folders, output or DEFAULT_RUNS_FOLDER, formats, overwrite, any_folder=output is None)
    if as_json:
        print_json(record)
    else:
        print_report(run_comparison_table(record))
    return ExitCode.PARTIAL if any(row["undefined"] for row in record["pairs"]) else ExitCode.OK


def _compare_images(config: CompareConfig, out: OutputOptions) -> int:
    """Compare methods on images and print the paths or the record; return the exit code."""
    from xplain.pipelines.compare_images import write_comparison

    def on_failure(failure: Failure) -> None:
        log.error("%s", failure.error)
        if config.fail_fast:
            raise failure.error

    with show_progress(out.show_progress, "maps", RESULTS) as on_progress:
        record = write_comparison(config, on_progress, on_failure, RESULTS)
    if record is None:
        return ExitCode.INPUT_ERROR
    stability = StabilitySummary()
    for row in record["rows"]:
        for label, cell in zip(record["columns"], row["cells"], strict=True):
            for warning in cell["warnings"] if cell else ():
                log.warning("%s: %s: %s", row["input"], label, warning)
            stability.add({**(cell or {}), "input": row["input"], "method": label})
    if text := stability.describe():
        log.warning("%s", printable(text))
    if out.as_json:
        print_json(record)
    else:
        print_paths(*record["files"])
    return ExitCode.PARTIAL if record["failed"] or _has_undefined(record) else ExitCode.OK


def _has_undefined(record: dict[str, Any]) -> bool:
    """Return whether a score of a cell is undefined."""
    cells = [cell for row in record["rows"] for cell in row["cells"] if cell]
    return any(score["value"] is None for cell in cells for score in cell["scores"].values())
