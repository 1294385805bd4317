"""``xplain cite``: print BibTeX entries for methods and metrics."""

from __future__ import annotations

from typing import Annotated

import typer

from xplain.cli import _options as common
from xplain.cli._completion import complete_paper
from xplain.cli._console import print_lines
from xplain.cli._encoding import is_printable_on_stdout
from xplain.core.errors import ExitCode
from xplain.core.papers import to_latex


def cite(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME", help="Name or alias of a method or metric.", autocompletion=complete_paper),
    ],
    version: common.Version = False,
) -> int:
    """Print BibTeX entries for methods and metrics.

    A paper shared by several of them is printed once.

    \b
    Examples:
      xplain cite agi neflag deletion
      xplain cite ig >> paper.bib
    """
    from xplain.pipelines.catalog import list_papers

    text = "\n\n".join(paper.bibtex for paper in list_papers(names))
    print_lines(text if is_printable_on_stdout(text) else to_latex(text))
    return ExitCode.OK
