"""The mask generator without a network."""

from __future__ import annotations

import numpy as np

from stages.precompute.generators.felzenszwalb import Felzenszwalb, from_partition
from tests.models import street


def test_felzenszwalb_partitions_the_view() -> None:
    (masks,) = Felzenszwalb(min_size=30).build("cpu")([street(48, 64)])
    assert len(masks) > 3
    assert masks.covered().all()
    assert masks.table["area"].sum() == 48 * 64
    assert np.isnan(masks.table["predicted_iou"]).all()
    for k in range(len(masks)):
        rows, columns = np.nonzero(masks.mask(k))
        x, y, w, h = (int(masks.table[k][f"box_{side}"]) for side in "xywh")
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x, y, x + w, y + h)


def test_a_constant_view_is_one_segment() -> None:
    assert len(Felzenszwalb().build("cpu")([np.full((40, 50, 3), 7, np.uint8)])[0]) == 1
    assert len(from_partition(np.zeros((1, 1), np.int64))) == 1
