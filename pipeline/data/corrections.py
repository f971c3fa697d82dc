"""Corrected label maps, which a person has drawn over pseudo-labels: found, checked, and read as training samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.core.errors import ImageError, UserError, raise_problems
from pipeline.core.globs import find_below
from pipeline.core.reading import shorten
from pipeline.data.images import ImagePreprocessing, prepared_size, read_labels
from pipeline.data.label_files import LABEL_SUFFIX, label_digest, label_file, read_digests
from pipeline.data.labels import LabelSpace
from pipeline.data.manifests import ImageRecord, Manifest
from pipeline.data.samples import FusedSample, Reader
from pipeline.geometry.boundaries import label_boundary

FULL = 255  #: A gate or a weight of 1.
LEAST_SHARE = 1e-4  #: Probability of a class that a cell of the grid does not hold.


@dataclass(frozen=True)
class Corrections:
    """Label maps that a person has corrected.

    Attributes:
        folder: the folder that they are in.
        files: the label map of each corrected panorama, by image id.
        digests: its `label_digest`, by image id.
        unchanged: ids of panoramas whose label map is still the pseudo-label that was written there.
    """

    folder: Path = Path()
    files: dict[str, Path] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    unchanged: tuple[str, ...] = ()

    def describe(self, ids: Sequence[str]) -> str:
        """Returns a sentence: how many of the panoramas `ids` have a corrected label map."""
        corrected = len(set(ids) & set(self.files))
        text = f"{corrected} of {len(ids)} panoramas: corrected labels from {self.folder}"
        return f"{text}; {len(self.unchanged)} label maps there are unchanged pseudo-labels" if self.unchanged else text

    def read(self, image_id: str, space: LabelSpace) -> np.ndarray:
        """Returns a corrected label map: uint8 `(H, W)`, classes of `space`.

        Raises `ImageError` if the file cannot be read, or was changed since it was found.
        """
        label = read_labels(self.files[image_id], ImagePreprocessing(), space)
        if label_digest(label) != self.digests[image_id]:
            raise ImageError(f"{self.files[image_id]}: was changed during the run; start it again")
        return label


def find_corrections(
    folder: Path, manifest: Manifest, records: Sequence[ImageRecord], space: LabelSpace
) -> Corrections:
    """Finds and checks the corrected label maps of `records` in `folder`: PNGs with the names of `label_file`.

    They are of the size of the working image and in the classes of `space`. A file that still holds the pseudo-label
    that was written there (see `DIGESTS`) is no correction. Files of the manifest's other panoramas are left alone.
    Raises `UserError`, which lists all files of a wrong size, with unknown classes, or that match no image.
    """
    if not folder.is_dir():
        raise UserError(f"train.corrections: found no folder {shorten(folder)}; expected one of corrected label maps")
    wanted, known = {record.id for record in records}, {label_file(record.id): record for record in manifest.images}
    written, problems = read_digests(folder), []
    files, digests, unchanged = {}, {}, []
    example = f"files such as {label_file(records[0].id)}"
    for name in sorted(name for name, _ in find_below(str(folder), f"**/*{LABEL_SUFFIX}")):
        record = known.get(name)
        if record is None and Path(name).name.startswith("."):
            continue  # beside a file of this name, some systems keep another one
        if record is None:
            problems.append(f"{name}: matches no image of {manifest.path}; expected {example}")
        elif record.id in wanted:
            try:
                label = _read(folder / name, record, manifest, space)
            except ImageError as error:
                problems.append(str(error))
                continue
            digest = label_digest(label)
            if digest == written.get(name):
                unchanged.append(record.id)
            else:
                files[record.id], digests[record.id] = folder / name, digest
    raise_problems(str(folder), problems)
    if not (files or unchanged):
        raise UserError(f"train.corrections: found no label map of these panoramas in {folder}; expected {example}")
    return Corrections(folder, files, digests, tuple(unchanged))


def _read(path: Path, record: ImageRecord, manifest: Manifest, space: LabelSpace) -> np.ndarray:
    label = read_labels(path, ImagePreprocessing(), space)
    expected = prepared_size(record.path, manifest.preprocessing)
    if label.shape != expected:
        sizes = f"is {label.shape[0]} x {label.shape[1]} (H x W), expected {expected[0]} x {expected[1]}"
        raise ImageError(f"{path}: {sizes}, the size at which {record.id!r} is trained on")
    return label


@dataclass(frozen=True)
class CorrectedReader:
    """A `Reader` that gives corrected label maps in place of the pseudo-labels of `reader`, and all others unchanged.

    Attributes:
        reader: reads images and pseudo-labels.
        corrections: the corrected label maps.
        space: the classes of the labels.
    """

    reader: Reader
    corrections: Corrections
    space: LabelSpace

    @property
    def ids(self) -> tuple[str, ...]:
        return self.reader.ids

    def image(self, image_id: str) -> np.ndarray:
        return self.reader.image(image_id)

    def fused(self, image_id: str) -> FusedSample:
        fused = self.reader.fused(image_id)
        return corrected_sample(fused, self.label(image_id), self.space) if self._is_corrected(image_id) else fused

    def label(self, image_id: str) -> np.ndarray:
        if self._is_corrected(image_id):
            return self.corrections.read(image_id, self.space)
        return self.reader.label(image_id)

    def _is_corrected(self, image_id: str) -> bool:
        return image_id in self.corrections.files


def corrected_sample(fused: FusedSample, label: np.ndarray, space: LabelSpace) -> FusedSample:
    """Returns the sample of a corrected label map, uint8 `(H, W)`, in place of the pseudo-label `fused` [O].

    The ensemble is one-hot (`g = 1`) with the weight `M = 1`, the boundary is that of the label, and every term of the
    loss is on the label: `stitched` holds the shares of its classes. Where the label is the ignore index, `g` and `M`
    are 0, and `stitched` is that of the TA.
    """
    labelled = np.where(label < space.num_classes, np.uint8(FULL), np.uint8(0))
    stitched = None if fused.stitched is None else _shares_on_grid(label, fused.stitched)
    boundary = None if fused.boundary is None else _labelled_boundary(label, space).astype(np.uint8)
    return FusedSample(label=label, stitched=stitched, gate=labelled, weight=labelled, boundary=boundary)


def _labelled_boundary(label: np.ndarray, space: LabelSpace) -> np.ndarray:
    """Returns the boundary between two classes, bool `(H, W)`; none where the label is ignored on one side."""
    ignored = label >= space.num_classes
    return label_boundary(label) & ~(ignored | label_boundary(ignored))


def _shares_on_grid(label: np.ndarray, stitched: np.ndarray) -> np.ndarray:
    """Returns the logarithm of each class's share in the cells of `stitched`, float16 `(C, h, w)`.

    Cells without a labelled pixel keep the values of `stitched`.
    """
    classes, rows, columns = stitched.shape
    height, width = label.shape
    cell = (np.arange(height) * rows // height)[:, None] * columns + np.arange(width) * columns // width
    labelled = label < classes
    index = label[labelled].astype(np.int64) * (rows * columns) + cell[labelled]
    counts = np.bincount(index, minlength=stitched.size).reshape(stitched.shape)
    total = counts.sum(axis=0)
    shares = np.log(np.maximum(counts / np.maximum(total, 1), LEAST_SHARE)).astype(np.float16)
    return np.where(total > 0, shares, stitched)
