"""The sensor: from scene radiance to an 8-bit image by exposure, colour, tone curve, lens blur and noise."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from demo.colours import DISPLAY_GAMMA
from demo.domain import Domain

F32 = NDArray[np.float32]
_CURVE_SIZE = 4096
_MAX_RADIANCE = 4.0  # end of the tone curve


@dataclass(frozen=True)
class Sensor:
    """Parameters of the sensor.

    Attributes:
        gain: exposure, multiplies radiance.
        warmth: relative gain of red over green; blue gets the opposite.
        saturation: factor of the distance from grey.
        gamma: exponent of display values.
        blur: standard deviation, pixels.
        noise: standard deviation at mid-grey, 8-bit grey levels.
        vignette: share of light lost in the corners.
    """

    gain: float
    warmth: float
    saturation: float
    gamma: float
    blur: float
    noise: float
    vignette: float


def draw_sensor(rng: np.random.Generator, domain: Domain, cyclic: bool) -> Sensor:
    """Draws a sensor of a domain; a panorama (`cyclic`) is stitched and has no vignette."""
    return Sensor(
        gain=float(rng.uniform(*domain.exposure)),
        warmth=float(rng.uniform(*domain.warmth)),
        saturation=float(rng.uniform(*domain.saturation)),
        gamma=float(rng.uniform(*domain.gamma)),
        blur=float(rng.uniform(*domain.blur)),
        noise=float(rng.uniform(*domain.noise)),
        vignette=0.0 if cyclic else float(rng.uniform(0, 0.3)),
    )


def _tone_curve(gamma: float) -> F32:
    """Returns display values, 0..1, of `_CURVE_SIZE` radiances: gamma with a soft shoulder and a slight S."""
    radiance = np.linspace(0, _MAX_RADIANCE, _CURVE_SIZE)
    compressed = radiance * (1 + radiance / 9) / (1 + 0.62 * radiance)
    display = np.clip(compressed, 0, 1) ** (gamma / DISPLAY_GAMMA)
    return (0.55 * display + 0.45 * display * display * (3 - 2 * display)).astype(np.float32)


def tone_map(radiance: F32, sensor: Sensor, cyclic: bool) -> F32:
    """Returns noise-free display values (H, W, 3) in 0..1 of linear radiance (H, W, 3)."""
    gains = sensor.gain * np.array([1 + sensor.warmth, 1.0, 1 - sensor.warmth], np.float32)
    exposed = radiance * gains.astype(np.float32)
    if sensor.vignette:
        h, w = radiance.shape[:2]
        y, x = np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij")
        exposed *= (1 - sensor.vignette * (x * x + y * y) / 2).astype(np.float32)[..., None]
    grey = exposed.mean(2, keepdims=True)
    exposed = grey + np.float32(sensor.saturation) * (exposed - grey)
    index = np.clip(exposed * np.float32((_CURVE_SIZE - 1) / _MAX_RADIANCE), 0, _CURVE_SIZE - 1)
    display = _tone_curve(sensor.gamma)[index.astype(np.int16)]
    if sensor.blur > 0:
        display = gaussian_filter1d(display, sensor.blur, axis=1, mode="wrap" if cyclic else "nearest", truncate=3)
        display = gaussian_filter1d(display, sensor.blur, axis=0, mode="nearest", truncate=3)
    return display


def digitize(display: F32, sensor: Sensor, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Returns the 8-bit image (H, W, 3) of display values: adds noise, partly shared by the channels, and rounds."""
    h, w = display.shape[:2]
    level = display * 255
    deviation = np.float32(sensor.noise) * (
        np.float32(0.55) + np.float32(0.9) * np.sqrt(display.mean(2, keepdims=True))
    )
    shared = rng.standard_normal((h, w, 1), dtype=np.float32)
    independent = rng.standard_normal((h, w, 3), dtype=np.float32)
    level += deviation * (np.float32(0.8) * shared + np.float32(0.5) * independent)
    return np.clip(level + np.float32(0.5), 0, 255).astype(np.uint8)
