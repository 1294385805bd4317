"""``xplain bench``: how fast methods are, against the bare model and against other programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from xplain.cli import _options as common
from xplain.cli._completion import complete_metric
from xplain.cli._console import say
from xplain.cli._groups import option, with_groups
from xplain.cli._options import Loading, Running, Talking
from xplain.config import BenchConfig, Choice
from xplain.errors import EXIT_DONE
from xplain.files import write_file, write_json

METHODS = ["saliency", "integrated-gradients", "smoothgrad", "neflag"]
MODELS = [common.EMBEDDED]
NONE: list[str] = []


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
    loading: Loading = Loading(),
    running: Running = Running(),
    talking: Talking = Talking(),
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
    compute = loading.compute("", running)
    request = BenchConfig(
        replace(compute, image_size=size or compute.image_size),
        models=tuple(model),
        methods=tuple(Choice.parse(text) for text in method),
        metrics=tuple(Choice.parse(text) for text in metric),
        inputs=tuple(images or ()),
        images=count,
        repeats=repeats,
        peer=peer is not None,
    )
    return _run(request, output, talking)


def _run(request: BenchConfig, output: Path | None, talking: Talking) -> int:
    """Print the records as they come, or the tables at the end; the files hold what is measured so far."""
    from xplain.benchmark import bench as measure
    from xplain.speed_table import to_markdown

    records = []
    for record in measure(request):
        records.append(record)
        if talking.as_json:
            print(json.dumps(record, ensure_ascii=False), flush=True)
        if talking.watch and record["kind"] == "run":
            say(f"measured {record['label']} of {record['model']}, images: {record['images']}, {record['program']}")
        if output is not None:
            write_json(output / "bench.json", {"records": records})
            write_file(output / "bench.md", to_markdown(records).encode())
    if not talking.as_json:
        print(to_markdown(records), end="")
    return EXIT_DONE
