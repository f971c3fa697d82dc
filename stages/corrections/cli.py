"""Command line of `corrections`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pipeline.core.cli import Result, echo, echo_hint, print_table
from stages.options import FusionOption, RunOptions, SplitOption, option


def command(
    run: RunOptions,
    labels: Annotated[
        Path | None, option("--labels", "Folder of the label maps. Default: train.corrections.", "FOLDER")
    ] = None,
    fusion: FusionOption = None,
    split: SplitOption = None,
) -> Result:
    """Checks corrected label maps; lists what was changed.

    The label maps are named as `labels` writes them. Changes nothing: a training takes them from the folder in
    train.corrections.
    """
    from pipeline.core.progress import console_progress
    from stages.corrections.stage import compare_corrections

    data, settings = run.read(fusion)
    with console_progress() as progress:
        corrections, changes, failures = compare_corrections(
            data, settings, folder=labels, splits=split or (), progress=progress
        )
    print_table(
        f"corrected label maps in {corrections.folder}",
        ["panorama", "changed, percent", "most often from", "to"],
        [[c.id, 100 * c.share, *((c.before, c.after) if c.share else ("-", "-"))] for c in changes],
    )
    echo(f"{len(corrections.files)} corrected, {len(corrections.unchanged)} unchanged pseudo-labels")
    echo_hint(f"train with --set train.corrections={corrections.folder}")
    figures = {
        "stage": "corrections",
        "folder": str(corrections.folder),
        "corrected": len(corrections.files),
        "unchanged": len(corrections.unchanged),
        "failed": len(failures),
        "changed": {change.id: round(change.share, 6) for change in changes},
    }
    return Result(figures, failed=bool(failures))
