"""Views: the parts of a panorama that models run on. Settings, and the views that follow from them.

Windows cover the full circle in x; the last one crosses the seam:

    column 0                                    W-1
           |--------- window 0 ---------|
                     |--------- window 1 ---------|
           ----------|        |------ window 2 ----     continues at column 0
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

from pydantic import Field, model_validator

from pipeline.core.errors import UserError
from pipeline.core.settings import Settings, renamed
from pipeline.geometry.perspective import Perspective
from pipeline.geometry.windows import Window

View = Window | Perspective

#: View origins are multiples of this: the usual output strides divide it, so the views of SAM and TA are the same.
ALIGN = 8

MAX_SIDE = 8192  # pixels of a perspective view's side, and of padding
MAX_VIEWS = 10_000  # of one panorama


class ViewSettings(Settings):
    """Views that cover the panorama: overlapping sliding windows [P] of width 512 and stride 256 [O]."""

    kind: Literal["windows", "whole", "perspective"] = Field(
        "windows",
        description="windows: sliding ERP windows; whole: one view, the panorama; perspective: pinhole views, for full "
        "spheres.",
    )
    width: int = Field(512, ge=1, description="Window width in pixels of the working image.")
    stride: int = Field(256, ge=1, description="Distance of neighbouring windows in pixels.")
    height: int | None = Field(None, ge=1, description="Window height in pixels; null: the panorama's.")
    stride_y: int | None = Field(None, ge=1, description="Vertical distance of windows; null: half their height.")
    padding: int = Field(0, ge=0, le=MAX_SIDE, description="whole: columns of circular padding on either side.")
    size: int = Field(512, ge=1, le=MAX_SIDE, description="perspective: height and width of a view in pixels.")
    fov: float = Field(90.0, gt=0, lt=170, description="perspective: field of view in degrees.")
    views_per_pitch: int = Field(
        8, ge=1, le=1024, json_schema_extra=renamed("around"), description="perspective: views at each pitch."
    )
    pitches: tuple[float, ...] = Field(
        (-60.0, 0.0, 60.0), min_length=1, max_length=181, description="perspective: elevations in degrees."
    )
    additional: tuple[ViewSettings, ...] = Field(
        (), max_length=16, json_schema_extra=renamed("also"), description="Views of another shape, such as wide ones."
    )

    @model_validator(mode="after")
    def _overlap(self) -> ViewSettings:
        gaps = "the windows would leave gaps"
        if self.kind == "windows" and self.stride > self.width:
            raise ValueError(f"stride {self.stride} is wider than the window ({self.width}); {gaps}")
        if self.kind == "windows" and self.height and self.stride_y and self.stride_y > self.height:
            raise ValueError(f"stride_y {self.stride_y} is higher than the window ({self.height}); {gaps}")
        if self.padding and (self.kind != "whole" or self.padding % ALIGN):
            raise ValueError(f"padding {self.padding}: expected kind whole, and a multiple of {ALIGN}")
        if not all(-90 <= pitch <= 90 for pitch in self.pitches):
            raise ValueError(f"pitches {self.pitches}: expected degrees in -90..90")
        return self

    @property
    def families(self) -> tuple[ViewSettings, ...]:
        """These settings and the additional ones, nested ones included."""
        return (self, *itertools.chain.from_iterable(family.families for family in self.additional))


def make_views(settings: ViewSettings, height: int, width: int, *, align: int = 1) -> tuple[View, ...]:
    """Returns the views of a panorama of `height` x `width` pixels, by family, row and column.

    If the stride does not divide the width, `n = ceil(W / stride)` windows start at `round(k W / n)`, moved to
    multiples of `ALIGN` and of `align` (a model's output stride), so that they are evenly spaced around the panorama
    (docs/method.md 1) [O]. A window is never larger than the panorama. Raises `UserError` if the windows would leave a
    gap, or there are more than `MAX_VIEWS` views.
    """
    align = math.lcm(align, ALIGN)
    views: list[View] = []
    for family in settings.families:
        if family.kind == "perspective":
            columns = _evenly_spaced_columns(family.views_per_pitch, width, align)
            _check_count(len(columns) * len(family.pitches))
            views += [
                Perspective(column, pitch, family.fov, family.size, family.size)
                for pitch in family.pitches
                for column in columns
            ]
        else:
            views += _windows(family, height, width, align)
        _check_count(len(views))
    return tuple(views)


def _check_count(count: int) -> None:
    if count > MAX_VIEWS:
        raise UserError(f"views: found {count:,} views of one panorama, expected at most {MAX_VIEWS:,}")


def _evenly_spaced_columns(count: int, width: int, align: int) -> list[int]:
    return sorted({round(k * width / count / align) * align % width for k in range(count)})


def _windows(settings: ViewSettings, height: int, width: int, align: int) -> list[View]:
    if settings.kind == "whole":
        return [Window(0, 0, height, width)]
    origins, window_width = [0], width
    if settings.width < width:
        window_width = settings.width
        origins = _evenly_spaced_columns(math.ceil(width / settings.stride), width, align)
        largest_step = max(b - a for a, b in itertools.pairwise([*origins, origins[0] + width]))
        if largest_step > settings.width:
            gaps = (
                f"windows of width {settings.width} and stride {settings.stride} leave gaps on a panorama {width} wide"
            )
            remedy = "expected wider windows or a smaller stride"
            raise UserError(f"views: {gaps} when they begin at multiples of {align}; {remedy}")
    tops, window_height = [0], height
    if settings.height is not None and settings.height < height:
        window_height, free_rows = settings.height, height - settings.height
        windows = f"views: windows of height {window_height} on a panorama {height} high"
        if free_rows % align or window_height % align:
            raise UserError(f"{windows}: expected both to be multiples of {align}")
        steps = math.ceil(free_rows / (settings.stride_y or max(1, window_height // 2)))
        tops = sorted({round(k * free_rows / steps / align) * align for k in range(steps + 1)})
        if max(b - a for a, b in itertools.pairwise(tops)) > window_height:
            raise UserError(f"{windows} leave gaps when they begin at multiples of {align}; expected higher windows")
    _check_count(len(tops) * len(origins))
    return [Window(top, x0, window_height, window_width) for top in tops for x0 in origins]
