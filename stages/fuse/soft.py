"""The soft ensemble as it is stored: a label and a mixing weight per pixel over the stitched prediction [O].

`E = (1 - g) S + g onehot(label)` holds the probability of one class per pixel exactly, the class that fusion chooses.
The other classes keep the proportions of `S`. So a changed prediction takes two bytes per pixel and not C floats. The
mixing weight `g` is stored as the array `gate`. Pure functions on arrays.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.geometry.upsample import most_likely
from stages.fuse.rules.base import FULL


def certainty(probabilities: np.ndarray) -> np.ndarray:
    """Returns 1 - normalised entropy of probabilities `(C, ...)`: float32 in 0..1, without the first axis."""
    entropy = -(probabilities * np.log(np.maximum(probabilities, np.float32(1e-12)))).sum(axis=0)
    return np.clip(1 - entropy / np.float32(np.log(max(2, len(probabilities)))), 0, 1)


class EncodedEnsemble(NamedTuple):
    """`label` and `gate` as in an `Ensemble`, uint8 `(H, W)`, and the `probability` of the label, float32."""

    label: np.ndarray
    gate: np.ndarray
    probability: np.ndarray


def encode_ensemble(stitched: np.ndarray, fused: np.ndarray) -> EncodedEnsemble:
    """Encodes `fused` as a label plus a mixing weight over `stitched`.

    Both are log-probabilities `(C, H, W)`, up to a constant per pixel. The label is the most likely class of `fused`.
    The mixing weight gives it the probability that it has in `fused`, if that is higher than in `stitched`; it is at
    least 0, and large enough for the label to be the most likely class of `E`.
    """
    label = most_likely(fused)
    wanted = 1 / _sum_of_ratios(fused, fused.max(axis=0))
    highest = stitched.max(axis=0)
    # The probability of the most likely class of S, which the label must exceed.
    rival = 1 / _sum_of_ratios(stitched, highest)
    label_value = np.take_along_axis(stitched, label[None].astype(np.intp), axis=0)[0]
    given = np.exp(label_value - highest) * rival
    needed = (rival - given) / (rival - given + 1)
    gate = np.maximum((wanted - given) / np.maximum(1 - given, np.float32(1e-6)), needed)
    steps = np.ceil(np.clip(gate, 0, 1) * FULL)
    # Rounding up makes the label the first of equal classes.
    steps = np.where(needed > 0, np.maximum(steps, np.floor(needed * FULL + np.float32(0.02)) + 1), steps)
    return EncodedEnsemble(label, np.minimum(steps, FULL).astype(np.uint8), wanted)


def _sum_of_ratios(log_probabilities: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """Sums the ratios of all classes' probabilities to the highest: float32 `(H, W)`, at least 1."""
    ratios = log_probabilities - highest
    np.exp(ratios, out=ratios)
    total: np.ndarray = ratios.sum(axis=0)
    return total


def ramp(probability: np.ndarray, lowest: float) -> np.ndarray:
    """Returns a weight map uint8 that rises from 0 at probability `lowest` to 255 at 1."""
    weight = np.clip((probability - lowest) / (1 - lowest), 0, 1)
    return np.rint(weight * FULL).astype(np.uint8)
