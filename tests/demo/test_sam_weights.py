"""The weights that are shipped, through the pipeline's own mask generator."""

from __future__ import annotations

import numpy as np
import pytest

from demo.sam.evaluate import WEIGHTS, nano_sam, windows_of
from demo.sam.measure import best_ious

pytestmark = pytest.mark.skipif(not WEIGHTS.exists(), reason="demo/weights/nano_sam.safetensors is not there")


def test_they_are_small() -> None:
    assert WEIGHTS.stat().st_size <= 8 * 2**20


def test_they_give_masks_that_find_most_of_the_picture() -> None:
    (window,) = windows_of("target-tune", 1)
    generator = nano_sam(
        WEIGHTS,
        points=8,
        layers=0,
        pred_iou_thresh=0.5,
        stability_score_thresh=0.5,
        keep_prompt_component=True,
        mask_nms_thresh=0.6,
    )
    (masks,) = generator.build("cpu")([window.image])
    assert masks.shape == window.segments.shape
    assert len(masks) >= 4
    assert np.isfinite(masks.table["predicted_iou"]).all()
    iou, area = best_ious(masks, window.segments)
    assert (iou * area).sum() / area.sum() > 0.5
