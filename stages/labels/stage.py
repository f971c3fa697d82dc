"""Writes the ensemble's labels as PNGs in the way of Cityscapes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.cache.fused_reader import CacheReader
from pipeline.core.atomic_files import writable_folder, write_result, write_text
from pipeline.core.errors import ImageError
from pipeline.core.progress import Progress, SilentProgress
from pipeline.data.images import ImagePreprocessing
from pipeline.data.manifests import Manifest
from stages.config import Config

#: What Cityscapes adds to the name of a place: to that of its image, and to that of its label map.
IMAGE_ENDING, LABEL_ENDING = "_leftImg8bit", "_gtFine"

#: Below the folder of the labels: the images as the labels have them, where those are cropped or resized.
IMAGES = "images"


def label_file(image_id: str) -> str:
    """`a/b` -> `a/b_labelTrainIds.png`; Cityscapes' `b_leftImg8bit` -> `b_gtFine_labelTrainIds.png`."""
    name = image_id.removesuffix(IMAGE_ENDING)
    return f"{name}{LABEL_ENDING if name != image_id else ''}_labelTrainIds.png"


def write_labels(
    manifest: Manifest,
    config: Config,
    out: Path,
    *,
    splits: Sequence[str] = (),
    confident: bool = False,
    progress: Progress | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Writes `out/<label_file(id)>` of every fused panorama, and `out/pseudo_labels.json` with their classes.

    `out/images.txt` lists those that are done, sorted, an id a line; of Cityscapes' names without `_leftImg8bit`,
    as mmsegmentation wants it: a line and a suffix is the image, a line and another suffix the label map.

    A PNG holds uint8 class ids at the working size, the ignore index where there is no label; with `confident` also
    where the weight is below one half (the labels are then E_H, docs/method.md 3.3). Where the manifest crops or
    resizes, the labels do not lie on the image files: the images are then written too, as `out/images/<id>.png`.

    A run that was killed leaves no list, so that nobody takes files of two rules for those of one. Returns the ids that
    are done, and the reasons of those that are not fused or cannot be read.
    """
    progress = progress or SilentProgress()
    reader = CacheReader(manifest, config, tuple(splits))
    reader.artefact.attributes()
    reader.check_any()
    space = config.fused_space()
    listed, classes = writable_folder(out, "--out") / "images.txt", out / "pseudo_labels.json"
    for path in (listed, classes):
        path.unlink(missing_ok=True)
    prepared = manifest.preprocessing != ImagePreprocessing()
    done: list[str] = []
    failures: dict[str, str] = {}
    progress.start("labels", len(reader.wanted))
    for record in reader.wanted:
        try:
            if record.id in reader.missing:
                raise ImageError(reader.missing[record.id])
            sample = reader.fused(record.id)
            label = sample.label
            if confident and sample.weight is not None:
                label = np.where(sample.weight < 128, np.uint8(space.ignore_index), label)
            if prepared:
                _save(reader.image(record.id), out / IMAGES / f"{record.id}.png")
            _save(label, out / label_file(record.id))
            done.append(record.id)
        except ImageError as error:
            failures[record.id] = str(error)
            progress.note(f"{record.id}: failed: {error}")
        progress.advance(failed=record.id in failures)
    described = {
        "label_space": space.name,
        "classes": list(space.classes),
        "palette": [list(colour) for colour in space.palette],
        "ignore_index": space.ignore_index,
        "fused": reader.artefact.key,
        "rule": config.fusion.rule.kind,
        "confident_only": confident,
        "images": IMAGES if prepared else None,
        "preparation": manifest.preprocessing.model_dump(mode="json"),
    }
    names = sorted(image_id.removesuffix(IMAGE_ENDING) for image_id in done)
    write_text(listed, "".join(f"{name}\n" for name in names))
    write_text(classes, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    return done, failures


def _save(pixels: np.ndarray, path: Path) -> None:
    write_result(path, partial(Image.fromarray(pixels).save, format="PNG"))
