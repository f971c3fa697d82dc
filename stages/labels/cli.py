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
    coco: Annotated[
        bool, option("--coco", "Also write the masks with their classes: COCO panoptic and COCO instances.")
    ] = False,
    ranking: Annotated[
        bool, option("--ranking", "Also write ranking.csv: the panoramas with the least certain labels first.")
    ] = False,
) -> Result:
    """Writes the pseudo-labels as PNGs, for any other framework.

    The files are named like those of Cityscapes: *_labelTrainIds.png.
    """
    from pipeline.core.progress import console_progress
    from pipeline.data.images import ImagePreprocessing
    from stages.labels.coco import INSTANCES, PANOPTIC
    from stages.labels.stage import IMAGES, RANKING, write_labels

    data, settings = run.read(fusion)
    with console_progress() as progress:
        written = write_labels(
            data, settings, out, splits=split or (), confident=confident, coco=coco, ranking=ranking, progress=progress
        )
    done, failures = written.ids, written.failures
    echo(f"{len(done)} label maps in {out}, listed in images.txt; classes in {out / 'pseudo_labels.json'}")
    if data.preprocessing != ImagePreprocessing():
        echo(f"the manifest crops or resizes: the labels fit the images in {out / IMAGES}, train on those")
    if coco:
        echo(f"{written.instances} instances of things: {out / PANOPTIC}.json and {out / INSTANCES}.json")
        if not settings.fused_space().things:
            echo(f"label space {settings.fused_space().name}: has no things, so that no mask is an instance")
    if ranking:
        echo(f"the least certain labels first: {out / RANKING}")
    figures = {"stage": "labels", "images": len(done), "failed": len(failures), "out": str(out)}
    return Result({**figures, "instances": written.instances}, failed=bool(failures))
