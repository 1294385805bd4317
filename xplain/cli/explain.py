"""``xplain explain``: generate explanations for images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xplain.cli import _options as common
from xplain.cli._console import log, print_json, print_paths, write_bytes
from xplain.cli._groups import option, with_groups
from xplain.cli._options import OutputOptions
from xplain.cli._progress import show_progress
from xplain.cli._results import RESULTS
from xplain.core.config import ExplainConfig
from xplain.core.errors import ExitCode, Failure, UsageError, no_image_error
from xplain.core.files import printable
from xplain.core.options import EMBEDDED, ComputeOptions, ModelOptions, PictureOptions, PixelOptions, RenderOptions
from xplain.core.sweeps import parse_choices
from xplain.core.threads import set_threads
from xplain.reports.class_texts import class_name, format_certainty
from xplain.reports.stability_summary import StabilitySummary

if TYPE_CHECKING:
    from xplain.pipelines.explain import Explained

NEFLAG, OVERLAY = ["neflag"], ["overlay"]


@with_groups
def explain(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Image files, directories, glob patterns, @list.txt (a file of paths), or - to read one image from stdin.",
        ),
    ] = None,
    method: common.Methods = NEFLAG,
    target: common.Target = "auto",
    against: Annotated[
        str | None,
        option(
            "--against",
            help="Contrast classes, CLASS[,CLASS...] or runner-up: explain the target relative to these classes.",
        ),
    ] = None,
    save: Annotated[
        list[str],
        option(
            "--save",
            help="Output to save: overlay, heatmap, masked, figure, raw, stability (the pixels that stay, outlined) or steps "
            "(distilled inputs of dga, PNG and NPZ); repeatable.",
        ),
    ] = OVERLAY,
    render: RenderOptions = RenderOptions(),
    picture: PictureOptions = PictureOptions(),
    layer: common.Layer = None,
    layout: common.Layout = None,
    score: common.Score = None,
    stability: common.Stability = "quick",
    files_from: common.FilesFrom = None,
    null: common.Null = False,
    overwrite: Annotated[
        bool, option("--overwrite", help="Overwrite existing files that were written with different settings.")
    ] = False,
    fail_fast: Annotated[bool, option("--fail-fast", help="Stop at the first failure.")] = False,
    output: Annotated[
        Path, option("--output", "-o", help="Output directory, or - to write a single PNG to stdout.")
    ] = Path("xplain-out"),
    model: common.Model = EMBEDDED,
    model_options: ModelOptions = ModelOptions(),
    pixels: PixelOptions = PixelOptions(),
    compute: ComputeOptions = ComputeOptions(),
    out: OutputOptions = OutputOptions(),
) -> int:
    """Explain why a model predicts a class for an image.

    Writes visualizations or raw attributions to OUTPUT/<stem>.<method>[.<target>].<kind>.png (.npz for raw attributions) and
    prints the path of each file, or its JSON record with --json. To resume an interrupted run, run the same command again.
    Images that cannot be explained are reported and skipped (exit code 5).

    \b
    Examples:
      xplain explain cat.jpg
      xplain explain photos -a agi -a ig:steps=100 --save overlay --save raw
      xplain explain cat.jpg --target "tiger cat" --against tabby --json
      xplain explain cat.jpg --target top:3 --save figure -o why
      xplain explain cat.jpg -m resnet50 --weights tuned.pth --classes names.txt
      find photos -name '*.jpg' -print0 | xplain explain --files-from - -0 --json
    """
    if not images and files_from is None:
        raise no_image_error()
    to_stdout = str(output) == "-"
    if to_stdout and out.as_json:
        raise UsageError(
            "--output - cannot be combined with --json, because both write to stdout", "use only one of them"
        )
    set_threads(compute.threads)
    config = ExplainConfig(
        replace(model_options, name=model),
        compute,
        inputs=tuple(images or ()),
        methods=parse_choices(method),
        output=None if to_stdout else output,
        files_from=files_from,
        null=null,
        target=target,
        against=against,
        score=score,
        layer=layer,
        layout=layout,
        saves=tuple(save),
        render=render,
        picture=picture,
        overwrite=overwrite,
        fail_fast=fail_fast,
        pixels=pixels,
        stability=stability,
    )
    return _run(config, out)


def _run(config: ExplainConfig, out: OutputOptions) -> int:
    """Print each result as soon as it is finished and return the exit code."""
    from xplain.pipelines import explain as pipeline

    explained, failed, is_read = 0, 0, True
    stability = StabilitySummary()
    with show_progress(out.show_progress, "explanations", RESULTS) as on_progress:
        for outcome in pipeline.explain(config, on_progress, RESULTS):
            if not is_read:
                raise KeyboardInterrupt  # the reader of stdout has left before the end
            if isinstance(outcome, Failure):
                failed += 1
                log.error("%s", outcome.error)
                if config.fail_fast:
                    return outcome.error.exit_code
                continue
            explained += 1
            is_read = _print_outcome(outcome, out.as_json)
            stability.add(outcome.record)
    if text := stability.describe():
        log.warning("%s", printable(text))
    if failed and explained:
        log.info("explanations written: %d, failures: %d", explained, failed)
    if not failed:
        return ExitCode.OK
    return ExitCode.PARTIAL if explained else ExitCode.INPUT_ERROR


def _print_outcome(outcome: Explained, as_json: bool) -> bool:
    """Print the paths, the record or the PNG, and log the warnings. Return False if stdout was closed."""
    record, is_read = outcome.record, True
    if outcome.content is not None:
        is_read = write_bytes(outcome.content)
    elif as_json:
        is_read = print_json(record)
    else:
        is_read = print_paths(*record["files"].values())
    log.info("%s", printable(_summarize(record)))
    for warning in record["warnings"]:
        log.warning("%s: %s: %s", record["input"], record["method"], warning)
    return is_read


def _summarize(record: dict[str, Any]) -> str:
    """Return ``cat.jpg: neflag: tiger cat 0.39``: the image, the method, the explained class, and its probability or value."""
    target = record["target"]
    return f"{record['input']}: {record['method']}: {class_name(target)} {format_certainty(target)}"
