"""The decoder's low-resolution logits: their place in the view, what they tell cheaply, and their up-sampling.

Three sizes meet here. A *crop* of a view (or all of it) is resized to the *input*, whose longer side is the model's;
padded, the encoder sees it; the decoder answers with *low-resolution* logits of the padded input. Boxes are XYXY in
pixels of the crop, the last column and row included, as segment_anything has them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pipeline.core.errors import ImageError


@dataclass(frozen=True)
class Axis:
    """One axis of a crop: `size` pixels, which depend on the first `taken` low-resolution pixels.

    `weights` is the float tensor `(size, taken)` that makes the crop's values of low-resolution ones: the model's
    own two bilinear steps, to the padded input, and from the input to the crop. `first` and `last` (int64
    `(taken,)`) are the first of the crop's pixels that a low-resolution pixel or a later one reaches, and the last
    that it or an earlier one does; `needs` (int64 `(size, 2)`) the first and last low-resolution pixel that a pixel
    of the crop depends on. `scale` is the crop's pixels a low-resolution pixel.
    """

    size: int
    taken: int
    weights: Any
    first: np.ndarray
    last: np.ndarray
    needs: np.ndarray
    scale: float

    @classmethod
    def of(cls, size: int, input_size: int, padded: int, low: int, device: Any) -> Axis:
        from torch import eye
        from torch.nn.functional import interpolate

        steps = interpolate(eye(low)[None], size=padded, mode="linear", align_corners=False)[..., :input_size]
        weights = interpolate(steps, size=size, mode="linear", align_corners=False)[0].T.contiguous()
        reached = (weights != 0).numpy()
        taken = int(np.flatnonzero(reached.any(axis=0))[-1]) + 1
        reached = reached[:, :taken]
        first = np.where(reached.any(axis=0), reached.argmax(axis=0), size)
        last = np.where(reached.any(axis=0), size - 1 - reached[::-1].argmax(axis=0), -1)
        return cls(
            size,
            taken,
            weights[:, :taken].to(device),
            np.minimum.accumulate(first[::-1])[::-1],
            np.maximum.accumulate(last),
            np.stack([reached.argmax(axis=1), taken - 1 - reached[:, ::-1].argmax(axis=1)], axis=1),
            size * padded / (low * input_size),
        )

    def outer(self, profile: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The first and last pixel that may be above `level`, given the largest values `(N, taken)` along the axis.

        Every row must have a value above `level`.
        """
        above = profile > level
        rows = np.arange(len(profile))
        begin, end = above.argmax(axis=1), self.taken - 1 - above[:, ::-1].argmax(axis=1)

        def crossing(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
            high, low = profile[rows, inside] - level, profile[rows, outside] - level
            return inside + (outside - inside) * high / np.maximum(high - low, 1e-12)

        first = crossing(begin, np.maximum(begin - 1, 0))
        last = crossing(end, np.minimum(end + 1, self.taken - 1))
        return self._pixels(np.where(begin == 0, -1, first), np.where(end == self.taken - 1, self.taken, last))

    def inner(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first and last pixel that are in the mask for sure; the last before the first if there are none.

        `pairs` (bool `(N, taken - 1)`) says for each low-resolution pixel and the next whether the mask fills all
        between the two, somewhere along the other axis.
        """
        if not pairs.shape[1]:
            return np.full(len(pairs), self.size), np.full(len(pairs), -1)
        begin, end = pairs.argmax(axis=1), pairs.shape[1] - pairs[:, ::-1].argmax(axis=1)
        some = pairs.any(axis=1)
        first, last = self._pixels(np.where(begin == 0, -1, begin), np.where(end == self.taken - 1, self.taken, end))
        return np.where(some, first, self.size), np.where(some, last, -1)

    def _pixels(self, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pixels from and up to positions in low-resolution pixels."""
        begin, end = np.ceil((first + 0.5) * self.scale - 0.5), np.floor((last + 0.5) * self.scale - 0.5)
        return begin.clip(0, self.size - 1), end.clip(0, self.size - 1)

    def span(self, profile: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Where values above `level` can be: low-resolution pixels `a..b-1`, and `c..d-1` of the crop.

        The former hold everything that the latter depend on; the latter may be none, `d <= c`. Every row of
        `profile` `(N, taken)` must have a value above `level`.
        """
        above = profile > level
        first = self.first[above.argmax(axis=1)]
        last = self.last[self.taken - 1 - above[:, ::-1].argmax(axis=1)]
        low = self.needs[np.minimum(first, self.size - 1), 0], self.needs[np.maximum(last, 0), 1] + 1
        return *low, first, last + 1


@dataclass(frozen=True)
class Geometry:
    """How crops of one size lie in a model's input and in its low-resolution logits."""

    input_size: tuple[int, int]
    rows: Axis
    columns: Axis

    @classmethod
    def of(cls, model: Any, size: tuple[int, int]) -> Geometry:
        """For crops of `size` (h, w). Raises `ImageError` if nothing is left of the shorter side."""
        from segment_anything.utils.transforms import ResizeLongestSide

        side = model.image_encoder.img_size
        input_size = ResizeLongestSide.get_preprocess_shape(*size, side)
        if not all(input_size):
            raise ImageError(
                f"a view of {size[0]} x {size[1]} (H x W) is {input_size[0]} x {input_size[1]} at the input size of "
                f"SAM; expected a longer side below {2 * side} times the shorter one"
            )
        low = (4 * n for n in model.prompt_encoder.image_embedding_size)
        rows, columns = (
            Axis.of(n, resized, side, taken, model.device)
            for n, resized, taken in zip(size, input_size, low, strict=True)
        )
        return cls(input_size, rows, columns)


@dataclass(frozen=True)
class Candidates:
    """Masks of one crop; lists and arrays of one entry a mask.

    `logits` are float tensors `(h, w)`, cut out at low-resolution row and column `corner`; beyond `region`
    (XYXY in pixels of the crop, the end not included) the up-sampled mask has no pixel. The box of the up-sampled mask
    holds the box `inner` and lies in the box `outer` (but for a pixel, rarely).
    """

    logits: list[Any]
    corner: np.ndarray
    region: np.ndarray
    inner: np.ndarray
    outer: np.ndarray
    predicted_iou: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return len(self.logits)

    @classmethod
    def of(
        cls, logits: Any, predicted_iou: Any, points: np.ndarray, geometry: Geometry, threshold: float, offset: float
    ) -> Candidates:
        """The low-resolution `logits` (tensor `(N, h, w)`), without those whose mask must be empty.

        `predicted_iou` is a tensor `(N,)`, `points` `(N, 2)` holds the prompts in pixels of the crop.
        """
        import torch

        rows, columns = geometry.rows, geometry.columns
        logits = logits[:, : rows.taken, : columns.taken]
        by_row, by_column = logits.amax(-1).cpu().numpy(), logits.amax(-2).cpu().numpy()
        # up-sampling averages: where no value is above the threshold, no pixel is
        alive = np.flatnonzero(by_row.max(axis=1, initial=-np.inf) > threshold)
        by_row, by_column = by_row[alive], by_column[alive]
        x0, x1, left, right = columns.span(by_column, threshold - offset)
        y0, y1, top, bottom = rows.span(by_row, threshold - offset)
        cuts = zip(alive.tolist(), y0.tolist(), y1.tolist(), x0.tolist(), x1.tolist(), strict=True)
        # between four neighbours that are all above the threshold, every pixel is
        above = (logits > threshold)[torch.from_numpy(alive).to(logits.device)]
        full = above[:, :-1] & above[:, 1:]
        full = full[:, :, :-1] & full[:, :, 1:]
        inner = columns.inner(full.any(-2).cpu().numpy()), rows.inner(full.any(-1).cpu().numpy())
        outer = columns.outer(by_column, threshold), rows.outer(by_row, threshold)
        return cls(
            [logits[k, a:b, c:d].clone() for k, a, b, c, d in cuts],
            np.stack([y0, x0], axis=1),
            np.stack([left, top, right, bottom], axis=1),
            _boxes(*inner),
            _boxes(*outer),
            predicted_iou.cpu().numpy()[alive],
            points[alive],
        )

    @classmethod
    def joined(cls, parts: list[Candidates]) -> Candidates:
        """All masks of `parts`, best predicted IoU first, of equal ones the earlier first."""
        logits = [own for part in parts for own in part.logits]
        arrays = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)[1:]}
        order = np.argsort(-arrays["predicted_iou"], kind="stable")
        return cls([logits[k] for k in order.tolist()], **{name: values[order] for name, values in arrays.items()})

    def upsampled(self, k: int, geometry: Geometry) -> Any:
        """The logits of mask `k` at the crop's size, in its `region` (maybe none): float tensor `(h, w)`."""
        left, top, right, bottom = self.region[k].tolist()
        row, column = self.corner[k].tolist()
        height, width = self.logits[k].shape
        down = geometry.rows.weights[top:bottom, row : row + height]
        across = geometry.columns.weights[left:right, column : column + width]
        return down @ self.logits[k] @ across.T


def _boxes(x: tuple[np.ndarray, np.ndarray], y: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """First and last columns and rows as XYXY `(N, 4)`."""
    return np.stack([x[0], y[0], x[1], y[1]], axis=1)
