"""Writes the labels of the ensemble as PNGs in the layout of Cityscapes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.cache.fused_reader import CacheReader
from pipeline.core.atomic_files import make_writable_folder, write_result, write_text
from pipeline.core.errors import ImageError
from pipeline.core.progress import Progress, SilentProgress, note_failure
from pipeline.data.images import ImagePreprocessing
from pipeline.data.manifests import Manifest
from stages.config import Config

IMAGE_ENDING, LABEL_ENDING = "_leftImg8bit", "_gtFine"  #: Suffixes of Cityscapes for images and label maps.
IMAGES = "images"  #: Folder of the cropped or resized images, below the folder of the labels.


def label_file(image_id: str) -> str:
    """Returns `a/b_labelTrainIds.png` for `a/b`, and `b_gtFine_labelTrainIds.png` for `b_leftImg8bit`."""
    name = image_id.removesuffix(IMAGE_ENDING)
    return f"{name}{LABEL_ENDING if name != image_id else ''}_labelTrainIds.png"


def write_labels(
    manifest: Manifest,
    config: Config,
    out: Path,
    *,
    splits: Sequence[str] = (),
    confident: bool = False,
    progress: Progress = SilentProgress(),
) -> tuple[list[str], dict[str, str]]:
    """Writes a label map for every fused panorama.

    `out/<label_file(id)>` holds class ids at the working size as greyscale uint8, which every reader returns unchanged
    (OpenCV would read a palette image as colours). `out/pseudo_labels.json` describes the classes. `out/images.txt`
    lists the ids, sorted, without `_leftImg8bit`: with one suffix a line is the image, with another the label map, as
    mmsegmentation reads them. If the manifest crops or resizes, `out/images/<id>.png` holds the images that fit the
    labels. A run that is killed leaves no list, so that files of two rules are not mixed. With `confident`, pixels with
    a weight below one half get the ignore index (E_H, docs/method.md 3.3).

    Returns the ids that are written, and reasons by id of those that are not fused or cannot be read. Raises
    `UserError` if no panorama is fused, or `out` cannot be written.
    """
    reader = CacheReader(manifest, config, tuple(splits))
    reader.artefact.attributes()
    reader.check_any()
    space = config.fused_space()
    list_file, description = make_writable_folder(out, "--out") / "images.txt", out / "pseudo_labels.json"
    for path in (list_file, description):
        path.unlink(missing_ok=True)
    prepared = manifest.preprocessing != ImagePreprocessing()
    done: list[str] = []
    failures: dict[str, str] = {}
    progress.start("labels", len(reader.wanted))
    for record in reader.wanted:
        with note_failure(record.id, failures, progress):
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
    described = {
        "label_space": space.name,
        **space.model_dump(include={"classes", "palette", "ignore_index"}),
        "fused": reader.artefact.key,
        "rule": config.fusion.rule.kind,
        "confident_only": confident,
        "images": IMAGES if prepared else None,
        "preparation": manifest.preprocessing.model_dump(mode="json"),
    }
    names = sorted(image_id.removesuffix(IMAGE_ENDING) for image_id in done)
    write_text(list_file, "".join(f"{name}\n" for name in names))
    write_text(description, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    return done, failures


def _save(pixels: np.ndarray, path: Path) -> None:
    write_result(path, partial(Image.fromarray(pixels).save, format="PNG"))
