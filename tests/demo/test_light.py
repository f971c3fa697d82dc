"""Shadows and the sensor."""

import numpy as np

from demo.primitives import Pose, SceneBuilder, Shape
from demo.sensor import Sensor, digitize, tone_map
from demo.shadow import ShadowMap

PLAIN = Sensor(gain=1.0, warmth=0.0, saturation=1.0, gamma=1.0, blur=0.0, noise=0.0, vignette=0.0)


def test_a_box_casts_a_shadow_away_from_the_sun() -> None:
    builder = SceneBuilder(1)
    builder.new_object(Pose(5, 0, 2), 2).add_solid(Shape.BOX, (0, 0, 0), (1, 1, 2), (1, 1, 1))
    sun = np.array([1.0, 0.0, 1.0]) / np.sqrt(2)  # in the east, 45 degrees high: the shadow is 4 m long, westwards
    shadows = ShadowMap(builder.build(), np.zeros(3), sun, 256)
    points = np.array([[2.0, 0, 0], [-1.5, 0, 0], [8.0, 0, 0], [2.0, 3, 0], [5.0, 0, 4.0], [6.0, 0, 2.0]]).T
    normals = np.array([[0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1], [1, 0, 0]]).T
    visibility = shadows.visibility(points.astype(np.float32), normals.astype(np.float32))
    np.testing.assert_allclose(visibility, [0, 1, 1, 1, 1, 1], atol=0.05)


def test_exposure_brightens_and_noise_has_the_given_deviation() -> None:
    radiance = np.full((200, 200, 3), 0.18, np.float32)
    dark, bright = (tone_map(radiance * k, PLAIN, cyclic=False).mean() for k in (1, 2))
    assert 0.3 < dark < bright < 0.9
    noisy = Sensor(gain=1.0, warmth=0.0, saturation=1.0, gamma=1.0, blur=0.0, noise=4.0, vignette=0.0)
    image = digitize(np.full((200, 200, 3), 0.5, np.float32), noisy, np.random.default_rng(0))
    assert 3.5 < image.std() < 6.0
    assert abs(float(image.mean()) - 127.5) < 0.5


def test_panorama_blur_wraps_and_pinhole_blur_does_not() -> None:
    radiance = np.zeros((5, 32, 3), np.float32)
    radiance[:, 0] = 1.0
    blurred = Sensor(gain=1.0, warmth=0.0, saturation=1.0, gamma=1.0, blur=0.8, noise=0.0, vignette=0.0)
    assert tone_map(radiance, blurred, cyclic=True)[2, -1, 0] > 0.05
    assert tone_map(radiance, blurred, cyclic=False)[2, -1, 0] == 0
