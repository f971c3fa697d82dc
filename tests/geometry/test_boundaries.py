"""The boundary operator, against its definition."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.geometry.boundaries import dilate, label_boundary
from tests.fuse import reference_rules

maps = hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=st.integers(0, 2))


@given(maps, st.booleans())
def test_agrees_with_its_definition(labels: np.ndarray, cyclic: bool) -> None:
    height, width = labels.shape
    expected = np.zeros(labels.shape, bool)
    for y in range(height):
        for x in range(width):
            right = labels[y, (x + 1) % width] if cyclic or x + 1 < width else labels[y, x]
            below = labels[y + 1, x] if y + 1 < height else labels[y, x]
            expected[y, x] = labels[y, x] != right or labels[y, x] != below
    np.testing.assert_array_equal(label_boundary(labels, cyclic=cyclic), expected)


@given(maps, st.integers(0, 7))
def test_rolls_with_the_panorama(labels: np.ndarray, shift: int) -> None:
    rolled = label_boundary(np.roll(labels, shift, axis=1))
    np.testing.assert_array_equal(rolled, np.roll(label_boundary(labels), shift, axis=1))


@given(maps, st.integers(0, 9), st.booleans())
def test_dilation_agrees_with_its_definition(labels: np.ndarray, radius: int, cyclic: bool) -> None:
    mask = labels == 0
    np.testing.assert_array_equal(dilate(mask, radius, cyclic=cyclic), reference_rules.dilate(mask, radius, cyclic))
