"""Which checkpoint of a run counts: the last, or the one that agrees best with held-out pseudo-labels (ours).

No ground truth comes here: the choice sees images of the training split and the labels that the cache has for them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.atomic_files import write_text
from pipeline.core.errors import UserError
from pipeline.data.samples import Reader
from pipeline.models.torch_student import load_torch_student

#: Checkpoints that are compared, evenly spread over the run.
CANDIDATES = 5


def held_out_ids(ids: Sequence[str], share: float) -> tuple[str, ...]:
    """A share of the ids (at least one), chosen by hash: the same ones in every run, whatever else there is.

    Raises `UserError` if nothing would be left to train on.
    """
    count = max(1, math.floor(share * len(ids)))
    if count >= len(ids):
        raise UserError(f"train.held_out: {share} of {len(ids)} panoramas leaves none to train on")
    ranked = sorted(ids, key=lambda image_id: hashlib.sha256(image_id.encode()).digest())
    chosen = set(ranked[:count])
    return tuple(image_id for image_id in ids if image_id in chosen)


def pseudo_label_miou(checkpoint: Path, reader: Reader, ids: Sequence[str], device: str = "auto") -> float:
    """Mean IoU in percent of a student with the pseudo-labels of `ids`.

    Pixels count where the label is a class and its weight `M`, if there is one, is at least one half; classes in either
    of the two count in the mean, as in mmsegmentation's metric.
    """
    student = load_torch_student(checkpoint, device)
    classes = student.space.num_classes
    confusion = np.zeros((classes, classes), dtype=np.int64)
    for image_id in ids:
        fused = reader.fused(image_id)
        counted = fused.label < classes
        if fused.weight is not None:
            counted &= fused.weight >= 128
        predicted = student(reader.image(image_id))[counted].astype(np.int64)
        label = fused.label[counted].astype(np.int64)
        confusion += np.bincount(label * classes + predicted, minlength=classes**2).reshape(classes, classes)
    hit = confusion.diagonal()
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hit
    return float(100 * (hit[union > 0] / union[union > 0]).mean()) if union.any() else 0.0


def choose(checkpoints: Sequence[Path], reader: Reader, ids: Sequence[str], device: str = "auto") -> Path:
    """The checkpoint with the highest `pseudo_label_miou`, of equals the later; writes `selection.json` beside it."""
    scores = {path: pseudo_label_miou(path, reader, ids, device) for path in checkpoints}
    best = max(reversed(checkpoints), key=lambda path: scores[path])
    report: dict[str, Any] = {
        "rule": "mean IoU (percent) with the pseudo-labels of held-out training panoramas",
        "held_out": list(ids),
        "scores": {path.name: round(score, 4) for path, score in scores.items()},
        "chosen": best.name,
    }
    write_text(best.parent / "selection.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return best
