"""Command line of `doctor`."""

from __future__ import annotations

from dataclasses import asdict

from pipeline.core.cli import Result
from stages.options import RunOptions

WIDTH = 80  #: Largest width of the table, in characters.


def command(run: RunOptions) -> Result:
    """Checks the installation, the cache and optional features.

    Ends with status 1 if a required package is broken.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from stages.doctor.checks import check_cache, check_device, check_features, check_packages

    groups = [check_packages(), [check_device(), check_cache(run)], check_features()]
    table = Table("part or feature", "state", "detail", box=box.SIMPLE, title="goodsam doctor", title_justify="left")
    for group in groups:
        for check in group:
            colour = {"ok": "green", "missing": "yellow", "broken": "red"}[check.state]
            table.add_row(check.name, f"[{colour}]{check.state}", check.detail.replace("[", r"\["))
        table.add_section()
    console = Console()
    console.print(table, width=min(WIDTH, console.width))
    broken = any(check.state == "broken" for group in groups for check in group)
    checks = [asdict(check) for group in groups for check in group]
    return Result({"stage": "doctor", "checks": checks}, failed=broken, failed_status=1)
