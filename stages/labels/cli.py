"""Command line of `labels`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pipeline.core.cli import Result, echo
from stages.options import FusionOption, RunOptions, SplitOption, option


def command(
    run: RunOptions,
    fusion: FusionOption = None,
    split: SplitOption = None,
    out: Annotated[Path, option("--out", "Folder of the labels.", "FOLDER")] = Path("outputs/labels"),
    confident: Annotated[
        bool, option("--confident", "Ignore pixels of low weight: the high-confidence labels alone.")
    ] = False,
) -> Result:
    """Writes the pseudo-labels as PNGs, for any other framework.

    The files are named like those of Cityscapes: *_labelTrainIds.png.
    """
    from pipeline.core.progress import console_progress
    from pipeline.data.images import ImagePreprocessing
    from stages.labels.stage import IMAGES, write_labels

    data, settings = run.read(fusion)
    with console_progress() as progress:
        done, failures = write_labels(data, settings, out, splits=split or (), confident=confident, progress=progress)
    echo(f"{len(done)} label maps in {out}, listed in images.txt; classes in {out / 'pseudo_labels.json'}")
    if data.preprocessing != ImagePreprocessing():
        echo(f"the manifest crops or resizes: the labels fit the images in {out / IMAGES}, train on those")
    figures = {"stage": "labels", "images": len(done), "failed": len(failures), "out": str(out)}
    return Result(figures, failed=bool(failures))
