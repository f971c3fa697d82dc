"""The two cameras: pixel coordinates to ray directions.

World frame: x along the street, y to the left, z up, metres; azimuth counts from +x towards +y. Pixel
`(row, column)` has its centre at `(row + 0.5, column + 0.5)`. A camera knows no position: the scene
holds it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Pinhole:
    """A perspective view without lens distortion.

    `hfov_deg` is the horizontal field of view; `yaw_deg` turns left, `pitch_deg` lifts the optical
    axis.
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
        """Angle of a pixel at the image centre, radians."""
        return 1.0 / self.focal

    def directions(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> F32:
        """Unit ray directions `(*shape, 3)` float32 at continuous pixel coordinates `x, y` of equal
        shape."""
        right = (np.asarray(x, np.float64) - self.width / 2) / self.focal
        down = (np.asarray(y, np.float64) - self.height / 2) / self.focal
        cos_p, sin_p = np.cos(np.radians(self.pitch_deg)), np.sin(np.radians(self.pitch_deg))
        cos_y, sin_y = np.cos(np.radians(self.yaw_deg)), np.sin(np.radians(self.yaw_deg))
        forward, up = cos_p + sin_p * down, sin_p - cos_p * down
        rays = np.stack([cos_y * forward + sin_y * right, sin_y * forward - cos_y * right, up], -1)
        return (rays / np.sqrt(1 + right**2 + down**2)[..., None]).astype(np.float32)

    def grid(self) -> F32:
        """Directions of all pixel centres, `(H, W, 3)` float32."""
        y, x = np.meshgrid(np.arange(self.height) + 0.5, np.arange(self.width) + 0.5, indexing="ij")
        return self.directions(x, y)


@dataclass(frozen=True)
class Equirect:
    """A band of rows of an equirectangular (ERP) full sphere of `width/2` rows; the whole sphere by
    default.

    Vertical resolution equals horizontal resolution. Column `width - 1` touches column 0: turning the
    camera left by one column rolls the picture right by exactly one column, bit for bit.
    """

    width: int
    first_row: int = 0
    height: int = 0
    yaw_deg: float = 0.0

    cyclic = True

    def __post_init__(self) -> None:
        if self.width % 2:
            raise ValueError(f"an ERP image needs an even width, found {self.width}")
        if self.height == 0:
            object.__setattr__(self, "height", self.width // 2 - self.first_row)
        if self.first_row < 0 or self.height < 1 or self.first_row + self.height > self.width // 2:
            last = self.first_row + self.height
            raise ValueError(f"rows {self.first_row}..{last} do not lie in a sphere of {self.width // 2} rows")

    @property
    def pixel_angle(self) -> float:
        """Angle of a pixel, radians."""
        return 2 * np.pi / self.width

    @property
    def _columns_turned(self) -> float:
        return round(self.yaw_deg / 360 * self.width, 6)

    def _compose(self, azimuth: NDArray[np.float64], elevation: NDArray[np.float64]) -> F32:
        cos_e = np.cos(elevation)
        rays = np.stack(np.broadcast_arrays(cos_e * np.cos(azimuth), cos_e * np.sin(azimuth), np.sin(elevation)), -1)
        return rays.astype(np.float32)

    def directions(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> F32:
        """Unit ray directions `(*shape, 3)` float32 at continuous pixel coordinates of equal shape; x is
        cyclic."""
        turned = np.mod(np.asarray(x, np.float64) - self._columns_turned, self.width)
        azimuth = np.pi - turned * self.pixel_angle
        elevation = np.pi / 2 - (np.asarray(y, np.float64) + self.first_row) * self.pixel_angle
        return self._compose(azimuth, elevation)

    def grid(self) -> F32:
        """Directions of all pixel centres, `(H, W, 3)` float32."""
        turned = np.mod(np.arange(self.width, dtype=np.float64) + 0.5 - self._columns_turned, self.width)
        azimuth = np.pi - turned * self.pixel_angle
        rows = np.arange(self.height, dtype=np.float64) + self.first_row + 0.5
        elevation = np.pi / 2 - rows * self.pixel_angle
        return self._compose(azimuth[None, :], elevation[:, None])


Camera = Pinhole | Equirect
