"""Writes the labels of the ensemble as PNGs in the layout of Cityscapes, and on demand for tools that read COCO."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.cache.fused_reader import CacheReader, ensemble_areas
from pipeline.cache.groups import read_mask_sets
from pipeline.core.atomic_files import make_writable_folder, write_result, write_text
from pipeline.core.progress import Progress, SilentProgress, note_failure
from pipeline.data.expected_miou import expected_miou
from pipeline.data.images import ImagePreprocessing
from pipeline.data.label_files import DIGESTS, IMAGE_ENDING, label_digest, label_file, write_digests
from pipeline.data.manifests import ImageRecord, Manifest
from stages.config import Config
from stages.labels.coco import CocoWriter, check_coco
from stages.labels.ranking import RankedLabel, write_ranking

IMAGES = "images"  #: Folder of the cropped or resized images, below the folder of the labels.
RANKING = "ranking.csv"  #: The list of labels by certainty.
DESCRIPTION = "pseudo_labels.json"  #: Describes the classes of the labels, and where they come from.


@dataclass
class WrittenLabels:
    """What was written.

    Attributes:
        digests: the `label_digest` of every label map by image id.
        failures: reasons by id of panoramas that are not fused or cannot be read.
        instances: number of COCO's instances.
        ranked: rows of the ranking.
    """

    digests: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    instances: int = 0
    ranked: list[RankedLabel] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """Ids of the panoramas with a label map, in the order of the manifest."""
        return list(self.digests)


def write_labels(
    manifest: Manifest,
    config: Config,
    out: Path,
    *,
    splits: Sequence[str] = (),
    confident: bool = False,
    coco: bool = False,
    ranking: bool = False,
    progress: Progress = SilentProgress(),
) -> WrittenLabels:
    """Writes a label map for every fused panorama.

    `out/<label_file(id)>` holds class ids at the working size as greyscale uint8, which every reader returns unchanged
    (OpenCV would read a palette image as colours). `out/pseudo_labels.json` describes the classes. `out/images.txt`
    lists the ids, sorted, without `_leftImg8bit`: with one suffix a line is the image, with another the label map, as
    mmsegmentation reads them. `out/digests.txt` tells corrected label maps from unchanged ones. If the manifest crops
    or resizes, `out/images/<id>.png` holds the images that fit the labels. A run that is killed leaves no list, so that
    files of two rules are not mixed.

    With `confident`, pixels with a weight below one half get the ignore index (E_H, docs/method.md 3.3). With `coco`,
    `CocoWriter` also writes the masks. With `ranking`, `out/ranking.csv` lists the labels, the least certain first.

    Raises `UserError` if no panorama is fused, there are no masks for COCO, or `out` cannot be written.
    """
    reader = CacheReader(manifest, config, tuple(splits))
    reader.artefact.attributes()
    reader.check_any()
    if coco:
        check_coco()
        config.artefact(manifest, "masks").attributes()
    make_writable_folder(out, "--out")
    for name in ("images.txt", DESCRIPTION, DIGESTS, RANKING):
        (out / name).unlink(missing_ok=True)
    writer = LabelWriter(reader, config, out, confident, CocoWriter(out, config.fused_space()) if coco else None)
    written = WrittenLabels()
    progress.start("labels", len(reader.wanted))
    for record in reader.wanted:
        with note_failure(record.id, written.failures, progress):
            reader.check(record.id)
            label = writer.write(record)
            written.instances += writer.write_coco(record, label)
            written.ranked += [writer.rank(record)] if ranking else []
            written.digests[record.id] = label_digest(label)
    if writer.coco is not None:
        writer.coco.finish()
    if ranking:
        write_ranking(out / RANKING, written.ranked)
    names = sorted(image_id.removesuffix(IMAGE_ENDING) for image_id in written.digests)
    write_text(out / "images.txt", "".join(f"{name}\n" for name in names))
    write_digests(out, written.digests)
    write_text(out / DESCRIPTION, json.dumps(writer.describe(), indent=1, ensure_ascii=False) + "\n")
    return written


@dataclass(frozen=True)
class LabelWriter:
    """Writes what belongs to one panorama; the arguments are those of `write_labels`."""

    reader: CacheReader
    config: Config
    out: Path
    confident: bool
    coco: CocoWriter | None

    @property
    def _prepares(self) -> bool:
        """Whether the working image differs from the image file."""
        return self.reader.manifest.preprocessing != ImagePreprocessing()

    def _image_file(self, record: ImageRecord) -> Path:
        return self.out / IMAGES / f"{record.id}.png" if self._prepares else record.path

    def write(self, record: ImageRecord) -> np.ndarray:
        """Writes the label map, and the working image where it differs from the file. Returns the label map."""
        sample = self.reader.fused(record.id)
        label = sample.label
        if self.confident and sample.weight is not None:
            label = np.where(sample.weight < 128, np.uint8(self.config.fused_space().ignore_index), label)
        if self._prepares:
            _save(self.reader.image(record.id), self._image_file(record))
        _save(label, self.out / label_file(record.id))
        return label

    def write_coco(self, record: ImageRecord, label: np.ndarray) -> int:
        """Adds the panorama to COCO's files, if they are wanted. Returns the number of its instances."""
        if self.coco is None:
            return 0
        group = self.config.artefact(self.reader.manifest, "masks").read(record.id)
        masks = read_mask_sets(group, [(label.shape[0], label.shape[1])])[0]
        root = self.out if self._prepares else self.reader.manifest.root
        return self.coco.add(record.id, self._image_file(record).relative_to(root).as_posix(), masks, label)

    def rank(self, record: ImageRecord) -> RankedLabel:
        """Returns the panorama's row of the ranking."""
        group = self.reader.artefact.read(record.id)
        mean_weight = float(group.read_array("weight", ndim=2).mean(dtype=np.float64)) / 255
        expected = expected_miou(ensemble_areas(group, self.config.fused_space()), predicted_only=True)
        return RankedLabel(self._image_file(record), self.out / label_file(record.id), mean_weight, expected)

    def describe(self) -> dict[str, object]:
        """Returns the content of `pseudo_labels.json`."""
        space = self.config.fused_space()
        return {
            "label_space": space.name,
            **space.model_dump(include={"classes", "palette", "ignore_index"}),
            "fused": self.reader.artefact.key,
            "rule": self.config.fusion.rule.kind,
            "confident_only": self.confident,
            "images": IMAGES if self._prepares else None,
            "preparation": self.reader.manifest.preprocessing.model_dump(mode="json"),
        }


def _save(pixels: np.ndarray, path: Path) -> None:
    write_result(path, partial(Image.fromarray(pixels).save, format="PNG"))
