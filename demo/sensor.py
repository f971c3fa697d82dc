"""From scene radiance to an 8-bit picture: exposure, colour, tone curve, lens blur, sensor noise."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from demo.colours import DISPLAY_GAMMA
from demo.domain import Domain

F32 = NDArray[np.float32]
_CURVE_SIZE = 4096
_BRIGHTEST = 4.0  # radiance at which the tone curve ends


@dataclass(frozen=True)
class Sensor:
    """`gain` multiplies radiance (exposure); `warmth` and `saturation` act on colours; `gamma` on
    display values; `blur` is in pixels, `noise` in 8-bit grey levels at mid-grey, `vignette` the
    loss of light in the corners."""

    gain: float
    warmth: float
    saturation: float
    gamma: float
    blur: float
    noise: float
    vignette: float


def draw_sensor(rng: np.random.Generator, domain: Domain, cyclic: bool) -> Sensor:
    """A camera of `domain`; a panorama, being stitched, has no vignette."""
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
    """Display value 0..1 by radiance 0.._BRIGHTEST: gamma with a soft shoulder and a slight S."""
    radiance = np.linspace(0, _BRIGHTEST, _CURVE_SIZE)
    compressed = radiance * (1 + radiance / 9) / (1 + 0.62 * radiance)
    shown = np.clip(compressed, 0, 1) ** (gamma / DISPLAY_GAMMA)
    return (0.55 * shown + 0.45 * shown * shown * (3 - 2 * shown)).astype(np.float32)


def develop(radiance: F32, sensor: Sensor, cyclic: bool) -> F32:
    """Noise-free display values (H, W, 3) float32 in 0..1 of linear radiance (H, W, 3)."""
    gains = sensor.gain * np.array([1 + sensor.warmth, 1.0, 1 - sensor.warmth], np.float32)
    exposed = radiance * gains.astype(np.float32)
    if sensor.vignette:
        h, w = radiance.shape[:2]
        y, x = np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij")
        exposed *= (1 - sensor.vignette * (x * x + y * y) / 2).astype(np.float32)[..., None]
    grey = exposed.mean(2, keepdims=True)
    exposed = grey + np.float32(sensor.saturation) * (exposed - grey)
    index = np.clip(exposed * np.float32((_CURVE_SIZE - 1) / _BRIGHTEST), 0, _CURVE_SIZE - 1)
    shown = _tone_curve(sensor.gamma)[index.astype(np.int16)]
    if sensor.blur > 0:
        shown = gaussian_filter1d(shown, sensor.blur, axis=1, mode="wrap" if cyclic else "nearest", truncate=3)
        shown = gaussian_filter1d(shown, sensor.blur, axis=0, mode="nearest", truncate=3)
    return shown


def expose(shown: F32, sensor: Sensor, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The 8-bit picture (H, W, 3): shot and read noise, partly shared by the channels, then rounding."""
    h, w = shown.shape[:2]
    level = shown * 255
    strength = np.float32(sensor.noise) * (np.float32(0.55) + np.float32(0.9) * np.sqrt(shown.mean(2, keepdims=True)))
    common = rng.standard_normal((h, w, 1), dtype=np.float32)
    single = rng.standard_normal((h, w, 3), dtype=np.float32)
    level += strength * (np.float32(0.8) * common + np.float32(0.5) * single)
    return np.clip(level + np.float32(0.5), 0, 255).astype(np.uint8)
