"""Felzenszwalb and Huttenlocher's graph-based segmentation (IJCV 2004), for users without SAM weights.

A class-agnostic substitute for SAM that needs no network [O]. Its segments partition the view.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pipeline.geometry.masks import Mask, MaskSet, from_crops
from stages.precompute.generators.base import Generate, MaskGenerator


class Felzenszwalb(MaskGenerator):
    """scikit-image's `felzenszwalb`; defaults [O]."""

    kind: str = "felzenszwalb"
    scale: float = Field(100.0, gt=0, description="Larger gives larger segments.")
    sigma: float = Field(0.5, ge=0, le=100, description="Width of the smoothing before, in pixels.")
    min_size: int = Field(60, ge=1, description="Smallest segment, in pixels.")

    def build(self, device: str) -> Generate:
        from skimage.segmentation import felzenszwalb

        options = {"scale": self.scale, "sigma": self.sigma, "min_size": self.min_size}
        return lambda views: [from_partition(felzenszwalb(view, **options)) for view in views]


def from_partition(segments: np.ndarray) -> MaskSet:
    """Returns a partition `(h, w)` of integers 0..K-1, each of which occurs, as a mask set on one plane."""
    from scipy.ndimage import find_objects

    boxes = enumerate(find_objects(segments + 1))
    masks = (Mask(segments[y, x] == label, x.start, y.start) for label, (y, x) in boxes)
    return from_crops(masks, *segments.shape)


COMPONENT = Felzenszwalb
