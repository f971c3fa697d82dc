"""Low-resolution logits of SAM's mask decoder: their position in the view, bounds of their masks, and up-sampling.

Three sizes are involved. A *crop* of a view (or all of it) is resized to the *input*, whose longer side is the model's
and which is padded to a square; the decoder returns *low-resolution* logits of the padded input:

    crop  --resize-->  input + padding  --encoder, decoder-->  low-resolution logits
      ^                                                            |
      +----------- two bilinear steps: `Axis.weights` -------------+

Boxes are XYXY in pixels of the crop, the last column and row included, as in segment_anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.errors import ImageError


@dataclass(frozen=True)
class Axis:
    """Up-sampling along one axis of a crop.

    Attributes:
        size: pixels of the crop.
        used: number of low-resolution pixels that the crop depends on, from the first.
        weights: float tensor `(size, used)`: the model's two bilinear steps, to the padded input and to the crop.
        first: int64 `(used,)`: first pixel of the crop that this low-resolution pixel or a later one influences.
        last: int64 `(used,)`: last pixel of the crop that this low-resolution pixel or an earlier one influences.
        sources: int64 `(size, 2)`: first and last low-resolution pixel that a pixel of the crop depends on.
        scale: pixels of the crop per low-resolution pixel.
    """

    size: int
    used: int
    weights: Any
    first: np.ndarray
    last: np.ndarray
    sources: np.ndarray
    scale: float

    @classmethod
    def of(cls, size: int, input_size: int, padded_size: int, low_size: int, device: Any) -> Axis:
        """Returns the axis of a crop of `size` pixels."""
        from torch import eye
        from torch.nn.functional import interpolate

        steps = interpolate(eye(low_size)[None], size=padded_size, mode="linear", align_corners=False)[..., :input_size]
        weights = interpolate(steps, size=size, mode="linear", align_corners=False)[0].T.contiguous()
        influences = (weights != 0).numpy()
        used = int(np.flatnonzero(influences.any(axis=0))[-1]) + 1
        influences = influences[:, :used]
        first = np.where(influences.any(axis=0), influences.argmax(axis=0), size)
        last = np.where(influences.any(axis=0), size - 1 - influences[::-1].argmax(axis=0), -1)
        return cls(
            size,
            used,
            weights[:, :used].to(device),
            np.minimum.accumulate(first[::-1])[::-1],
            np.maximum.accumulate(last),
            np.stack([influences.argmax(axis=1), used - 1 - influences[:, ::-1].argmax(axis=1)], axis=1),
            size * padded_size / (low_size * input_size),
        )

    def region(self, profile: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Bounds the pixels that may be above `level`, from the largest logits `profile` `(N, used)` along the axis.

        Every row of `profile` exceeds `level`. Returns `a, b, c, d`, each `(N,)`: pixels `c..d-1`, none if `d <= c`,
        that depend on low-resolution pixels `a..b-1` alone.
        """
        above = profile > level
        first = self.first[above.argmax(axis=1)]
        last = self.last[self.used - 1 - above[:, ::-1].argmax(axis=1)]
        low = self.sources[np.minimum(first, self.size - 1), 0], self.sources[np.maximum(last, 0), 1] + 1
        return *low, first, last + 1

    def outer(self, profile: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first and last pixel that may be above `level`; arguments as in `region`."""
        above = profile > level
        rows = np.arange(len(profile))
        begin, end = above.argmax(axis=1), self.used - 1 - above[:, ::-1].argmax(axis=1)

        def crossing(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
            high, low = profile[rows, inside] - level, profile[rows, outside] - level
            return inside + (outside - inside) * high / np.maximum(high - low, 1e-12)

        first = crossing(begin, np.maximum(begin - 1, 0))
        last = crossing(end, np.minimum(end + 1, self.used - 1))
        return self._pixels(np.where(begin == 0, -1, first), np.where(end == self.used - 1, self.used, last))

    def inner(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first and last pixel that the mask surely reaches; the last is before the first without any.

        `pairs` (bool `(N, used - 1)`) marks low-resolution pixels from which the mask is filled to the next one.
        """
        if not pairs.shape[1]:
            return np.full(len(pairs), self.size), np.full(len(pairs), -1)
        begin, end = pairs.argmax(axis=1), pairs.shape[1] - pairs[:, ::-1].argmax(axis=1)
        has_pair = pairs.any(axis=1)
        first, last = self._pixels(np.where(begin == 0, -1, begin), np.where(end == self.used - 1, self.used, end))
        return np.where(has_pair, first, self.size), np.where(has_pair, last, -1)

    def _pixels(self, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Converts positions in low-resolution pixels to the pixels between them."""
        begin, end = np.ceil((first + 0.5) * self.scale - 0.5), np.floor((last + 0.5) * self.scale - 0.5)
        return begin.clip(0, self.size - 1), end.clip(0, self.size - 1)


@dataclass(frozen=True)
class Geometry:
    """Positions of crops of one size in a model's input and in its low-resolution logits."""

    rows: Axis
    columns: Axis

    @classmethod
    def of(cls, model: Any, size: tuple[int, int]) -> Geometry:
        """Returns the geometry of crops of `size` (h, w); raises `ImageError` if a side has no pixel in the input."""
        from segment_anything.utils.transforms import ResizeLongestSide

        side = model.image_encoder.img_size
        input_size = ResizeLongestSide.get_preprocess_shape(*size, side)
        if not all(input_size):
            raise ImageError(
                f"a view of {size[0]} x {size[1]} (H x W) is {input_size[0]} x {input_size[1]} at the input size of "
                f"SAM; expected a longer side below {2 * side} times the shorter one"
            )
        low_size = (4 * n for n in model.prompt_encoder.image_embedding_size)
        rows, columns = (
            Axis.of(n, resized, side, low, model.device)
            for n, resized, low in zip(size, input_size, low_size, strict=True)
        )
        return cls(rows, columns)


@dataclass(frozen=True)
class Candidate:
    """A mask of one crop before up-sampling: its low-resolution logits, and boxes that bound the up-sampled mask.

        +- crop ------------------------------+     region: no pixel of the mask is outside; only this part is
        |  +- region ----------------------+  |             up-sampled, from `logits`
        |  |  +- outer -----------------+  |  |     outer:  holds the mask's box (but for a pixel, rarely)
        |  |  |   .--+-- inner --+---.  |  |  |     inner:  is in the mask's box
        |  |  |  (   |   mask    |    ) |  |  |
        |  |  |   '--+-----------+---'  |  |  |     The box of the mask is between `inner` and `outer`: this
        |  |  +-------------------------+  |  |     decides most suppressions by boxes without up-sampling.
        |  +-------------------------------+  |
        +-------------------------------------+

    Attributes:
        logits: float tensor `(h, w)`, cut out of the low-resolution logits.
        corner: low-resolution row and column of `logits`.
        region: XYXY, the end not included; may be empty.
        inner: XYXY, `(4,)`; may be empty, its end before its start. `outer` likewise, never empty.
        predicted_iou: quality in 0..1 as predicted by SAM.
        point: prompt (x, y).
    """

    logits: Any
    corner: tuple[int, int]
    region: tuple[int, int, int, int]
    inner: np.ndarray
    outer: np.ndarray
    predicted_iou: float
    point: tuple[float, float]

    def upsampled(self, geometry: Geometry) -> Any:
        """Returns the logits at the crop's size, in `region`: float tensor `(h, w)`."""
        left, top, right, bottom = self.region
        (row, column), (height, width) = self.corner, self.logits.shape
        row_weights = geometry.rows.weights[top:bottom, row : row + height]
        column_weights = geometry.columns.weights[left:right, column : column + width]
        return row_weights @ self.logits @ column_weights.T


def find_candidates(
    logits: Any, predicted_iou: Any, points: np.ndarray, geometry: Geometry, threshold: float, offset: float
) -> list[Candidate]:
    """Returns the masks of low-resolution logits (tensor `(N, h, w)`), without those that must be empty.

    `predicted_iou` is a tensor `(N,)`; `points` are prompts `(N, 2)` in pixels of the crop. A pixel is in a mask if its
    logit is above `threshold`. Logits down to `threshold - offset` are up-sampled, for the stability score.
    """
    import torch

    rows, columns = geometry.rows, geometry.columns
    logits = logits[:, : rows.used, : columns.used]
    row_maxima, column_maxima = logits.amax(-1).cpu().numpy(), logits.amax(-2).cpu().numpy()
    # Up-sampling averages: if no value is above the threshold, no pixel is.
    alive = np.flatnonzero(row_maxima.max(axis=1, initial=-np.inf) > threshold)
    row_maxima, column_maxima = row_maxima[alive], column_maxima[alive]
    x0, x1, left, right = columns.region(column_maxima, threshold - offset)
    y0, y1, top, bottom = rows.region(row_maxima, threshold - offset)
    # Between four neighbours that are all above the threshold, every pixel is.
    is_inside = (logits > threshold)[torch.from_numpy(alive).to(logits.device)]
    full = is_inside[:, :-1] & is_inside[:, 1:]
    full = full[:, :, :-1] & full[:, :, 1:]
    inner = columns.inner(full.any(-2).cpu().numpy()), rows.inner(full.any(-1).cpu().numpy())
    outer = columns.outer(column_maxima, threshold), rows.outer(row_maxima, threshold)
    inner_boxes, outer_boxes = (np.stack([x[0], y[0], x[1], y[1]], axis=1) for x, y in (inner, outer))
    cuts = np.stack([alive, y0, y1, x0, x1], axis=1).tolist()
    regions = np.stack([left, top, right, bottom], axis=1).tolist()
    ious, prompts = predicted_iou.cpu().numpy()[alive].tolist(), points[alive].tolist()
    return [
        Candidate(logits[k, a:b, c:d].clone(), (a, c), tuple(region), inner_box, outer_box, iou, tuple(prompt))
        for (k, a, b, c, d), region, inner_box, outer_box, iou, prompt in zip(
            cuts, regions, inner_boxes, outer_boxes, ious, prompts, strict=True
        )
    ]
