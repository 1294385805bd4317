"""``xplain bench``: how fast methods are, against the bare model and against other programs."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from xplain.cli import _options as common
from xplain.cli._completion import complete_metric
from xplain.cli._console import log, print_lines
from xplain.cli._groups import option, with_groups
from xplain.cli._options import NONE, OutputOptions
from xplain.core.config import EMBEDDED, BenchConfig, Choice, ComputeOptions, ModelOptions
from xplain.core.errors import ExitCode, StoppedError
from xplain.core.files import lock_directory, to_json, write_json, write_text

METHODS = ["saliency", "integrated-gradients", "smoothgrad", "neflag"]
MODELS = [EMBEDDED]


@with_groups
def bench(
    images: Annotated[list[str] | None, typer.Argument(help="Images to run on; default: noise by the seed.")] = None,
    method: common.Methods = METHODS,
    metric: Annotated[
        list[str], option("--metric", "-M", help="NAME[:key=value,...]; repeatable.", autocompletion=complete_metric)
    ] = NONE,
    model: common.Models = MODELS,
    size: Annotated[int | None, option("--size", help="The same as --image-size, and goes before it.", min=1)] = None,
    count: Annotated[int, option("--images", help="How many images are run at a time, besides one.", min=1)] = 8,
    repeats: Annotated[int, option("--repeats", help="Rounds, after one to warm up.", min=1)] = 5,
    peer: Annotated[
        Literal["captum"] | None,
        option(
            "--peer", help="Run captum's version beside it, or a plain loop for agi, mfaba, insertion and deletion."
        ),
    ] = None,
    output: Annotated[Path | None, option("--output", "-o", help="Directory for bench.json and bench.md.")] = None,
    model_options: ModelOptions = ModelOptions(),
    compute: ComputeOptions = ComputeOptions(),
    out: OutputOptions = OutputOptions(),
) -> int:
    """Measure images/s and rows/s of methods, one image at a time and many, against the bare model in the same process.

    Every method's share of the ceiling is the time that the same rows take the bare model, over the time taken.

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
        raise StoppedError("interrupted", "give --output, and the same command goes on from there") from None


def _run(config: BenchConfig, output: Path | None, out: OutputOptions) -> int:
    """Print the records as they come, or the tables at the end; the files hold what is measured so far."""
    from xplain.pipelines.benchmark import bench as measure
    from xplain.reports.tables import benchmark_table

    groups, text, is_read = list[list[dict[str, Any]]](), "", True
    with nullcontext() if output is None else lock_directory(output):
        part = None if output is None else Part(output, config)
        before = part.read() if part else []
        for group in measure(config, before):
            groups.append(group)
            text = benchmark_table([record for each in groups for record in each])
            # what an interrupted run measured stays there, whole, until there is more
            if part and (not before or (group[0]["kind"] == "run" and group not in before)):
                part.write(groups, text)
            if not is_read:
                raise KeyboardInterrupt  # there was more to come
            for record in group:
                is_read = _tell(record, out) and is_read
        if part:
            part.finish(groups, text)
    if not out.as_json:
        print_lines(text.removesuffix("\n"))
    return ExitCode.OK


def _tell(record: dict[str, Any], out: OutputOptions) -> bool:
    """Print what there is to print; whether it is read."""
    if out.show_progress and record["kind"] == "run":
        log.info(f"measured {record['label']} of {record['model']}, images: {record['images']}, {record['program']}")
    return print_lines(to_json(record)) if out.as_json else True


@dataclass(frozen=True)
class Part:
    """What is measured of a benchmark: its results so far, and beside them, until all is measured, what it takes to go on."""

    folder: Path
    config: BenchConfig

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder / "bench.part.json"

    @property
    def asked(self) -> str:
        """The request, as text that tells it from another one."""
        return repr(self.config)

    def read(self) -> list[list[dict[str, Any]]]:
        """What an interrupted run of the same request has measured."""
        try:
            found = json.loads(self.path.read_text("utf-8"))
            return found["groups"] if found["asked"] == self.asked else []
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def write(self, groups: list[list[dict[str, Any]]], text: str) -> None:
        """Keep what is measured so far. Raises InputError where the place cannot be written."""
        write_json(self.path, {"asked": self.asked, "groups": groups})
        self._show(groups, text)

    def finish(self, groups: list[list[dict[str, Any]]], text: str) -> None:
        """All is measured."""
        self._show(groups, text)
        self.path.unlink(missing_ok=True)

    def _show(self, groups: list[list[dict[str, Any]]], text: str) -> None:
        write_json(self.folder / "bench.json", {"records": [record for group in groups for record in group]})
        write_text(self.folder / "bench.md", text)
