"""Tileable noise tables and their lookup, on which all textures are built.

The tables are computed once per process from fixed seeds. A texture is therefore a function of world coordinates
alone, and two cameras that image the same point get the same texture.
"""

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
_BITS = 9
_SIZE = 1 << _BITS
_MASK = _SIZE - 1
_POSITIVE = np.float32(1 << 15)  # a multiple of _SIZE that makes coordinates positive, so that truncation is floor


def _spectral_noise(exponent: float, seed: int) -> F32:
    """Returns a flat periodic field of zero mean, unit deviation and amplitude spectrum `1 / f**exponent`."""
    spectrum = np.fft.rfft2(np.random.default_rng(seed).standard_normal((_SIZE, _SIZE)))
    frequency = np.hypot(np.fft.fftfreq(_SIZE)[:, None], np.fft.rfftfreq(_SIZE)[None]) * _SIZE
    field = np.fft.irfft2(spectrum / np.maximum(frequency, 3.0) ** exponent, (_SIZE, _SIZE))
    return np.ravel((field - field.mean()) / field.std()).astype(np.float32)


_FRACTAL = _spectral_noise(1.15, 11)
_SMOOTH = _spectral_noise(2.2, 12)
_UNIFORM: F32 = np.random.default_rng(13).random(_SIZE * _SIZE, dtype=np.float32)


def _lookup(table: F32, u: F32, v: F32, seed: F32 | float) -> F32:
    shift = seed if isinstance(seed, np.ndarray) else np.float32(seed)
    i = (u + (shift * np.float32(37.1) + _POSITIVE)).astype(np.int32) & _MASK
    j = (v + (shift * np.float32(91.7) + _POSITIVE)).astype(np.int32) & _MASK
    return table[(i << _BITS) | j]


def fractal(u: F32, v: F32, seed: F32 | float = 0.0) -> F32:
    """Returns rough noise (zero mean, unit deviation) at texel coordinates `u`, `v` of equal shape."""
    return _lookup(_FRACTAL, u, v, seed)


def smooth(u: F32, v: F32, seed: F32 | float = 0.0) -> F32:
    """Returns low-frequency noise (zero mean, unit deviation) with structures of tens of texels."""
    return _lookup(_SMOOTH, u, v, seed)


def uniform(u: F32, v: F32, seed: F32 | float = 0.0) -> F32:
    """Returns independent values in [0, 1) per integer cell: a hash for bricks, windows and slabs."""
    return _lookup(_UNIFORM, u, v, seed)
