"""One view of the full panorama, with circular padding."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label

from pipeline.geometry.masks import from_masks
from pipeline.geometry.views import ViewSettings
from pipeline.geometry.windows import Window
from stages.precompute.circular_padding import crop_circular_padding, extract_with_circular_padding

FULL = Window(0, 0, 12, 64)


def test_padding_holds_columns_from_the_other_end() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 64, 3), dtype=np.uint8)
    views = [FULL, Window(0, 0, 12, 32)]
    (padded, part), paddings = extract_with_circular_padding(image, views, ViewSettings(kind="whole", padding=16))
    assert paddings == [16, 0]
    np.testing.assert_array_equal(padded, image[:, np.arange(-16, 80) % 64])
    np.testing.assert_array_equal(part, image[:, :32])
    (whole,), paddings = extract_with_circular_padding(image, [FULL], ViewSettings(kind="whole"))
    assert paddings == [0]
    np.testing.assert_array_equal(whole, image)


@pytest.mark.parametrize("shift", range(0, 64, 7))
def test_perfect_masks_of_a_padded_panorama_become_those_of_the_panorama(shift: int) -> None:
    truth = []
    for y, x, h, w in [(0, 0, 2, 64), (3, 60, 4, 9), (8, 20, 3, 5), (3, 30, 2, 20)]:
        mask = np.zeros((12, 64), bool)
        mask[y : y + h, np.arange(x + shift, x + shift + w) % 64] = True
        truth.append(mask)
    padded_masks = []
    for mask in truth:
        padded = mask[:, np.arange(-16, 80) % 64]
        components, count = label(padded)
        padded_masks += [components == k + 1 for k in range(count)]
    points = [(float(np.nonzero(mask)[1][0]), float(np.nonzero(mask)[0][0])) for mask in padded_masks]
    cropped = crop_circular_padding(from_masks(padded_masks, 12, 96, point=points), 16)
    assert {mask.tobytes() for mask in cropped} == {mask.tobytes() for mask in truth}
    assert len(cropped) == len(truth)
    for k, row in enumerate(cropped.table):
        mask, columns = cropped.mask(k), (row["box_x"] + np.arange(row["box_w"])) % 64
        assert mask[:, columns].sum() == mask.sum() == row["area"]
        assert mask[int(row["point_y"]), int(row["point_x"])]
