"""Figures of ensembles that need no labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.cache import Artefact, ImageGroup
from pipeline.data.manifests import ImageRecord
from pipeline.geometry.upsample import most_likely, upsample

#: Disagreement of the TA's views and its residual after pooling (nats), mean of the weight map, and share of the pixels
#: whose label is not the TA's (percent).
SIGNALS = ("l_cc", "residual", "weight", "changed")


def compute_signals(
    fused: Artefact, records: Sequence[ImageRecord]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Returns the figures of `SIGNALS`: means over `records`, and those of each."""
    ignore_index = fused.attributes()["ignore_index"]
    images = {record.id: _signals(fused.read(record.id), ignore_index) for record in records}
    means = {name: round(float(np.mean([image[name] for image in images.values()])), 4) for name in SIGNALS}
    return means, {
        image_id: {name: round(float(value), 4) for name, value in image.items()} for image_id, image in images.items()
    }


def _signals(group: ImageGroup, ignore_index: int) -> dict[str, float]:
    signals, labels = group.attributes["signals"], group.read_array("label", ndim=2)
    changed = np.count_nonzero((labels != ignore_index) & (labels != stitched_labels(group))) / labels.size
    percent = {"weight": 100 * signals["weight"], "changed": 100 * changed}
    return {"l_cc": signals["l_cc"], "residual": signals["residual"], **percent}


def stitched_labels(group: ImageGroup) -> np.ndarray:
    """Returns the labels of the TA's stitched prediction of a fused panorama: uint8 `(H, W)`."""
    stitched = group.read_array("stitched", ndim=3).astype(np.float32)
    height, stride = int(group.attributes["image_size"][0]), int(group.attributes["output_stride"])
    return most_likely(upsample(stitched, stride, height, cyclic=True))
