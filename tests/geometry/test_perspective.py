"""Pinhole views of a panorama."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.geometry.perspective import Perspective
from pipeline.geometry.views import ViewSettings, make_views

SPHERE = (256, 512)


def directions(size: tuple[int, int]) -> np.ndarray:
    """Unit vectors (right, up, ahead) of a full sphere's pixels, column 0 ahead: (H, W, 3)."""
    longitude = (np.arange(size[1]) + 0.5) * 2 * np.pi / size[1]
    latitude = (size[0] / 2 - np.arange(size[0]) - 0.5)[:, None] * 2 * np.pi / size[1]
    x, y, z = (
        np.cos(latitude) * np.sin(longitude),
        np.sin(latitude) + 0 * longitude,
        np.cos(latitude) * np.cos(longitude),
    )
    return np.stack([x, y, z], axis=-1)


def as_image(vectors: np.ndarray) -> np.ndarray:
    return np.rint(127.5 + 127.5 * vectors).astype(np.uint8)


@pytest.mark.parametrize(("column", "pitch"), [(0, 0.0), (128, 0.0), (40, 50.0), (500, -70.0), (0, 90.0)])
def test_a_pixel_shows_the_direction_of_its_ray(column: int, pitch: float) -> None:
    view = Perspective(column, pitch, 90.0, 64, 96)
    seen = view.extract_image(as_image(directions(SPHERE)))
    focal = 96 / 2 / np.tan(np.radians(45))
    yaw, tilt = 2 * np.pi * column / SPHERE[1], np.radians(pitch)
    for row in (0, 20, 63):
        for k in (0, 50, 95):
            ray = np.array([(k + 0.5 - 48) / focal, (32 - row - 0.5) / focal, 1.0])
            ray /= np.linalg.norm(ray)
            x, y, z = (
                ray[0],
                ray[1] * np.cos(tilt) + ray[2] * np.sin(tilt),
                ray[2] * np.cos(tilt) - ray[1] * np.sin(tilt),
            )
            expected = np.array([x * np.cos(yaw) + z * np.sin(yaw), y, z * np.cos(yaw) - x * np.sin(yaw)])
            np.testing.assert_allclose(seen[row, k].astype(float), 127.5 + 127.5 * expected, atol=2)


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize(("column", "pitch"), [(0, 0.0), (48, 60.0), (504, -60.0)])
def test_the_pixels_of_a_view_are_projected_back_to_their_positions(column: int, pitch: float, stride: int) -> None:
    image = as_image(directions(SPHERE))
    view = Perspective(column, pitch, 90.0, 256, 256)
    seen = np.moveaxis(view.extract_image(image), -1, 0).astype(np.float32)
    placement = view.place(SPHERE, stride)
    back = placement.interpolate(seen)
    window = placement.window
    coarse = image.reshape(SPHERE[0] // stride, stride, SPHERE[1] // stride, stride, 3).mean(axis=(1, 3))
    expected = np.moveaxis(coarse[window.y0 : window.y0 + window.height], -1, 0)[..., window.columns(512 // stride)]
    difference = np.abs(back - expected).max(axis=0)[placement.covered]
    assert difference.max() <= (3 if stride == 1 else 4)
    assert placement.covered.sum() > 0.08 * coarse[..., 0].size


def test_a_rolled_panorama_gives_the_same_views_bit_for_bit() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    for pitch in (-60.0, 0.0, 75.0):
        for shift in (8, 64, 120):
            a, b = Perspective(16, pitch, 90, 48, 48), Perspective((16 + shift) % 128, pitch, 90, 48, 48)
            np.testing.assert_array_equal(b.extract_image(np.roll(image, shift, axis=1)), a.extract_image(image))
            at, moved = a.place((64, 128), 4), b.place((64, 128), 4)
            assert moved.window.x0 == (at.window.x0 + shift // 4) % 32
            np.testing.assert_array_equal(moved.weight, at.weight)


def test_the_default_views_cover_the_sphere() -> None:
    views = make_views(ViewSettings(kind="perspective"), *SPHERE)
    assert len(views) == 24
    seen = np.zeros(SPHERE, int)
    for view in views:
        placement = view.place(SPHERE, 1)
        rows = np.arange(placement.window.y0, placement.window.y0 + placement.window.height)
        seen[np.ix_(rows, placement.window.columns(SPHERE[1]))] += placement.covered
    assert seen.min() >= 1


def test_a_band_is_black_beyond_its_rows() -> None:
    band = np.full((64, 512, 3), 200, np.uint8)
    seen = Perspective(0, 0.0, 90.0, 128, 128).extract_image(band)
    assert (seen[64] == 200).all()
    assert (seen[0] == 0).all()
    assert (Perspective(0, 0.0, 90.0, 128, 128).place((64, 512), 1).window.height) == 64


def test_a_view_without_a_pixel_of_the_panorama_is_refused() -> None:
    with pytest.raises(ValueError, match="shows no pixel"):
        Perspective(0, 80.0, 40.0, 32, 32).place((64, 512), 1)
