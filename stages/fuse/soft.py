"""The soft ensemble in the form that is stored: a label and a gate a pixel over the stitched prediction.

`E = (1 - g) S + g onehot(label)` can say the probability of one class a pixel exactly, and that is what fusion
decides; the rest of `E` keeps the proportions of `S`. A changed prediction is so kept at pixel resolution in two
bytes a pixel, not in C floats. Pure functions on arrays (ours).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.geometry.upsample import most_likely
from stages.fuse.rules.base import FULL


def probabilities(log_probabilities: np.ndarray) -> np.ndarray:
    """`(C, ...)` log-probabilities, up to a constant, as probabilities float32."""
    result = np.exp(log_probabilities - log_probabilities.max(axis=0))
    return result / result.sum(axis=0)


def certainty(probabilities: np.ndarray) -> np.ndarray:
    """1 - normalised entropy of probabilities `(C, ...)`: float32 in 0..1, without the first axis."""
    entropy = -(probabilities * np.log(np.maximum(probabilities, np.float32(1e-12)))).sum(axis=0)
    return np.clip(1 - entropy / np.float32(np.log(max(2, len(probabilities)))), 0, 1)


class Gated(NamedTuple):
    """`label` and `gate` as in an ensemble, uint8 `(H, W)`, and `probability` of the label, float32."""

    label: np.ndarray
    gate: np.ndarray
    probability: np.ndarray


def encode_ensemble(stitched: np.ndarray, fused: np.ndarray) -> Gated:
    """The label and gate by which `S` says what `fused` says of its most likely class.

    Both are log-probabilities `(C, H, W)`, up to a constant a pixel. The gate gives the label its probability in
    `fused` where that is higher than in `S`, is never lower than 0, and always high enough for the label to be the
    most likely class of `E`.
    """
    label = most_likely(fused)
    wanted = 1 / _sum_of_ratios(fused, fused.max(axis=0))
    highest = stitched.max(axis=0)
    # the most likely class of S, which must not win over the label
    rival = 1 / _sum_of_ratios(stitched, highest)
    own = np.take_along_axis(stitched, label[None].astype(np.intp), axis=0)[0]
    given = np.exp(own - highest) * rival
    needed = (rival - given) / (rival - given + 1)
    gate = np.maximum((wanted - given) / np.maximum(1 - given, np.float32(1e-6)), needed)
    steps = np.ceil(np.clip(gate, 0, 1) * FULL)
    # rounding up makes the label the first of equals
    steps = np.where(needed > 0, np.maximum(steps, np.floor(needed * FULL + np.float32(0.02)) + 1), steps)
    return Gated(label, np.minimum(steps, FULL).astype(np.uint8), wanted)


def _sum_of_ratios(log_probabilities: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """Sum over classes of their probability over the highest: float32 `(H, W)`, at least 1."""
    ratios = log_probabilities - highest
    np.exp(ratios, out=ratios)
    total: np.ndarray = ratios.sum(axis=0)
    return total


def ramp(probability: np.ndarray, lowest: float) -> np.ndarray:
    """A weight map uint8 that rises from 0 at `lowest` to 255 at probability 1."""
    risen = np.clip((probability - lowest) / (1 - lowest), 0, 1)
    return np.rint(risen * FULL).astype(np.uint8)
