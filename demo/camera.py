"""Camera models: pixel coordinates to ray directions.

World frame: x along the street, y to the left, z up, metres; azimuth counts from +x towards +y. The centre of pixel
`(row, column)` is at `(row + 0.5, column + 0.5)`. A camera has an orientation and no position; the scene holds the
position.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Pinhole:
    """A perspective camera without lens distortion.

    Attributes:
        height, width: pixels.
        hfov_deg: horizontal field of view.
        yaw_deg: heading, counter-clockwise.
        pitch_deg: elevation of the optical axis.
    """

    height: int
    width: int
    hfov_deg: float = 90.0
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0

    cyclic = False

    @cached_property
    def focal(self) -> float:
        """Focal length in pixels."""
        return self.width / 2 / float(np.tan(np.radians(self.hfov_deg) / 2))

    @property
    def pixel_angle(self) -> float:
        """Angle that a pixel subtends at the image centre, radians."""
        return 1.0 / self.focal

    def ray_directions(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> F32:
        """Returns unit vectors `(*shape, 3)` at continuous pixel coordinates `x`, `y` of equal shape."""
        right = (np.asarray(x, np.float64) - self.width / 2) / self.focal
        down = (np.asarray(y, np.float64) - self.height / 2) / self.focal
        cos_p, sin_p = np.cos(np.radians(self.pitch_deg)), np.sin(np.radians(self.pitch_deg))
        cos_y, sin_y = np.cos(np.radians(self.yaw_deg)), np.sin(np.radians(self.yaw_deg))
        forward, up = cos_p + sin_p * down, sin_p - cos_p * down
        rays = np.stack([cos_y * forward + sin_y * right, sin_y * forward - cos_y * right, up], -1)
        return (rays / np.sqrt(1 + right**2 + down**2)[..., None]).astype(np.float32)

    def pixel_rays(self) -> F32:
        """Returns the directions of all pixel centres, `(H, W, 3)`."""
        y, x = np.meshgrid(np.arange(self.height) + 0.5, np.arange(self.width) + 0.5, indexing="ij")
        return self.ray_directions(x, y)


@dataclass(frozen=True)
class Equirect:
    """A band of rows of an equirectangular (ERP) sphere with `width / 2` rows.

    Vertical and horizontal resolution are equal. Column `width - 1` is adjacent to column 0: a yaw of one column to
    the left rolls the image right by exactly one column, bit for bit.

    Attributes:
        width: columns of the full circle, even.
        first_row: row of the sphere at which the band begins.
        height: rows of the band; 0 selects all rows from `first_row` on.
        yaw_deg: heading, counter-clockwise.
    """

    width: int
    first_row: int = 0
    height: int = 0
    yaw_deg: float = 0.0

    cyclic = True

    def __post_init__(self) -> None:
        if self.width % 2:
            raise ValueError(f"width: found {self.width}; expected an even number")
        if self.height == 0:
            object.__setattr__(self, "height", self.width // 2 - self.first_row)
        end = self.first_row + self.height
        if self.first_row < 0 or self.height < 1 or end > self.width // 2:
            raise ValueError(f"rows: found {self.first_row}..{end}; expected a range inside 0..{self.width // 2}")

    @property
    def pixel_angle(self) -> float:
        """Angle that a pixel subtends at the equator, radians."""
        return 2 * np.pi / self.width

    @property
    def _yaw_columns(self) -> float:
        return round(self.yaw_deg / 360 * self.width, 6)

    def _unit_vectors(self, column: NDArray[np.float64], row: NDArray[np.float64]) -> F32:
        """Returns directions at columns relative to yaw 0 and rows of the sphere, arrays that broadcast."""
        azimuth = np.pi - column * self.pixel_angle
        elevation = np.pi / 2 - row * self.pixel_angle
        cos_e = np.cos(elevation)
        rays = np.stack(np.broadcast_arrays(cos_e * np.cos(azimuth), cos_e * np.sin(azimuth), np.sin(elevation)), -1)
        return rays.astype(np.float32)

    def ray_directions(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> F32:
        """Returns unit vectors `(*shape, 3)` at continuous pixel coordinates of equal shape; `x` is cyclic."""
        column = np.mod(np.asarray(x, np.float64) - self._yaw_columns, self.width)
        return self._unit_vectors(column, np.asarray(y, np.float64) + self.first_row)

    def pixel_rays(self) -> F32:
        """Returns the directions of all pixel centres, `(H, W, 3)`."""
        column = np.mod(np.arange(self.width, dtype=np.float64) + 0.5 - self._yaw_columns, self.width)
        row = np.arange(self.height, dtype=np.float64) + self.first_row + 0.5
        return self._unit_vectors(column[None, :], row[:, None])


Camera = Pinhole | Equirect
