"""Camera geometry."""

import numpy as np
import pytest

from demo.camera import Equirect, Pinhole
from demo.splits import panorama_camera
from tests.demo.helpers import erp_pixel


def test_pinhole_axes() -> None:
    """The centre maps to +x, the right edge to -y, the lower edge to -z."""
    camera = Pinhole(100, 200, hfov_deg=90)
    middle, right, below = camera.ray_directions(np.array([100, 200, 100]), np.array([50, 50, 100]))
    np.testing.assert_allclose(middle, [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(right, [0.70711, -0.70711, 0], atol=1e-5)
    assert below[2] < 0


def test_pinhole_yaw_is_counter_clockwise_and_pitch_upwards() -> None:
    yawed = Pinhole(2, 2, yaw_deg=90).ray_directions(np.array([1.0]), np.array([1.0]))[0]
    pitched = Pinhole(2, 2, pitch_deg=30).ray_directions(np.array([1.0]), np.array([1.0]))[0]
    np.testing.assert_allclose(yawed, [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(pitched, [np.cos(np.pi / 6), 0, 0.5], atol=1e-6)


@pytest.mark.parametrize("camera", [Pinhole(30, 50, 80, 20, -5), Equirect(64), Equirect(64, 10, 12, 33.0)])
def test_pixel_rays_pass_through_pixel_centres_and_have_unit_length(camera: Pinhole | Equirect) -> None:
    y, x = np.meshgrid(np.arange(camera.height) + 0.5, np.arange(camera.width) + 0.5, indexing="ij")
    np.testing.assert_allclose(camera.pixel_rays(), camera.ray_directions(x, y), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(camera.pixel_rays(), axis=-1), 1, atol=1e-6)


def test_erp_pixels_cover_the_sphere_in_order() -> None:
    row, column = erp_pixel(Equirect(64).pixel_rays(), 64)
    np.testing.assert_array_equal(row, np.arange(32)[:, None].repeat(64, 1))
    np.testing.assert_array_equal(column, np.arange(64)[None].repeat(32, 0))


@pytest.mark.parametrize("columns", [1, 7, 32, 63, -5])
def test_yaw_rolls_the_rays_of_a_panorama_bit_for_bit(columns: int) -> None:
    yawed = Equirect(64, yaw_deg=360 * columns / 64).pixel_rays()
    np.testing.assert_array_equal(yawed, np.roll(Equirect(64).pixel_rays(), columns, axis=1))


@pytest.mark.parametrize(("width", "first", "height"), [(2048, 312, 400), (1024, 156, 200)])
def test_the_panorama_camera_covers_seventy_degrees_around_the_horizon(width: int, first: int, height: int) -> None:
    camera = panorama_camera(width)
    assert (camera.first_row, camera.height) == (first, height)
    np.testing.assert_array_equal(camera.pixel_rays(), Equirect(width).pixel_rays()[first : first + height])
    np.testing.assert_allclose(camera.pixel_rays()[0, :, 2], -camera.pixel_rays()[-1, :, 2], atol=1e-6)


def test_invalid_panorama_sizes_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"rows: found 30\.\.40; expected a range inside 0\.\.32"):
        Equirect(64, first_row=30, height=10)
    with pytest.raises(ValueError, match="width: found 63; expected an even number"):
        Equirect(63)
