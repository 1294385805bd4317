"""``xplain compare``: methods side by side on images, or runs of evaluate against one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from xplain.cli import _options as common
from xplain.cli._completion import complete_method, complete_model
from xplain.cli._console import put, say, show_counter
from xplain.cli._groups import option, with_groups
from xplain.cli._options import Drawing, Loading, Running, Talking
from xplain.core.config import Choice, CompareConfig
from xplain.core.errors import EXIT_DONE, EXIT_INPUT, EXIT_PARTIAL, Failure, UsageError
from xplain.core.files import to_json

METHODS, MODELS, OVERLAY = ["saliency", "ig", "neflag"], [common.EMBEDDED], ["overlay"]
NONE: list[str] = []
FOR_RUNS = ("things", "save", "overwrite", "output", "offline", *(each.name for each in fields(Talking)))
SHOW_HELP = (
    "overlay; heatmap; masked: heatmap x input, AGI Fig. 3; top10: the most relevant tenth of pixels, DGA Fig. 6; "
    "curves: those of the metrics beside the map, AGI Fig. 5. Repeatable."
)


@with_groups
def compare(
    context: typer.Context,
    things: Annotated[
        list[str] | None,
        typer.Argument(help="Images (files, directories, globs, @list.txt, -), or run directories of evaluate."),
    ] = None,
    method: Annotated[
        list[str],
        option(
            "--method",
            "-a",
            help="A column: NAME[:key=value,...]; repeatable. See xplain list methods.",
            autocompletion=complete_method,
        ),
    ] = METHODS,
    model: Annotated[
        list[str], option("--model", "-m", help="A row an image and model; repeatable.", autocompletion=complete_model)
    ] = MODELS,
    metric: common.Metrics = NONE,
    protocol: common.Protocol = None,
    no_metrics: Annotated[
        bool, option("--no-metrics", help="Pictures and agreement only, which is much faster.")
    ] = False,
    target: common.Target = "auto",
    against: Annotated[
        list[str],
        option("--against", help="Rival CLASS[,CLASS] or runner-up; repeated, a column each (AGI Fig. 7)."),
    ] = NONE,
    show: Annotated[list[str], option("--show", help=SHOW_HELP)] = OVERLAY,
    save: Annotated[list[str], option("--save", help="Figures as pdf or svg too; repeatable.")] = NONE,
    drawing: Drawing = Drawing(),
    layer: common.Layer = None,
    score: common.Score = None,
    files_from: common.FilesFrom = None,
    overwrite: Annotated[bool, option("--overwrite", help="Replace files from something else.")] = False,
    fail_fast: Annotated[bool, option("--fail-fast", help="Stop at the first cell that fails.")] = False,
    output: Annotated[Path, option("--output", "-o", help="Directory to write to.")] = Path("xplain-compare"),
    loading: Loading = Loading(),
    running: Running = Running(),
    talking: Talking = Talking(),
) -> int:
    """Compare methods on images, or runs of evaluate image by image.

    Images: compare.png, compare.html, compare.json and agreement.png; prints their paths.
    Runs: paired differences with intervals, win rates and Holm's correction; prints the table.

    \b
    Examples:
      xplain compare cat.jpg -a agi -a ig -a neflag
      xplain compare cat.jpg espresso.jpg --no-metrics --show heatmap --show top10 --save pdf
      xplain compare cat.jpg -a agi:classes=1 -a agi:classes=5 -a agi:classes=20
      xplain compare cat.jpg -a agi --against tabby --against lynx --no-metrics
      xplain compare cat.jpg -m resnet50 -m vgg16 -a agi
      xplain compare runs/a runs/b
    """
    forms = tuple(form for form in dict.fromkeys(save) if form != "png")
    if find_runs(things or ()):
        given = [name for name in context.params if _is_given(context, name) and name not in FOR_RUNS]
        if given:
            raise UsageError(f"--{given[0].replace('_', '-')} is not for runs", "leave it out")
        return _compare_runs([Path(each) for each in things or ()], output, forms, overwrite, talking.as_json)
    request = CompareConfig(
        loading.compute(model[0], running),
        models=tuple(dict.fromkeys(model)),
        inputs=tuple(things or ()),
        methods=tuple(Choice.parse(text) for text in method),
        output=output,
        metrics=tuple(Choice.parse(text) for text in metric),
        protocol=protocol,
        measured=not no_metrics,
        files_from=files_from,
        target=target,
        against=tuple(dict.fromkeys(against)),
        score=score,
        layer=layer,
        shows=tuple(dict.fromkeys(show)),
        formats=forms,
        look=drawing.look,
        overwrite=overwrite,
        fail_fast=fail_fast,
    )
    return _compare_images(request, talking)


def find_runs(things: Sequence[str]) -> bool:
    """Whether all are run directories. Raises UsageError where only some are."""
    runs = [each for each in things if (Path(each) / "run.json").is_file()]
    if runs and len(runs) < len(things):
        other = next(each for each in things if each not in runs)
        raise UsageError(f"{runs[0]!r} is a run and {other!r} is none", "give images, or run directories")
    return bool(runs)


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _compare_runs(folders: Sequence[Path], output: Path, forms: Sequence[str], overwrite: bool, as_json: bool) -> int:
    """Print the table or the record; the exit code."""
    from xplain.pipelines.comparisons import to_markdown, write_run_comparison

    record = write_run_comparison(folders, output, forms, overwrite)
    put(to_json(record) if as_json else to_markdown(record).removesuffix("\n"))
    return EXIT_PARTIAL if any(row["undefined"] for row in record["pairs"]) else EXIT_DONE


def _compare_images(request: CompareConfig, talking: Talking) -> int:
    """Print the paths or the record; the exit code."""
    from xplain.pipelines.comparisons import write_comparison

    failed = list[Failure]()

    def note(failure: Failure) -> None:
        failed.append(failure)
        say(f"error: {failure.error}")
        if request.fail_fast:
            raise failure.error

    with show_counter(talking.watch, "maps") as advance:
        record = write_comparison(request, advance, note)
    if record is None:
        return EXIT_INPUT
    if not talking.quiet:
        for row in record["rows"]:
            for label, cell in zip(record["columns"], row["cells"], strict=True):
                for warning in cell["warnings"] if cell else ():
                    say(f"warning: {row['input']}: {label}: {warning}")
    _print(record, talking.as_json)
    return EXIT_PARTIAL if record["failed"] or _undefined(record) else EXIT_DONE


def _undefined(record: dict[str, Any]) -> bool:
    """Whether a score of a cell has no value."""
    cells = [cell for row in record["rows"] for cell in row["cells"] if cell]
    return any(score["value"] is None for cell in cells for score in cell["scores"].values())


def _print(record: dict[str, Any], as_json: bool) -> None:
    put(*([to_json(record)] if as_json else record["files"]))
