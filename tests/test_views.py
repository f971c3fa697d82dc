"""Views on the ring."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import UserError
from pipeline.views import ViewSettings, Window, cells, cyclic_columns, make_views

ring = st.tuples(st.integers(2, 40), st.integers(1, 8), st.integers(1, 8)).map(
    lambda t: (t[0] * 8, min(t[0], t[1] + t[2]) * 8, min(t[0], t[1]) * 8)
)


def test_densepass_has_eight_windows() -> None:
    views = make_views(ViewSettings(), 400, 2048)
    assert [view.x0 for view in views] == list(range(0, 2048, 256))
    assert {(view.height, view.width) for view in views} == {(400, 512)}


def test_whole_ring_is_one_view() -> None:
    assert make_views(ViewSettings(kind="whole"), 5, 16) == (Window(0, 0, 5, 16),)
    assert make_views(ViewSettings(width=64, stride=64), 5, 16) == (Window(0, 0, 5, 16),)


@given(ring)
def test_cells_tile_the_ring_and_name_the_covering_views(sizes: tuple[int, int, int]) -> None:
    width, window, stride = sizes
    try:
        views = make_views(ViewSettings(width=window, stride=min(stride, window)), 3, width)
    except UserError:
        return
    seen = np.zeros(width, int)
    for cell in cells(views, width):
        seen[cell.x0 : cell.x1] += 1
        for x in range(cell.x0, cell.x1):
            covering = {i for i, view in enumerate(views) if x in view.columns(width)}
            assert {i for i, _ in cell.members} == covering
            for i, first in cell.members:
                assert views[i].columns(width)[first + x - cell.x0] == x
        assert [first for _, first in cell.members] == sorted(first for _, first in cell.members)
    assert (seen == 1).all()


@given(st.integers(1, 30), st.integers(0, 29), st.integers(1, 30))
def test_extract_and_cyclic_columns_agree_with_rolling(width: int, x0: int, window: int) -> None:
    x0, window = x0 % width, min(window, width)
    row = np.arange(width)[None]
    view = Window(0, x0, 1, window)
    np.testing.assert_array_equal(view.extract(row), np.roll(row, -x0, axis=1)[:, :window])
    back = np.full(width, -1)
    for panorama, own in cyclic_columns(x0, window, width):
        back[panorama] = view.extract(row)[0, own]
    inside = np.isin(np.arange(width), view.columns(width))
    np.testing.assert_array_equal(back, np.where(inside, np.arange(width), -1))


def test_an_image_window_across_the_seam() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Window(0, 12, 4, 8).extract_image(image), np.roll(image, 4, axis=1)[:, :8])


def test_uneven_strides_close_the_ring_evenly_on_the_grid() -> None:
    views = make_views(ViewSettings(width=512, stride=300), 400, 2048, align=8)
    gaps = np.diff([*(view.x0 for view in views), 2048])
    assert len(views) == 7
    assert gaps.max() - gaps.min() <= 8
    assert all(view.x0 % 8 == 0 for view in views)


def test_gaps_are_refused() -> None:
    with pytest.raises(ValidationError, match="leave gaps"):
        ViewSettings(width=64, stride=65)
    with pytest.raises(UserError, match="leave gaps"):
        make_views(ViewSettings(width=20, stride=20), 4, 100, align=32)


def test_scaled_needs_a_matching_grid() -> None:
    assert Window(0, 8, 10, 16).scaled(4) == Window(0, 2, 3, 4)
    with pytest.raises(ValueError, match="stride 4"):
        Window(0, 6, 10, 16).scaled(4)
