"""Compares corrected label maps with the pseudo-labels of now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.cache.fused_reader import CacheReader
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, SilentProgress, note_failure
from pipeline.data.corrections import Corrections, find_corrections
from pipeline.data.manifests import Manifest
from stages.config import Config


@dataclass(frozen=True)
class Change:
    """What was changed in one panorama.

    Attributes:
        id: the panorama.
        share: share of its pixels that have another label.
        before: name of the class that was changed most often; `ignored` for the ignore index.
        after: the class that it was most often changed to.
    """

    id: str
    share: float
    before: str
    after: str


def compare_corrections(
    manifest: Manifest,
    config: Config,
    *,
    folder: Path | None = None,
    splits: Sequence[str] = (),
    progress: Progress = SilentProgress(),
) -> tuple[Corrections, list[Change], dict[str, str]]:
    """Compares the label maps in `folder`, by default `train.corrections`, with the fused panoramas of the splits.

    Returns the corrections, a `Change` for each that is fused, the largest first, and the reason for each other one.
    Raises `UserError` if there is no folder, or label maps in it cannot be used.
    """
    folder = folder or config.train.corrections
    if folder is None:
        raise UserError("corrections: found no folder; expected --labels FOLDER, or train.corrections in the settings")
    reader = CacheReader(manifest, config, tuple(splits))
    reader.artefact.attributes()
    space = config.fused_space()
    corrections = find_corrections(folder, manifest, reader.wanted, space)
    names = np.array([*space.classes, *["ignored"] * (256 - space.num_classes)])
    changes: list[Change] = []
    failures: dict[str, str] = {}
    progress.start("corrections", len(corrections.files))
    for image_id in corrections.files:
        with note_failure(image_id, failures, progress):
            reader.check(image_id)
            before, after = reader.label(image_id), corrections.read(image_id, space)
            changed = before != after
            pairs = np.bincount(before[changed].astype(np.int64) * 256 + after[changed], minlength=1)
            old, new = divmod(int(pairs.argmax()), 256)
            changes.append(Change(image_id, float(changed.mean()), str(names[old]), str(names[new])))
    return corrections, sorted(changes, key=lambda change: -change.share), failures
