"""One view of the whole ring, with circular padding."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.geometry.masks import from_masks
from pipeline.geometry.views import ViewSettings
from pipeline.geometry.windows import Window
from stages.precompute.circular_padding import circular_padding, crop_circular_padding, extract_with_circular_padding

RING = Window(0, 0, 12, 64)


def test_padding_shows_the_other_end_on_either_side() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 64, 3), dtype=np.uint8)
    padding = circular_padding(ViewSettings(kind="whole", padding=16), RING, 64)
    seen = extract_with_circular_padding(RING, image, padding)
    assert padding == 16
    np.testing.assert_array_equal(seen, image[:, np.arange(-16, 80) % 64])
    assert circular_padding(ViewSettings(kind="whole"), RING, 64) == 0
    assert circular_padding(ViewSettings(kind="whole", padding=16), Window(0, 0, 12, 32), 64) == 0


@pytest.mark.parametrize("shift", range(0, 64, 7))
def test_what_a_perfect_generator_sees_of_a_padded_ring_folds_to_the_ring(shift: int) -> None:
    truth = []
    for y, x, h, w in [(0, 0, 2, 64), (3, 60, 4, 9), (8, 20, 3, 5), (3, 30, 2, 20)]:
        mask = np.zeros((12, 64), bool)
        mask[y : y + h, np.arange(x + shift, x + shift + w) % 64] = True
        truth.append(mask)
    seen = []
    for mask in truth:
        padded = mask[:, np.arange(-16, 80) % 64]
        from scipy.ndimage import label

        pieces, count = label(padded)
        seen += [pieces == k + 1 for k in range(count)]
    points = [(float(np.nonzero(mask)[1][0]), float(np.nonzero(mask)[0][0])) for mask in seen]
    folded = crop_circular_padding(from_masks(seen, 12, 96, points=points), 16)
    assert {mask.tobytes() for mask in folded} == {mask.tobytes() for mask in truth}
    assert len(folded) == len(truth)
    for k, row in enumerate(folded.table):
        mask, columns = folded.mask(k), (row["box_x"] + np.arange(row["box_w"])) % 64
        assert mask[:, columns].sum() == mask.sum() == row["area"]
        assert mask[int(row["point_y"]), int(row["point_x"])]
