"""The choice of the checkpoint that agrees best with held-out pseudo-labels [O].

No ground truth is read: images and pseudo-labels are those of the training split.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.core.atomic_files import write_text
from pipeline.core.errors import UserError
from pipeline.data.samples import Reader
from pipeline.models.torch_student import load_torch_student

CANDIDATES = 5  #: Number of checkpoints that are compared, evenly spread over the run.


def held_out_ids(ids: Sequence[str], share: float) -> tuple[str, ...]:
    """Returns a share of the ids, at least one, chosen by their hashes: the same in every run.

    Raises `UserError` if no id would be left to train on.
    """
    count = max(1, math.floor(share * len(ids)))
    if count >= len(ids):
        raise UserError(f"train.held_out: {share} of {len(ids)} panoramas leaves none to train on")
    chosen = set(sorted(ids, key=lambda image_id: hashlib.sha256(image_id.encode()).digest())[:count])
    return tuple(image_id for image_id in ids if image_id in chosen)


def pseudo_label_miou(checkpoint: Path, reader: Reader, ids: Sequence[str], device: str = "auto") -> float:
    """Returns the mean IoU, in percent, of a student's predictions with the pseudo-labels of `ids`.

    A pixel counts if its label is a class and its weight `M`, where there is one, is at least one half. The mean is
    over the classes that occur in labels or predictions, as in mmsegmentation's metric.
    """
    student = load_torch_student(checkpoint, device)
    classes = student.space.num_classes
    confusion = np.zeros((classes, classes), dtype=np.int64)
    for image_id in ids:
        fused = reader.fused(image_id)
        counted = (fused.label < classes) & (fused.weight is None or fused.weight >= 128)
        predicted = student(reader.image(image_id))[counted].astype(np.int64)
        label = fused.label[counted].astype(np.int64)
        confusion += np.bincount(label * classes + predicted, minlength=classes**2).reshape(classes, classes)
    intersection = confusion.diagonal()
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - intersection
    return float(100 * (intersection[union > 0] / union[union > 0]).mean()) if union.any() else 0.0


def choose(checkpoints: Sequence[Path], reader: Reader, ids: Sequence[str], device: str = "auto") -> Path:
    """Returns the checkpoint with the highest `pseudo_label_miou`, of equal ones the latest.

    Writes `selection.json` beside it.
    """
    scores = {path: pseudo_label_miou(path, reader, ids, device) for path in checkpoints}
    best = max(reversed(checkpoints), key=lambda path: scores[path])
    report = {
        "rule": "mean IoU (percent) with the pseudo-labels of held-out training panoramas",
        "held_out": list(ids),
        "scores": {path.name: round(score, 4) for path, score in scores.items()},
        "chosen": best.name,
    }
    write_text(best.parent / "selection.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return best
