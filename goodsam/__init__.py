"""The Python interface: `goodsam.open` gives the cached arrays of a run, `goodsam.load_student` a trained student.

It joins the settings of all stages (`stages`) and the cache (`pipeline`), which do not know it. See docs/python.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.models.load import load_student

if TYPE_CHECKING:
    from pipeline.cache.results import Results

__all__ = ["load_student", "open"]


def open(
    manifest: str | PathLike[str],
    config: str | PathLike[str] | None = None,
    *,
    fusion: str | None = None,
    settings: Sequence[str] = (),
    cache: str | None = None,
    splits: Sequence[str] = (),
) -> Results:
    """Opens the results of a run; the arguments mean the same as the options of the command line.

    Args:
        manifest: The data set: a YAML file, or the name of one in `data_manifests`.
        config: The settings: a YAML file, or the name of one in `configs`; None for all defaults.
        fusion: Another fusion rule than that of the settings.
        settings: Changes to the settings, such as `"fusion.rule.theta=0.8"`.
        cache: Another cache than that of the settings, a folder or a URL.
        splits: Names of splits of the manifest; empty for all.

    Raises:
        UserError: The manifest or the settings are not valid, or there is no such split.
    """
    from pipeline.cache.results import Results
    from stages.options import RunOptions

    run = RunOptions(Path(manifest), None if config is None else Path(config), list(settings), cache)
    return Results(*run.read(fusion)).select(*splits)
