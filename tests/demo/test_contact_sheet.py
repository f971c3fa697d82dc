"""The contact sheet of the world."""

import numpy as np

from demo.contact_sheet import arrange_grid, colour_labels, render_sheet
from demo.splits import WorldSettings, render_sample
from pipeline.data.labels import load_label_space


def test_a_sheet_has_images_beside_their_labels() -> None:
    frame = render_sample(WorldSettings(), "source-val", 0)
    sheet = render_sheet(WorldSettings(), "source-val", 1, columns=2)
    np.testing.assert_array_equal(sheet[:, :256], frame.image)
    np.testing.assert_array_equal(sheet[:, -256:], colour_labels(frame))


def test_labels_keep_their_colour_except_on_instance_outlines() -> None:
    frame = render_sample(WorldSettings(), "source-val", 1)
    plain = load_label_space("cityscapes19").colours(frame.labels.semantic)
    same = (colour_labels(frame) == plain).all(-1)
    assert 0.6 < same.mean() < 1


def test_grid_fills_rows_on_white() -> None:
    tiles = [np.full((2, 3, 3), k, np.uint8) for k in range(3)]
    sheet = arrange_grid(tiles, columns=2)
    assert sheet.shape == (8, 10, 3)
    assert (sheet[0, 0, 0], sheet[0, -1, 0], sheet[-1, 0, 0], sheet[-1, -1, 0]) == (0, 1, 2, 255)
