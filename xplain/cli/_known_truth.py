"""``xplain evaluate known:NAME``: evaluate methods and metrics on planted mechanisms."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from xplain.cli._console import log, print_json
from xplain.cli._options import OutputOptions
from xplain.cli._progress import show_progress
from xplain.cli._tables import print_report
from xplain.core.config import EvaluateConfig
from xplain.core.errors import ExitCode, UsageError
from xplain.core.files import lock_directory
from xplain.core.options import EMBEDDED, ModelOptions, PixelOptions
from xplain.pipelines.distributed import shard_from_env, wait_for_ranks

if TYPE_CHECKING:
    from xplain.pipelines.known_truth import KnownPlan

PREFIX = "known:"


def evaluate_known_truth(config: EvaluateConfig, output: Path | None, out: OutputOptions) -> int:
    """Evaluate on known truth and return the exit code.

    OK: every requested method fits every mechanism. PARTIAL: some do not, or a network could not be trained. INPUT_ERROR: none does.
    Raises UsageError for options that need images or a model.
    """
    from xplain.pipelines.known_truth import choose_run_folder, evaluate_known, load_plan

    _check_options(config)
    plan = load_plan(choose_run_folder(config, output))
    failed = 0
    with show_progress(out.show_progress, "runs") as on_progress:
        for failure in evaluate_known(plan, on_progress):
            if config.fail_fast:
                raise failure.error
            failed += 1
            log.error("%s", failure.error)
    shard = config.shard
    if shard == shard_from_env() and shard[1] > 1 and not wait_for_ranks(shard):
        return ExitCode.PARTIAL if failed else ExitCode.OK
    return _report(plan, out, failed=failed)


def _report(plan: KnownPlan, out: OutputOptions, *, failed: int) -> ExitCode:
    """Write and print the summary, and return the exit code. failed: number of mechanisms and pairs that failed."""
    from xplain.pipelines.known_truth import summarize_plan
    from xplain.reports.known_report import known_table, write_known_report

    folder = plan.config.output
    with lock_directory(folder, wait=True):  # shards may finish at the same time
        summary = summarize_plan(plan)
        write_known_report(folder, summary)
    if out.as_json:
        print_json(summary)
    else:
        print_report(known_table(summary))
    log.info("the report is %s, the run directory %s", folder / "report.html", folder)
    rows = [row for row in summary["methods"] if row["method"] in plan.required]
    if not failed and not any(row["refused"] for row in rows):
        return ExitCode.OK
    if not rows:
        return ExitCode.PARTIAL if summary["items"] else ExitCode.INPUT_ERROR
    return ExitCode.PARTIAL if any(row["profile"] for row in rows) else ExitCode.INPUT_ERROR


def _check_options(config: EvaluateConfig) -> None:
    """Raise UsageError for an option that has no meaning for planted networks and images."""
    given = {
        "--model": config.model.name != EMBEDDED,
        "--target": config.target != "auto",
        "--protocol": config.protocol is not None,
        "--maps": bool(config.maps),
        "--layer": config.layer is not None,
        "--layout": config.layout is not None,
        "--per-class": config.per_class is not None,
        "--labels": config.labels is not None,
        "--save-maps": config.save_maps,
        "--save-curves": config.save_curves,
        "--interval": config.interval != "percentile",
    }
    defaults = ModelOptions()
    for field in fields(ModelOptions):
        if field.name not in ("name", "device", "offline"):
            given[f"--{field.name.replace('_', '-')}"] = getattr(config.model, field.name) != getattr(
                defaults, field.name
            )
    for field in fields(PixelOptions):
        given[f"--{field.name.replace('_', '-')}"] = getattr(config.pixels, field.name) != getattr(
            PixelOptions(), field.name
        )
    for option, is_given in given.items():
        if is_given:
            raise UsageError(
                f"{option} cannot be used with {config.dataset}, which plants its own networks and images",
                f"remove {option}",
            )
