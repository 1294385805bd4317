"""``xplain explain``: pictures and records that say why a model chose a class."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from xplain.cli import _options as common
from xplain.cli._console import say, show_progress
from xplain.cli._options import option
from xplain.config import Choice, ExplainConfig, parse_clip
from xplain.errors import EXIT_DONE, EXIT_INPUT, EXIT_PARTIAL, Failed, UsageError
from xplain.types import ScoreKind

NEFLAG, OVERLAY = ["neflag"], ["overlay"]


def explain(
    images: Annotated[
        list[str] | None, typer.Argument(help="Files, directories, globs, @list.txt, or - for image bytes on stdin.")
    ] = None,
    method: Annotated[
        list[str], option("--method", "-a", help="NAME[:key=value,...]; repeatable. See xplain list methods.")
    ] = NEFLAG,
    target: Annotated[
        str,
        option("--target", help="auto (top class), label (from the folder), a class index, wnid or name, or top:K."),
    ] = "auto",
    against: Annotated[
        str | None, option("--against", help="Rival CLASS[,CLASS], or runner-up: why the target and not these.")
    ] = None,
    save: Annotated[list[str], option("--save", help="overlay, heatmap, masked, figure or raw; repeatable.")] = OVERLAY,
    clip: Annotated[str, option("--clip", help="LOW,HIGH percentiles that become the ends of the colours.")] = "80,99",
    sign: Annotated[
        Literal["positive", "negative", "absolute", "signed"], option("--sign", help="Which part is drawn.")
    ] = "positive",
    reduce: Annotated[
        Literal["sum", "mean", "abs-sum", "max"], option("--reduce", help="Channels to one value a pixel.")
    ] = "sum",
    cmap: Annotated[
        str, option("--cmap", help="A matplotlib colour map; auto: inferno, or RdBu_r for signed.")
    ] = "auto",
    opacity: Annotated[float, option("--opacity", help="Of the colours on the image, 0 to 1.", min=0, max=1)] = 0.8,
    layer: Annotated[
        str | None, option("--layer", help="Layer for methods that look at one; default: the last spatial one.")
    ] = None,
    score: Annotated[
        ScoreKind | None, option("--score", help="The scalar explained; default: the method's own.")
    ] = None,
    files_from: Annotated[str | None, option("--files-from", help="A file of paths, one a line; - for stdin.")] = None,
    overwrite: Annotated[bool, option("--overwrite", help="Replace files from other settings.")] = False,
    fail_fast: Annotated[bool, option("--fail-fast", help="Stop at the first image that fails.")] = False,
    output: Annotated[Path, option("--output", "-o", help="Directory to write to; - writes one PNG to stdout.")] = Path(
        "xplain-out"
    ),
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
    """Explain images: write OUT/<stem>.<method>[.<target>].<kind>.png|npz and print each path.

    Examples: xplain explain cat.jpg;  xplain explain photos -a agi -a ig:steps=100 --save overlay --save raw;
    xplain explain cat.jpg --target "tiger cat" --against tabby --json
    """
    to_stdout = str(output) == "-"
    if to_stdout and as_json:
        raise UsageError("-o - and --json both write to stdout", "give one of them")
    request = ExplainConfig(
        common.make_compute(model, weights, classes, device, precision, batch_size, seed, image_size),
        tuple(images or ()),
        tuple(Choice.parse(text) for text in method),
        None if to_stdout else output,
        files_from, target, against, score, layer, tuple(save), parse_clip(clip), sign, reduce, cmap, opacity, overwrite, fail_fast,
    )  # fmt: skip
    return _run(request, as_json, quiet, not (quiet or no_progress))


def _run(request: ExplainConfig, as_json: bool, quiet: bool, watch: bool) -> int:
    """Print what comes, count what failed; the exit code."""
    from xplain import pipeline

    done, failed = 0, list[Failed]()
    with show_progress(watch) as progress:
        for item in pipeline.explain(request, progress):
            if isinstance(item, Failed):
                failed.append(item)
                say(f"error: {item.error}")
                if request.fail_fast:
                    return item.error.exit_code
                continue
            done += 1
            if item.content is not None:
                sys.stdout.buffer.write(item.content)
            else:
                lines = [json.dumps(item.record, ensure_ascii=False)] if as_json else item.record["files"].values()
                print(*lines, sep="\n", flush=True)
            if not quiet:
                for warning in item.record["warnings"]:
                    say(f"warning: {item.record['input']}: {item.record['method']}: {warning}")
    if failed and done:
        say(f"{done} explanations made, {len(failed)} failed")
    return EXIT_DONE if not failed else EXIT_PARTIAL if done else EXIT_INPUT
