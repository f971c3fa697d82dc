"""Felzenszwalb and Huttenlocher's graph-based segmentation (IJCV 2004), for users without SAM weights.

Not the paper's: a class-agnostic stand-in that needs no network. Its segments partition the view.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from pipeline.core.errors import ImageError
from pipeline.geometry.masks import MAX_MASKS, TABLE, MaskSet
from stages.precompute.generators.base import Generate, MaskGenerator


class Felzenszwalb(MaskGenerator):
    """scikit-image's `felzenszwalb`; the defaults are ours."""

    kind: str = "felzenszwalb"
    scale: float = Field(100.0, gt=0, description="Larger gives larger segments.")
    sigma: float = Field(0.5, ge=0, le=100, description="Width of the smoothing before, in pixels.")
    min_size: int = Field(60, ge=1, description="Smallest segment, in pixels.")

    def build(self, device: str) -> Generate:
        from skimage.segmentation import felzenszwalb

        def masks_of(view: np.ndarray) -> MaskSet:
            return from_partition(felzenszwalb(view, scale=self.scale, sigma=self.sigma, min_size=self.min_size))

        def generate(views: Sequence[np.ndarray]) -> list[MaskSet]:
            return [masks_of(view) for view in views]

        return generate


def from_partition(segments: np.ndarray) -> MaskSet:
    """A partition `(h, w)` of integers 0..K-1, none left out, as a mask set on one plane."""
    from scipy.ndimage import find_objects

    count = int(segments.max()) + 1
    if count > MAX_MASKS:
        raise ImageError(f"found {count} segments in one view, expected at most {MAX_MASKS}; raise min_size")
    plane = (segments + 1).astype(np.uint16)
    table = np.zeros(count, TABLE)
    for name in ("predicted_iou", "stability_score", "point_x", "point_y"):
        table[name] = np.nan
    table["area"] = np.bincount(segments.ravel(), minlength=count)
    for k, (rows, columns) in enumerate(find_objects(plane)):
        table["box_x"][k], table["box_w"][k] = columns.start, columns.stop - columns.start
        table["box_y"][k], table["box_h"][k] = rows.start, rows.stop - rows.start
    return MaskSet(plane[None], table)


COMPONENT = Felzenszwalb
