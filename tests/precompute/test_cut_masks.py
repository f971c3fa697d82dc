"""What a view's edge cuts is left to the view that sees it whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.geometry.masks import MaskSet, from_masks
from pipeline.geometry.views import ViewSettings, make_views
from pipeline.geometry.windows import Window
from stages.precompute.cut_masks import remove_cuts
from stages.precompute.generators.felzenszwalb import Felzenszwalb
from stages.precompute.merge import merge_view_masks, project_to_panorama
from tests.conftest import street

HEIGHT, WIDTH = 12, 64
WINDOWS = [Window(0, x, HEIGHT, 32) for x in range(0, WIDTH, 16)]  # edges at 0, 16, 32 and 48


def rectangles(*boxes: tuple[int, int, int, int]) -> MaskSet:
    """Masks of `(first column, columns, first row, rows)`, across the seam if need be."""
    found = np.zeros((len(boxes), HEIGHT, WIDTH), dtype=bool)
    for mask, (x, columns, y, rows) in zip(found, boxes, strict=True):
        mask[y : y + rows, np.arange(x, x + columns) % WIDTH] = True
    return from_masks(list(found), HEIGHT, WIDTH, cyclic=True)


def pixels(masks: MaskSet) -> list[np.ndarray]:
    return list(masks)


@pytest.mark.parametrize("shift", [0, 16, 32, 48])
def test_a_fragment_goes_and_the_whole_stays(shift: int) -> None:
    """A car that the window 0..31 cuts at column 32; the window 16..47 sees all of it."""
    whole, fragment, elsewhere = (26 + shift, 10, 4, 5), (26 + shift, 6, 4, 5), (2 + shift, 8, 1, 4)
    masks = rectangles(*((x % WIDTH, *rest) for x, *rest in (whole, fragment, elsewhere)))
    kept = pixels(remove_cuts(masks, WINDOWS))
    expected = pixels(masks)
    assert len(kept) == 2
    assert all(any(np.array_equal(mask, other) for other in kept) for mask in (expected[0], expected[2]))


def test_a_large_cut_mask_loses_what_crosses_its_cut() -> None:
    """A wall of two windows that ends at column 48, and a door that is seen whole across the cut."""
    wall, door = (4, 44, 0, 10), (44, 10, 2, 6)
    kept = remove_cuts(rectangles(wall, door), WINDOWS)
    assert sorted(kept.table["area"].tolist()) == [60, 440 - 4 * 6]
    only_wall = rectangles(wall)
    assert remove_cuts(only_wall, WINDOWS).table["area"].tolist() == [440], "nothing else describes its pixels"


def test_masks_that_end_elsewhere_stay() -> None:
    masks = rectangles((3, 8, 0, 4), (20, 25, 2, 3), (60, 10, 5, 5))
    assert np.array_equal(remove_cuts(masks, WINDOWS).planes, masks.planes)
    full = [Window(0, 8, HEIGHT, WIDTH)]
    cut = rectangles((0, 8, 0, 4), (4, 9, 0, 4))
    assert np.array_equal(remove_cuts(cut, full).planes, cut.planes), "a window of the full width cuts nothing"


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_a_roll_by_the_stride_rolls_the_result(seed: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = [
        (int(rng.integers(WIDTH)), int(rng.integers(1, 40)), int(rng.integers(6)), int(rng.integers(1, 6)))
        for _ in range(12)
    ]
    rolled = [((x + 16 * steps) % WIDTH, *rest) for x, *rest in boxes]
    first, second = (remove_cuts(rectangles(*found), WINDOWS) for found in (boxes, rolled))
    assert len(first) == len(second)
    assert all(np.array_equal(np.roll(a, 16 * steps, axis=1), b) for a, b in zip(first, second, strict=True))


def test_labels_of_masks_no_longer_change_at_the_edges_of_views() -> None:
    """On a drawn street: how often the topmost mask changes at the edges of windows, against elsewhere."""
    views = ViewSettings(width=128, stride=64)
    image = street(seed=3)
    windows = make_views(views, *image.shape[:2])
    generator = Felzenszwalb(min_size=30).build("cpu")
    found = generator(np.stack([view.extract_image(image) for view in windows]))
    projected = [project_to_panorama(masks, view, image.shape[:2]) for masks, view in zip(found, windows, strict=True)]
    merged = merge_view_masks(projected, image.shape[:2], 0.6, 0.9)

    def change_at_edges(masks: MaskSet) -> float:
        top = np.zeros(masks.shape, dtype=np.int64)
        for k, mask in enumerate(masks):  # the smallest is the last
            top[mask] = k + 1
        changes = (top != np.roll(top, 1, axis=1)).mean(axis=0)
        edges = np.arange(0, image.shape[1], 64)
        return float(changes[edges].mean() / np.delete(changes, edges).mean())

    before, after = change_at_edges(merged), change_at_edges(remove_cuts(merged, [p.window for p in projected]))
    assert after < 0.6 * before
