"""Benchmarks: each module measures figures in one run; `benchmarks.__main__` lists them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
import yaml

from pipeline.core.cli import echo, print_json
from pipeline.core.errors import UserError
from pipeline.core.project_files import PROJECT_ROOT


def run_alone(name: str, measure: Callable[[], dict[str, Any]]) -> None:
    """Runs a benchmark as a command: prints its figures, or a `UserError` and exits with status 2."""
    try:
        figures = measure()
    except UserError as error:
        echo(f"error: {error}")
        raise typer.Exit(2) from None
    print_json({"benchmark": name, **figures})


def nano_sam() -> dict[str, Any]:
    """Returns `sam.generator` (with the checkpoint's absolute path) and `masks.filter` of `configs/demo_sam.yaml`."""
    settings = yaml.safe_load((PROJECT_ROOT / "configs" / "demo_sam.yaml").read_text())
    generator = settings["sam"]["generator"]
    return {
        "generator": generator | {"checkpoint": str(PROJECT_ROOT / generator["checkpoint"])},
        "filter": settings["masks"]["filter"],
    }
