"""Random crops of photos for training. Importing this module registers them with mmsegmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.image import imresize
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PhotoCrop(BaseTransform):
    """Crops a random region of a labelled photo, more often around rare classes, and resizes its image.

    The region is `crop_size / scale` with a log-uniform scale, at most as large as the photo, and never wraps around.
    Only the image is resized; the loss resizes the logits to the labels. Random pixels of common classes are ignored
    in the loss, so that they do not dominate thin objects.

    Args:
        crop_size: `(height, width)` of the resized image.
        scale_range: lowest and highest scale.
        rare_classes: labels.
        rare_prob: probability that the region contains a random pixel of a rare class, drawn uniformly from the rare
            classes of the photo.
        common_classes: labels.
        common_keep_prob: probability that a pixel of a common class keeps its label.
        ignore_index: label of ignored pixels.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        scale_range: tuple[float, float] = (1.0, 1.0),
        rare_classes: Sequence[int] = (),
        rare_prob: float = 0.5,
        common_classes: Sequence[int] = (),
        common_keep_prob: float = 1.0,
        ignore_index: int = 255,
    ) -> None:
        self.crop_size = tuple(crop_size)
        self.scale_range = scale_range
        self.rare_classes = np.array(rare_classes, dtype=np.int64)
        self.rare_prob = rare_prob
        self.common_classes = np.array(common_classes, dtype=np.uint8)
        self.common_keep_prob = common_keep_prob
        self.ignore_index = ignore_index

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Crops `img` and `label` of `PseudoLabelDataset.load`; `img` becomes uint8 `(*crop_size, 3)`."""
        label = results["label"]
        height, width = label.shape
        low, high = np.log(self.scale_range)
        scale = float(np.exp(np.random.uniform(low, high)))  # noqa: NPY002 (the generator that mmengine seeds)
        rows = min(height, max(1, round(self.crop_size[0] / scale)))
        columns = min(width, max(1, round(self.crop_size[1] / scale)))
        y, x = self._draw_rare_pixel(label)
        top, left = _draw_start(y, rows, height), _draw_start(x, columns, width)
        region = (slice(top, top + rows), slice(left, left + columns))
        image = results["img"][region]
        if image.shape[:2] != self.crop_size:
            image = imresize(image, self.crop_size[::-1], interpolation="bilinear")
        results |= {"img": image, "label": self._ignore_common(label[region]), "img_shape": self.crop_size}
        results |= {"is_full_panorama": False, "last_row": top + rows == height}
        return results

    def _ignore_common(self, label: np.ndarray) -> np.ndarray:
        ignored = np.isin(label, self.common_classes)
        ignored &= np.random.rand(*label.shape) >= self.common_keep_prob  # noqa: NPY002
        return np.where(ignored, np.uint8(self.ignore_index), label)

    def _draw_rare_pixel(self, label: np.ndarray) -> tuple[int | None, int | None]:
        """Draws a pixel (row, column) of a rare class that the region must contain, or none."""
        if np.random.rand() < self.rare_prob:  # noqa: NPY002
            present = np.bincount(label.ravel(), minlength=256)[self.rare_classes] > 0
            if present.any():
                chosen = np.random.choice(self.rare_classes[present])  # noqa: NPY002
                pixels = np.flatnonzero(label == chosen)
                y, x = divmod(int(np.random.choice(pixels)), label.shape[1])  # noqa: NPY002
                return y, x
        return None, None


def _draw_start(anchor: int | None, length: int, limit: int) -> int:
    """Draws the start of `length` pixels inside `0..limit` that include `anchor`."""
    lowest, highest = 0, limit - length
    if anchor is not None:
        lowest, highest = max(lowest, anchor - length + 1), min(highest, anchor)
    return int(np.random.randint(lowest, highest + 1))  # noqa: NPY002
