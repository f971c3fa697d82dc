"""Views: sampling grids on a panorama that is cyclic in x.

A view says where on the panorama it looks; models run on views, and what they return is put back by the same views.
Now there are ERP windows (of any size, the whole ring included). This module moves pixels, it never interprets them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.errors import UserError
from pipeline.settings import Settings


class ViewSettings(Settings):
    """Which views cover the panorama (docs/method.md: overlapping sliding windows, paper; 512 / 256 are ours)."""

    kind: Literal["windows", "whole"] = Field(
        "windows", description="windows: sliding ERP windows round the ring; whole: one view, the panorama."
    )
    width: int = Field(512, ge=1, description="Window width in pixels of the working image.")
    stride: int = Field(256, ge=1, description="Distance of neighbouring windows in pixels.")

    @model_validator(mode="after")
    def _overlap(self) -> ViewSettings:
        if self.kind == "windows" and self.stride > self.width:
            raise ValueError(
                f"stride {self.stride} is wider than the window ({self.width}); the windows would leave gaps"
            )
        return self


@dataclass(frozen=True)
class Window:
    """A rectangle of a cyclic panorama: columns ``x0 .. x0+width-1`` modulo the panorama's width."""

    y0: int
    x0: int
    height: int
    width: int

    def columns(self, panorama_width: int) -> np.ndarray:
        """The panorama's column of each of the window's columns: int64 ``(width,)``."""
        return np.arange(self.x0, self.x0 + self.width) % panorama_width

    def extract(self, array: np.ndarray) -> np.ndarray:
        """The window of ``array`` ``(..., H, W)``: ``(..., height, width)``; a copy only across the seam."""
        rows = array[..., self.y0 : self.y0 + self.height, :]
        end = self.x0 + self.width
        if end <= array.shape[-1]:
            return rows[..., self.x0 : end]
        return np.take(rows, self.columns(array.shape[-1]), axis=-1)

    def extract_image(self, image: np.ndarray) -> np.ndarray:
        """The window of an image ``(H, W, 3)``: ``(height, width, 3)``, contiguous."""
        return np.ascontiguousarray(np.moveaxis(self.extract(np.moveaxis(image, -1, 0)), 0, -1))

    def scaled(self, stride: int) -> Window:
        """The same window on a grid that is ``stride`` times coarser; the origin and width must be multiples."""
        if self.x0 % stride or self.width % stride or self.y0 % stride:
            raise ValueError(f"{self} does not lie on a grid of stride {stride}")
        return Window(self.y0 // stride, self.x0 // stride, -(-self.height // stride), self.width // stride)


#: Window origins are multiples of this: the usual output strides divide it, so the windows of SAM and TA agree.
ALIGN = 8


def make_views(settings: ViewSettings, height: int, width: int, *, align: int = 1) -> tuple[Window, ...]:
    """The views of a panorama of ``height`` x ``width`` pixels, in the order of their origin.

    If the stride does not divide the width, ``n = ceil(W / stride)`` windows start at ``round(k W / n)``, moved to
    multiples of :data:`ALIGN` and of ``align`` (a model's output stride), so that the ring closes evenly
    (docs/method.md 1, ours). A window is never wider than the panorama. Raises :class:`UserError` if moving would
    leave a gap.
    """
    align = math.lcm(align, ALIGN)
    if settings.kind == "whole" or settings.width >= width:
        return (Window(0, 0, height, width),)
    n = math.ceil(width / settings.stride)
    origins = sorted({round(k * width / n / align) * align % width for k in range(n)})
    widest = max(b - a for a, b in zip(origins, [*origins[1:], origins[0] + width], strict=True))
    if widest > settings.width:
        raise UserError(
            f"views: windows of width {settings.width} and stride {settings.stride} leave gaps on a panorama {width} "
            f"wide when they begin at multiples of {align}; expected wider windows or a smaller stride"
        )
    return tuple(Window(0, x0, height, settings.width) for x0 in origins)


@dataclass(frozen=True)
class Cell:
    """Columns ``x0 .. x1-1`` that the same views cover, with each view's own columns, in a fixed order.

    ``members`` holds ``(view index, first column inside the view)``. The order depends on the columns' place inside
    the views only, never on the views' numbers: sums over members do not change when the panorama is rolled.
    """

    x0: int
    x1: int
    members: tuple[tuple[int, int], ...]


def cells(views: Sequence[Window], width: int) -> tuple[Cell, ...]:
    """The ring ``0 .. width-1`` cut into :class:`Cell` at every view's edges (all views of full height)."""
    if len({(view.y0, view.height) for view in views}) > 1:
        raise ValueError("cells need views of one height")
    cuts = sorted({0, width} | {v.x0 % width for v in views} | {(v.x0 + v.width) % width for v in views})
    result = []
    for x0, x1 in itertools.pairwise(cuts):
        members = []
        for index, view in enumerate(views):
            offset = (x0 - view.x0) % width
            if offset < view.width:
                members.append((index, offset))
        members.sort(key=lambda member: (member[1], views[member[0]].width))
        result.append(Cell(x0, x1, tuple(members)))
    return tuple(result)


def cyclic_columns(x0: int, width: int, panorama_width: int) -> list[tuple[slice, slice]]:
    """``x0 .. x0+width-1`` modulo the panorama's width as one or two pairs (panorama slice, own slice)."""
    x0 %= panorama_width
    first = min(width, panorama_width - x0)
    pairs = [(slice(x0, x0 + first), slice(0, first))]
    if first < width:
        pairs.append((slice(0, width - first), slice(first, width)))
    return pairs
