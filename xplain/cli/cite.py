"""``xplain cite``: whom to cite for a method or metric, as BibTeX."""

from __future__ import annotations

from typing import Annotated

import typer

from xplain.cli import _options as common
from xplain.cli._completion import complete_paper


def cite(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Methods and metrics, by name or alias.", autocompletion=complete_paper),
    ],
    version: common.Version = False,
) -> int:
    """Print BibTeX for methods and metrics, each paper once.

    \b
    Examples:
      xplain cite agi neflag deletion
      xplain cite ig >> paper.bib
    """
    from xplain.pipelines.catalog import list_papers

    print(*(paper.bibtex for paper in list_papers(names)), sep="\n\n")
    return 0
