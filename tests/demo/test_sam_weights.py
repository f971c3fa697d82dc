"""The shipped weights in the mask generator of the pipeline."""

from __future__ import annotations

import numpy as np
import pytest

from demo.sam.evaluate import WEIGHTS, draw_windows, nano_sam
from demo.sam.measure import best_ious

pytestmark = pytest.mark.skipif(not WEIGHTS.exists(), reason="demo/weights/nano_sam.safetensors does not exist")


def test_the_file_is_small() -> None:
    assert WEIGHTS.stat().st_size <= 8 * 2**20


def test_the_masks_match_most_of_the_image() -> None:
    (window,) = draw_windows("target-tune", 1)
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
