"""What learning from photos needs beside the train stage's own parts: crops of photos.

Importing this module registers them with mmsegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.image import imresize
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PhotoCrop(BaseTransform):
    """Cut a random region of a labelled photo, more often where rare classes are, and resize its image.

    The region is `crop_size / scale` with a log-uniform scale, never larger than the photo, and never wraps round
    its edges. With probability `rare_share` it is placed on a random pixel of a rare class, drawn evenly from those
    that the photo shows. Only the image is resized; the label keeps its pixels, and the loss brings the logits to
    them. Of the pixels of common classes only a random share keeps its label: the others count nowhere in the loss, so
    that thin things are not drowned.

    Args:
        crop_size: `(height, width)` of the image afterwards.
        scale_range: of the scale.
        rare: labels of the rare classes.
        rare_share: 0..1.
        common: labels of the common classes.
        common_share: 0..1.
        ignore_index: the label of pixels that do not count.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        scale_range: tuple[float, float] = (1.0, 1.0),
        rare: Sequence[int] = (),
        rare_share: float = 0.5,
        common: Sequence[int] = (),
        common_share: float = 1.0,
        ignore_index: int = 255,
    ) -> None:
        self.crop_size = tuple(crop_size)
        self.scale_range = scale_range
        self.rare = np.array(rare, dtype=np.int64)
        self.rare_share = rare_share
        self.common = np.array(common, dtype=np.uint8)
        self.common_share = common_share
        self.ignore_index = ignore_index

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """`results` of `PseudoLabelDataset.load`; `img` becomes uint8 `(*crop_size, 3)`, `label` is cut."""
        label = results["label"]
        height, width = label.shape
        low, high = np.log(self.scale_range)
        scale = float(np.exp(np.random.uniform(low, high)))  # noqa: NPY002 (the generator that mmengine seeds)
        rows = min(height, max(1, round(self.crop_size[0] / scale)))
        columns = min(width, max(1, round(self.crop_size[1] / scale)))
        y, x = self._anchor(label)
        top, left = _start(y, rows, height), _start(x, columns, width)
        region = (slice(top, top + rows), slice(left, left + columns))
        image = results["img"][region]
        if image.shape[:2] != self.crop_size:
            image = imresize(image, self.crop_size[::-1], interpolation="bilinear")
        results |= {"img": image, "label": self._thinned(label[region]), "img_shape": self.crop_size}
        results |= {"full_ring": False, "last_row": top + rows == height}
        return results

    def _thinned(self, label: np.ndarray) -> np.ndarray:
        """`label` with all but `common_share` of the common classes' pixels ignored."""
        left_out = np.isin(label, self.common)
        left_out &= np.random.rand(*label.shape) >= self.common_share  # noqa: NPY002
        return np.where(left_out, np.uint8(self.ignore_index), label)

    def _anchor(self, label: np.ndarray) -> tuple[int | None, int | None]:
        """A pixel (row, column) of a rare class that the region must hold, or none."""
        if np.random.rand() < self.rare_share:  # noqa: NPY002
            there = np.bincount(label.ravel(), minlength=256)[self.rare] > 0
            if there.any():
                chosen = np.random.choice(self.rare[there])  # noqa: NPY002
                pixels = np.flatnonzero(label == chosen)
                y, x = divmod(int(np.random.choice(pixels)), label.shape[1])  # noqa: NPY002
                return y, x
        return None, None


def _start(anchor: int | None, length: int, limit: int) -> int:
    """A random start of `length` pixels inside `0..limit` that covers `anchor`."""
    lowest, highest = 0, limit - length
    if anchor is not None:
        lowest, highest = max(lowest, anchor - length + 1), min(highest, anchor)
    return int(np.random.randint(lowest, highest + 1))  # noqa: NPY002
