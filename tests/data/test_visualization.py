"""Pictures: class ids survive in palette images, legends name all classes, grids stay in their bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.data.images import ImagePreprocessing, read_labels
from pipeline.data.labels import load_label_space
from pipeline.data.visualization import (
    MAX_GRID_WIDTH,
    add_legend,
    grey_to_rgb,
    image_grid,
    overlay,
    overlay_masks,
    palette_image,
    save_picture,
)
from pipeline.geometry.masks import from_masks
from tests.models import street


@pytest.mark.parametrize("name", ["cityscapes19", "densepass13", "wildpass8"])
def test_palette_images_show_colours_and_hold_class_ids(tmp_path: Path, name: str) -> None:
    """Few classes too: a palette of less than 17 colours would be stored with 4 bits, and 255 become 15."""
    space = load_label_space(name)
    labels = np.random.default_rng(0).integers(0, space.num_classes + 1, (20, 30)).astype(np.uint8)
    labels[labels == space.num_classes] = 255
    save_picture(palette_image(labels, space), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), space.colours(labels))
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png", ImagePreprocessing(), space), labels)


def test_ignored_pixels_of_an_overlay_stay() -> None:
    space, image = load_label_space("cityscapes19"), street()
    labels = np.zeros((64, 256), np.uint8)
    labels[:, 100:] = 255
    picture = overlay(image, labels, space, opacity=1.0)
    np.testing.assert_array_equal(picture[:, 100:], image[:, 100:])
    assert (picture[:, :100] == space.palette[0]).all()


def test_overlaid_masks_have_colours_and_outlines() -> None:
    image = np.full((32, 64, 3), 100, np.uint8)
    mask = np.zeros((32, 64), bool)
    mask[8:24, 10:40] = True
    picture = overlay_masks(image, from_masks([mask], 32, 64))
    assert (picture[0, 0] == 100).all()
    assert not (picture[16, 25] == 100).all()
    assert (picture == 255).all(axis=-1).any()
    np.testing.assert_array_equal(overlay_masks(image, from_masks([], 32, 64)), image)


@pytest.mark.parametrize("width", [64, 256, 2048])
def test_a_legend_is_below_the_picture_and_shows_every_class(width: int) -> None:
    space, picture = load_label_space("cityscapes19"), street(64, width)
    result = np.asarray(add_legend(picture, space))
    np.testing.assert_array_equal(result[:64], picture)
    colours = {tuple(colour) for colour in result[64:].reshape(-1, 3).tolist()}
    assert set(space.palette) <= colours
    assert result.shape[1] == width


def test_wide_panels_are_scaled_down_and_short_rows_end_in_white() -> None:
    panel = np.zeros((400, 2048, 3), np.uint8)
    grid = image_grid([[("a", panel), ("b", panel), ("c", panel)], [("d", panel)]])
    assert grid.width <= MAX_GRID_WIDTH
    assert grid.width > MAX_GRID_WIDTH - 3
    pixels = np.asarray(grid)
    assert (pixels[-1, : grid.width // 3] == 0).all()
    assert (pixels[grid.height // 2 :, grid.width // 3 + 1 :] == 255).all()


def test_titles_are_shortened_to_their_panels() -> None:
    panel = grey_to_rgb(np.zeros((20, 100), np.uint8))
    grid = np.asarray(image_grid([[("a long title " * 20, panel), ("", panel)]]))
    title_height = len(grid) - 20
    assert (grid[:title_height, :100] < 128).any()
    assert (grid[:title_height, 100:] == 255).all()


def test_the_format_of_a_picture_follows_from_its_suffix(tmp_path: Path) -> None:
    picture = Image.fromarray(street())
    save_picture(picture, tmp_path / "new" / "a.jpg", quality=90)
    assert Image.open(tmp_path / "new" / "a.jpg").format == "JPEG"
    with pytest.raises(UserError, match=r"found the suffix '\.txt', expected that of a picture"):
        save_picture(picture, tmp_path / "a.txt")
