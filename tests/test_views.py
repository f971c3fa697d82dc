"""Views on the ring."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.core.errors import UserError
from pipeline.geometry.views import ViewSettings, make_views
from pipeline.geometry.windows import Window, coverage_tiles, cyclic_columns, layers

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
    for cell in coverage_tiles(views, 3, width):
        seen[cell.columns] += 1
        for x in range(cell.x0, cell.x1):
            covering = {i for i, view in enumerate(views) if x in view.columns(width)}
            assert {i for i, _, _ in cell.members} == covering
            for i, _, first in cell.members:
                assert views[i].columns(width)[first + x - cell.x0] == x
        assert [first for _, _, first in cell.members] == sorted(first for _, _, first in cell.members)
    assert (seen == 1).all()


@given(ring)
def test_layers_hold_what_every_window_says_of_a_pixel(sizes: tuple[int, int, int]) -> None:
    width, window, stride = sizes
    try:
        views = make_views(ViewSettings(width=window, stride=min(stride, window)), 2, width)
    except UserError:
        return
    planes = np.random.default_rng(0).integers(1, 200, (len(views), 2, views[0].width), dtype=np.uint8)
    found = layers(views, planes, (2, width), 0)
    said: dict[tuple[int, int], list[int]] = {}
    for view, plane in zip(views, planes, strict=True):
        for y, (k, x) in itertools.product(range(2), enumerate(view.columns(width))):
            said.setdefault((y, int(x)), []).append(int(plane[y, k]))
    assert len(found) == max(map(len, said.values()))
    for (y, x), values in said.items():
        assert sorted(found[:, y, x]) == sorted(values + [0] * (len(found) - len(values)))


def test_cells_of_windows_of_several_heights_tile_the_panorama() -> None:
    settings = ViewSettings(width=16, stride=8, also=(ViewSettings(width=40, stride=16, height=16),))
    views = make_views(settings, 32, 48)
    assert {(view.height, view.width) for view in views} == {(32, 16), (16, 40)}
    seen = np.zeros((32, 48), int)
    for cell in coverage_tiles(views, 32, 48):
        seen[cell.rows, cell.columns] += 1
        for i, y, x in cell.members:
            rows, columns = cell.of(y, x)
            assert views[i].y0 + rows.start == cell.y0
            assert rows.stop <= views[i].height
            assert views[i].columns(48)[columns.start] == cell.x0
        covering = {
            i for i, v in enumerate(views) if v.y0 <= cell.y0 < v.y0 + v.height and (cell.x0 - v.x0) % 48 < v.width
        }
        assert {i for i, _, _ in cell.members} == covering
    assert (seen == 1).all()


def test_windows_lower_than_the_panorama_reach_its_bottom() -> None:
    views = make_views(ViewSettings(width=512, stride=256, height=160), 400, 2048)
    assert sorted({view.y0 for view in views}) == [0, 80, 160, 240]
    with pytest.raises(UserError, match="expected both to be multiples of 8"):
        make_views(ViewSettings(width=512, stride=256, height=150), 400, 2048)


def test_weights_fall_to_the_edges_inside_the_panorama_only() -> None:
    middle = Window(8, 0, 8, 16).place((24, 64), 1).weight
    top, bottom = Window(0, 0, 8, 16).place((24, 64), 1).weight, Window(16, 0, 8, 16).place((24, 64), 1).weight
    assert middle[0].max() < 0.1 < 0.9 < middle[4].max()
    assert top[0].max() > 0.9 > 0.1 > top[-1].max()
    assert bottom[0].max() < 0.1 < 0.9 < bottom[-1].max()
    np.testing.assert_array_equal(Window(0, 0, 24, 64).place((24, 64), 4).weight, 1)
    assert (middle > 0).all()


def test_a_padded_window_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected kind whole"):
        ViewSettings(padding=8)
    with pytest.raises(ValidationError, match="multiple of 8"):
        ViewSettings(kind="whole", padding=5)


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
