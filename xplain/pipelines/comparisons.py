"""``xplain compare``: methods side by side on images, or runs of ``evaluate`` paired by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xplain.core.config import CompareConfig
from xplain.core.errors import Failure
from xplain.core.files import held
from xplain.pipelines.compare_images import Advance, plan
from xplain.pipelines.compare_runs import compare_runs
from xplain.reports.agreement import draw_agreement
from xplain.reports.comparison import describe
from xplain.reports.comparison_figure import draw_sheet
from xplain.reports.comparison_files import RECORD, begin, check_folder, drop, kept, write_all
from xplain.reports.comparison_page import make_page
from xplain.reports.figures import check_formats
from xplain.reports.run_comparison import draw_differences, make_runs_page, to_markdown

__all__ = ["to_markdown", "write_comparison", "write_run_comparison"]


def write_comparison(config: CompareConfig, advance: Advance, note: Callable[[Failure], None]) -> dict[str, Any] | None:
    """Compare methods on images and write the pictures, the page and the record; the record, None where all failed.

    The same comparison again is not made again, and one that was interrupted goes on. ``advance(done, total)`` counts maps;
    ``note`` hears of each failure.
    Raises an XplainError for what is wrong with the request as a whole.
    """
    forms = ("png", *config.formats)
    columns = len(config.methods) * max(len(config.against), 1)
    stems = ("compare", "agreement") if columns > 1 else ("compare",)
    names = [f"{stem}.{form}" for stem in stems for form in forms] + ["compare.html"]
    check_folder(config.output, names, config.overwrite)
    planned = plan(config)
    with held(config.output):
        if there := kept(config.output, names, planned.fingerprint, config.overwrite):
            return there
        found = planned.run(advance, note, begin(config.output, planned.fingerprint))
        if not any(cell for row in found.rows for cell in row.cells):
            drop(config.output)
            return None
        record = describe(found, planned.fingerprint, [str(config.output / name) for name in (*names, RECORD)])
        pictures = {f"compare.{form}": content for form, content in draw_sheet(found, config.shows, forms).items()}
        if columns > 1:
            pictures |= {f"agreement.{form}": content for form, content in draw_agreement(record, forms).items()}
        write_all(config.output, pictures | {"compare.html": make_page(found, record).encode()}, record)
    return record


def write_run_comparison(
    folders: Sequence[Path], output: Path, formats: Sequence[str], overwrite: bool
) -> dict[str, Any]:
    """Compare runs of evaluate image by image and write the figure, the page and the record; the record.

    Raises an XplainError for runs that cannot be paired, and for files that are there from something else.
    """
    forms = ("png", *formats)
    check_formats(formats)
    names = [*(f"compare.{form}" for form in forms), "compare.html"]
    check_folder(output, names, overwrite)
    record = compare_runs(folders) | {"files": [str(output / name) for name in (*names, RECORD)]}
    with held(output):
        if there := kept(output, names, record["fingerprint"], overwrite):
            return there
        begin(output, record["fingerprint"])
        pictures = {f"compare.{form}": content for form, content in draw_differences(record, forms).items()}
        write_all(
            output, pictures | {"compare.html": make_runs_page(record).encode("utf-8", "backslashreplace")}, record
        )
    return record
