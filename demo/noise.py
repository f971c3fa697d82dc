"""Tileable noise tables and their look-up: the raw material of every texture.

The tables are built once per process from a fixed seed, so a texture is a function of world coordinates
alone: two cameras that see the same point see the same texture.
"""

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
SIZE = 512
_BITS = 9
_MASK = SIZE - 1
_POSITIVE = np.float32(1 << 15)  # a multiple of SIZE: keeps coordinates positive, so that truncation is floor


def _spectral(exponent: float, seed: int) -> F32:
    """`(SIZE, SIZE)` periodic field, zero mean, unit deviation, with a `1/f**exponent` amplitude
    spectrum."""
    spectrum = np.fft.rfft2(np.random.default_rng(seed).standard_normal((SIZE, SIZE)))
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None]) * SIZE
    field = np.fft.irfft2(spectrum / np.maximum(frequency, 3.0) ** exponent, (SIZE, SIZE))
    return np.ravel((field - field.mean()) / field.std()).astype(np.float32)


_FRACTAL = _spectral(1.15, 11)
_SMOOTH = _spectral(2.2, 12)
_UNIFORM: F32 = np.random.default_rng(13).random(SIZE * SIZE, dtype=np.float32)


def _lookup(table: F32, u: F32, v: F32, seed: F32 | float) -> F32:
    shift = seed if isinstance(seed, np.ndarray) else np.float32(seed)
    i = (u + (shift * np.float32(37.1) + _POSITIVE)).astype(np.int32) & _MASK
    j = (v + (shift * np.float32(91.7) + _POSITIVE)).astype(np.int32) & _MASK
    return table[(i << _BITS) | j]


def fractal(u: F32, v: F32, seed: F32 | float = 0.0) -> F32:
    """Rough noise (zero mean, unit deviation) at table coordinates `u, v` (one texel per unit), any
    equal shapes."""
    return _lookup(_FRACTAL, u, v, seed)


def smooth(u: F32, v: F32, seed: F32 | float = 0.0) -> F32:
    """Cloudy noise (zero mean, unit deviation) whose structures span tens of texels."""
    return _lookup(_SMOOTH, u, v, seed)


def uniform(u: F32, v: F32, seed: F32 | float = 0.0) -> F32:
    """Independent values in [0, 1) per integer cell: a hash for bricks, windows and slabs."""
    return _lookup(_UNIFORM, u, v, seed)
