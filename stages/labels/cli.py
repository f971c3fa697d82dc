"""Command line of `labels`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.cli import SOME_IMAGES_FAILED, echo, print_json
from stages.options import CacheOption, ConfigOption, FusionOption, ManifestOption, SetOption, SplitOption, read_run


def command(
    manifest: ManifestOption = None,
    config: ConfigOption = None,
    fusion: FusionOption = None,
    set_: SetOption = None,
    cache: CacheOption = None,
    split: SplitOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the labels.")] = Path("outputs/labels"),
    confident: Annotated[
        bool, typer.Option("--confident", help="Ignore pixels of low weight: the high-confidence labels alone.")
    ] = False,
) -> None:
    """The pseudo-labels as PNGs, for any other framework.

    Named as those of Cityscapes: *_labelTrainIds.png.
    """
    from pipeline.core.progress import console_progress
    from pipeline.data.images import ImagePreprocessing
    from stages.labels.stage import IMAGES, write_labels

    data, settings = read_run(manifest, config, set_, cache, fusion)
    with console_progress() as progress:
        done, failures = write_labels(data, settings, out, splits=split or (), confident=confident, progress=progress)
    echo(f"{len(done)} label maps in {out}, listed in images.txt; classes in {out / 'pseudo_labels.json'}")
    if data.preprocessing != ImagePreprocessing():
        echo(f"the manifest crops or resizes: train on the images in {out / IMAGES}, on which the labels lie")
    print_json({"stage": "labels", "images": len(done), "failed": len(failures), "out": str(out)})
    if failures:
        raise typer.Exit(SOME_IMAGES_FAILED)
