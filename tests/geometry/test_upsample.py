"""Bilinear up-sampling, against its slow version and torch, and across the seam."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.geometry.upsample import most_likely, upsample


def reference_upsample(values: np.ndarray, stride: int, height: int, cyclic: bool) -> np.ndarray:
    """Bilinear, half-pixel centres, one output pixel at a time."""
    h, w = values.shape[-2:]
    result = np.zeros((*values.shape[:-2], height, w * stride))
    for y in range(height):
        v = min(max((y + 0.5) * h / height - 0.5, 0), h - 1)
        y0 = int(np.floor(v))
        y1 = min(y0 + 1, h - 1)
        for x in range(w * stride):
            u = (x + 0.5) / stride - 0.5
            x0 = int(np.floor(u))
            left, right = (x0 % w, (x0 + 1) % w) if cyclic else (max(x0, 0), min(x0 + 1, w - 1))
            top = values[..., y0, left] * (1 - (u - x0)) + values[..., y0, right] * (u - x0)
            bottom = values[..., y1, left] * (1 - (u - x0)) + values[..., y1, right] * (u - x0)
            result[..., y, x] = top * (1 - (v - y0)) + bottom * (v - y0)
    return result


@given(hnp.array_shapes(min_dims=2, max_dims=3, max_side=5), st.integers(1, 4), st.integers(1, 12), st.booleans())
def test_upsampling_agrees_with_the_reference(shape: tuple[int, ...], stride: int, height: int, cyclic: bool) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    fast = upsample(values, stride, height, cyclic=cyclic)
    np.testing.assert_allclose(fast, reference_upsample(values, stride, height, cyclic), atol=1e-5)


def test_upsampling_agrees_with_torch_inside() -> None:
    values = np.random.default_rng(0).normal(size=(2, 6, 9)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(values)[None], scale_factor=4, mode="bilinear")[0]
    np.testing.assert_allclose(upsample(values, 4, 24, cyclic=False), expected.numpy(), atol=1e-5)


@given(st.integers(0, 9), st.sampled_from([3, 4, 7, 8]))
def test_upsampling_rolls_bit_for_bit(steps: int, stride: int) -> None:
    values = np.random.default_rng(steps).normal(size=(3, 4, 9)).astype(np.float32)
    rolled = upsample(np.roll(values, steps, axis=-1), stride, 13, cyclic=True)
    np.testing.assert_array_equal(rolled, np.roll(upsample(values, stride, 13, cyclic=True), steps * stride, axis=-1))


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5)),
        elements=st.sampled_from(np.float32([0, 1, 2])),
    )
)
def test_the_most_likely_class_is_the_argmax(values: np.ndarray) -> None:
    np.testing.assert_array_equal(most_likely(values), values.argmax(axis=0))
