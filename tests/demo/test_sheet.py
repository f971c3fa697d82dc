import numpy as np

from demo.classes import PALETTE
from demo.sheet import contact_sheet, grid, label_colours
from demo.splits import WorldSettings, render_sample


def test_sheet_shows_pictures_beside_their_labels() -> None:
    frame = render_sample(WorldSettings(), "source-val", 0)
    sheet = contact_sheet(WorldSettings(), "source-val", 1, columns=2)
    np.testing.assert_array_equal(sheet[:, :256], frame.image)
    np.testing.assert_array_equal(sheet[:, -256:], label_colours(frame))


def test_labels_keep_their_colour_except_on_instance_outlines() -> None:
    frame = render_sample(WorldSettings(), "source-val", 1)
    plain = PALETTE[frame.labels.semantic]
    same = (label_colours(frame) == plain).all(-1)
    assert 0.6 < same.mean() < 1


def test_grid_fills_rows_on_white() -> None:
    tiles = [np.full((2, 3, 3), k, np.uint8) for k in range(3)]
    sheet = grid(tiles, columns=2)
    assert sheet.shape == (8, 10, 3)
    assert (sheet[0, 0, 0], sheet[0, -1, 0], sheet[-1, 0, 0], sheet[-1, -1, 0]) == (0, 1, 2, 255)
