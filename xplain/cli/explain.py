"""``xplain explain``: pictures and records that say why a model chose a class."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from xplain.cli import _options as common
from xplain.cli._console import put, say, show_progress
from xplain.cli._groups import option, with_groups
from xplain.cli._options import Drawing, Loading, Running, Talking
from xplain.core.config import Choice, ExplainConfig
from xplain.core.errors import EXIT_DONE, EXIT_INPUT, EXIT_PARTIAL, Failure, UsageError
from xplain.core.files import to_json

NEFLAG, OVERLAY = ["neflag"], ["overlay"]


@with_groups
def explain(
    images: Annotated[
        list[str] | None, typer.Argument(help="Files, directories, globs, @list.txt, or - for image bytes on stdin.")
    ] = None,
    method: common.Methods = NEFLAG,
    target: common.Target = "auto",
    against: Annotated[
        str | None, option("--against", help="Rival CLASS[,CLASS], or runner-up: why the target and not these.")
    ] = None,
    save: Annotated[list[str], option("--save", help="overlay, heatmap, masked, figure or raw; repeatable.")] = OVERLAY,
    drawing: Drawing = Drawing(),
    layer: common.Layer = None,
    score: common.Score = None,
    files_from: common.FilesFrom = None,
    overwrite: Annotated[bool, option("--overwrite", help="Replace files from other settings.")] = False,
    fail_fast: Annotated[bool, option("--fail-fast", help="Stop at the first image that fails.")] = False,
    output: Annotated[Path, option("--output", "-o", help="Directory to write to; - writes one PNG to stdout.")] = Path(
        "xplain-out"
    ),
    model: common.Model = common.EMBEDDED,
    loading: Loading = Loading(),
    running: Running = Running(),
    talking: Talking = Talking(),
) -> int:
    """Explain images: pictures, raw values and records that say why a model chose a class.

    Writes OUT/<stem>.<method>[.<target>].<kind>.png|npz and prints each path. The same command again
    goes on where it stopped. One bad image among many is reported and skipped (exit code 5).

    \b
    Examples:
      xplain explain cat.jpg
      xplain explain photos -a agi -a ig:steps=100 --save overlay --save raw
      xplain explain cat.jpg --target "tiger cat" --against tabby --json
      xplain explain cat.jpg --target top:3 --save figure -o why
      xplain explain cat.jpg -m resnet50 --weights tuned.pth --classes names.txt
      find photos -name '*.jpg' | xplain explain --files-from - --json
    """
    to_stdout = str(output) == "-"
    if to_stdout and talking.as_json:
        raise UsageError("-o - and --json both write to stdout", "give one of them")
    request = ExplainConfig(
        loading.compute(model, running),
        inputs=tuple(images or ()),
        methods=tuple(Choice.parse(text) for text in method),
        output=None if to_stdout else output,
        files_from=files_from,
        target=target,
        against=against,
        score=score,
        layer=layer,
        saves=tuple(save),
        look=drawing.look,
        overwrite=overwrite,
        fail_fast=fail_fast,
    )
    return _run(request, talking)


def _run(request: ExplainConfig, talking: Talking) -> int:
    """Print what comes, count what failed; the exit code."""
    from xplain.pipelines import explain as pipeline

    done, failed, is_read = 0, list[Failure](), True
    with show_progress(talking.watch) as progress:
        for item in pipeline.explain(request, progress):
            if not is_read:
                raise KeyboardInterrupt  # there was more to come
            if isinstance(item, Failure):
                failed.append(item)
                say(f"error: {item.error}")
                if request.fail_fast:
                    return item.error.exit_code
                continue
            done += 1
            if item.content is not None:
                sys.stdout.buffer.write(item.content)
            else:
                is_read = put(*([to_json(item.record)] if talking.as_json else item.record["files"].values()))
            if not talking.quiet:
                for warning in item.record["warnings"]:
                    say(f"warning: {item.record['input']}: {item.record['method']}: {warning}")
    if failed and done:
        say(f"{done} explanations made, {len(failed)} failed")
    return EXIT_DONE if not failed else EXIT_PARTIAL if done else EXIT_INPUT
