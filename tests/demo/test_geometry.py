"""Both cameras render the same world."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from demo.camera import Equirect, Pinhole
from demo.domain import SOURCE
from demo.render import render, render_labels, render_radiance
from demo.sensor import draw_sensor, tone_map
from tests.demo.helpers import erp_pixel, sphere_labels, street


def away_from_edges(labels: NDArray[np.generic], pixels: int) -> NDArray[np.bool_]:
    size = 2 * pixels + 1
    flat = labels.astype(np.int32)
    return maximum_filter(flat, size) == minimum_filter(flat, size)


@pytest.mark.parametrize(("seed", "yaw", "pitch"), [(0, 0.0, 0.0), (1, 200.0, -20.0), (2, 75.0, 35.0)])
def test_resampled_panorama_agrees_with_the_pinhole(seed: int, yaw: float, pitch: float) -> None:
    """Catches errors of either camera's geometry, and labels that depend on the camera."""
    camera = Pinhole(128, 256, hfov_deg=90, yaw_deg=yaw, pitch_deg=pitch)
    direct = render_labels(street(seed), camera)
    row, column = erp_pixel(camera.pixel_rays(), 2048)
    sphere = sphere_labels(seed, 2048)
    semantic, instance = sphere.semantic[row, column], sphere.instance[row, column]
    inner = away_from_edges(direct.instance, 1)
    assert inner.mean() > 0.5
    assert (semantic == direct.semantic)[inner].mean() > 0.995
    assert (instance == direct.instance)[inner].mean() > 0.995
    assert (semantic == direct.semantic).mean() > 0.95


def test_yaw_rolls_the_panorama() -> None:
    """Labels and noise-free image roll exactly with the camera: there is no seam."""
    scene = street(3)
    columns = 101
    straight = Equirect(512, 78, 100)
    yawed = Equirect(512, 78, 100, yaw_deg=360 * columns / 512)
    labels, radiance = render_radiance(scene, straight)
    labels_yawed, radiance_yawed = render_radiance(scene, yawed)
    np.testing.assert_array_equal(labels_yawed.semantic, np.roll(labels.semantic, columns, 1))
    np.testing.assert_array_equal(labels_yawed.instance, np.roll(labels.instance, columns, 1))
    rolled = np.roll(radiance, columns, 1)
    assert np.isclose(radiance_yawed, rolled, rtol=1e-3, atol=1e-4).mean() > 0.9999
    sensor = draw_sensor(np.random.default_rng(0), SOURCE, cyclic=True)
    display, display_yawed = (tone_map(r, sensor, cyclic=True) for r in (rolled, radiance_yawed))
    assert np.abs(display - display_yawed).mean() < 1e-4


def test_the_image_is_as_continuous_at_the_seam_as_elsewhere() -> None:
    _, radiance = render_radiance(street(4), Equirect(512, 78, 100))
    step = np.abs(np.roll(radiance, -1, 1) - radiance).mean((0, 2))
    assert step[-1] < 3 * np.median(step) + 0.02


def test_a_band_is_a_crop_of_the_sphere() -> None:
    whole = sphere_labels(0, 512)
    part = render_labels(street(0), Equirect(512, 78, 100))
    np.testing.assert_array_equal(part.semantic, whole.semantic[78:178])
    np.testing.assert_array_equal(part.instance, whole.instance[78:178])


def test_labels_alone_equal_the_labels_of_an_image() -> None:
    scene, camera = street(5), Pinhole(64, 128)
    sensor = draw_sensor(np.random.default_rng(1), SOURCE, cyclic=False)
    frame = render(scene, camera, sensor, np.random.default_rng(2))
    alone = render_labels(scene, camera)
    np.testing.assert_array_equal(frame.labels.semantic, alone.semantic)
    np.testing.assert_array_equal(frame.labels.instance, alone.instance)
    assert frame.image.dtype == np.uint8
    assert frame.image.shape == (64, 128, 3)
