import numpy as np
import pytest

from demo.camera import Equirect, Pinhole
from demo.splits import band
from tests.demo.helpers import erp_pixel


def test_pinhole_axes() -> None:
    """The middle looks ahead, the right edge to the right (y is left), down is down."""
    camera = Pinhole(100, 200, hfov_deg=90)
    middle, right, below = camera.directions(np.array([100, 200, 100]), np.array([50, 50, 100]))
    np.testing.assert_allclose(middle, [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(right, [0.70711, -0.70711, 0], atol=1e-5)
    assert below[2] < 0


def test_pinhole_yaw_turns_left_and_pitch_lifts() -> None:
    turned = Pinhole(2, 2, yaw_deg=90).directions(np.array([1.0]), np.array([1.0]))[0]
    lifted = Pinhole(2, 2, pitch_deg=30).directions(np.array([1.0]), np.array([1.0]))[0]
    np.testing.assert_allclose(turned, [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(lifted, [np.cos(np.pi / 6), 0, 0.5], atol=1e-6)


@pytest.mark.parametrize("camera", [Pinhole(30, 50, 80, 20, -5), Equirect(64), Equirect(64, 10, 12, 33.0)])
def test_grid_is_the_pixel_centres_and_has_unit_length(camera: Pinhole | Equirect) -> None:
    y, x = np.meshgrid(np.arange(camera.height) + 0.5, np.arange(camera.width) + 0.5, indexing="ij")
    np.testing.assert_allclose(camera.grid(), camera.directions(x, y), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(camera.grid(), axis=-1), 1, atol=1e-6)


def test_erp_pixels_cover_the_sphere_in_order() -> None:
    row, column = erp_pixel(Equirect(64).grid(), 64)
    np.testing.assert_array_equal(row, np.arange(32)[:, None].repeat(64, 1))
    np.testing.assert_array_equal(column, np.arange(64)[None].repeat(32, 0))


@pytest.mark.parametrize("columns", [1, 7, 32, 63, -5])
def test_turning_the_panorama_rolls_its_rays_bit_for_bit(columns: int) -> None:
    turned = Equirect(64, yaw_deg=360 * columns / 64).grid()
    np.testing.assert_array_equal(turned, np.roll(Equirect(64).grid(), columns, axis=1))


@pytest.mark.parametrize(("width", "first", "height"), [(2048, 312, 400), (1024, 156, 200)])
def test_the_band_is_seventy_degrees_round_the_horizon(width: int, first: int, height: int) -> None:
    camera = band(width)
    assert (camera.first_row, camera.height) == (first, height)
    np.testing.assert_array_equal(camera.grid(), Equirect(width).grid()[first : first + height])
    np.testing.assert_allclose(camera.grid()[0, :, 2], -camera.grid()[-1, :, 2], atol=1e-6)


def test_rows_outside_the_sphere_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rows 30\.\.40 do not lie in a sphere of 32 rows"):
        Equirect(64, first_row=30, height=10)
    with pytest.raises(ValueError, match="even width, found 63"):
        Equirect(63)
