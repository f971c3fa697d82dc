"""Windows across the seam, and tiles of equal coverage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.geometry.views import ViewSettings, make_views
from pipeline.geometry.windows import Window, coverage_tiles, cyclic_columns, stack_windows

#: Width of a panorama, width and stride of its windows.
layouts = st.tuples(st.integers(2, 40), st.integers(1, 8), st.integers(1, 8)).map(
    lambda t: (t[0] * 8, min(t[0], t[1] + t[2]) * 8, min(t[0], t[1]) * 8)
)


@given(layouts)
def test_tiles_cover_the_panorama_once_and_list_the_covering_windows(sizes: tuple[int, int, int]) -> None:
    width, window, stride = sizes
    try:
        views = make_views(ViewSettings(width=window, stride=min(stride, window)), 3, width)
    except UserError:
        return
    count = np.zeros(width, int)
    for tile in coverage_tiles(views, 3, width):
        count[tile.columns] += 1
        for x in range(tile.columns.start, tile.columns.stop):
            covering = {i for i, view in enumerate(views) if x in view.columns(width)}
            assert {i for i, _, _ in tile.members} == covering
            for i, _, columns in tile.members:
                assert views[i].columns(width)[columns][x - tile.columns.start] == x
        first = [columns.start for _, _, columns in tile.members]
        assert first == sorted(first)
    assert (count == 1).all()


@given(layouts)
def test_stacked_windows_hold_all_windows_values_of_a_pixel(sizes: tuple[int, int, int]) -> None:
    width, window, stride = sizes
    try:
        views = make_views(ViewSettings(width=window, stride=min(stride, window)), 2, width)
    except UserError:
        return
    planes = np.random.default_rng(0).integers(1, 200, (len(views), 2, views[0].width), dtype=np.uint8)
    stacked = stack_windows(views, planes, (2, width), 0)
    expected: dict[tuple[int, int], list[int]] = {}
    for view, plane in zip(views, planes, strict=True):
        for y, (k, x) in itertools.product(range(2), enumerate(view.columns(width))):
            expected.setdefault((y, int(x)), []).append(int(plane[y, k]))
    assert len(stacked) == max(map(len, expected.values()))
    for (y, x), values in expected.items():
        assert sorted(stacked[:, y, x]) == sorted(values + [0] * (len(stacked) - len(values)))


def test_tiles_of_windows_of_several_heights_cover_the_panorama_once() -> None:
    settings = ViewSettings(width=16, stride=8, additional=(ViewSettings(width=40, stride=16, height=16),))
    views = make_views(settings, 32, 48)
    assert {(view.height, view.width) for view in views} == {(32, 16), (16, 40)}
    count = np.zeros((32, 48), int)
    for tile in coverage_tiles(views, 32, 48):
        count[tile.rows, tile.columns] += 1
        y0, x0 = tile.rows.start, tile.columns.start
        for i, rows, columns in tile.members:
            assert views[i].y0 + rows.start == y0
            assert rows.stop <= views[i].height
            assert views[i].columns(48)[columns.start] == x0
        covering = {i for i, v in enumerate(views) if v.y0 <= y0 < v.y0 + v.height and (x0 - v.x0) % 48 < v.width}
        assert {i for i, _, _ in tile.members} == covering
    assert (count == 1).all()


def test_weights_fall_to_the_edges_inside_the_panorama_only() -> None:
    middle = Window(8, 0, 8, 16).place((24, 64), 1).weight
    top, bottom = Window(0, 0, 8, 16).place((24, 64), 1).weight, Window(16, 0, 8, 16).place((24, 64), 1).weight
    assert middle[0].max() < 0.1 < 0.9 < middle[4].max()
    assert top[0].max() > 0.9 > 0.1 > top[-1].max()
    assert bottom[0].max() < 0.1 < 0.9 < bottom[-1].max()
    np.testing.assert_array_equal(Window(0, 0, 24, 64).place((24, 64), 4).weight, 1)
    assert (middle > 0).all()


@given(st.integers(1, 30), st.integers(0, 29), st.integers(1, 30))
def test_extract_and_cyclic_columns_agree_with_rolling(width: int, x0: int, window: int) -> None:
    x0, window = x0 % width, min(window, width)
    row = np.arange(width)[None]
    view = Window(0, x0, 1, window)
    np.testing.assert_array_equal(view.extract(row), np.roll(row, -x0, axis=1)[:, :window])
    back = np.full(width, -1)
    for panorama, part in cyclic_columns(x0, window, width):
        back[panorama] = view.extract(row)[0, part]
    inside = np.isin(np.arange(width), view.columns(width))
    np.testing.assert_array_equal(back, np.where(inside, np.arange(width), -1))


def test_an_image_window_across_the_seam() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Window(0, 12, 4, 8).extract_image(image), np.roll(image, 4, axis=1)[:, :8])


def test_scaled_needs_a_matching_grid() -> None:
    assert Window(0, 8, 10, 16).scaled(4) == Window(0, 2, 3, 4)
    with pytest.raises(ValueError, match="stride 4"):
        Window(0, 6, 10, 16).scaled(4)
