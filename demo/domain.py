"""What differs between the source and the target domain, as distributions that a scene draws from.

`shift` sets how far the target's distributions lie from the source's. ERP distortion is not in here: it
comes with the camera, at every setting.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

Shift = Literal["none", "mild", "strong"]
SHIFTS: tuple[Shift, ...] = get_args(Shift)
Range = tuple[float, float]
STYLES = ("plaster", "brick", "stone", "panel", "glass")
"""Facade styles; `Domain.styles` weighs them in this order."""


@dataclass(frozen=True)
class Domain:
    """Ranges are uniform; shares are probabilities per scene or per object."""

    camera_height: Range = (1.35, 1.65)
    """metres above the road"""
    sun_elevation: Range = (24.0, 60.0)
    """degrees"""
    overcast: float = 0.35
    """share of scenes without direct sun"""
    drab: float = 0.22
    """share of scenes whose objects take colours close to their surroundings (low contrast)"""
    haze: Range = (0.0006, 0.004)
    """extinction per metre"""
    leaf_hue: Range = (0.21, 0.36)
    leaf_saturation: Range = (0.30, 0.62)
    grass_hue: Range = (0.18, 0.29)
    leaf_litter: Range = (0.0, 0.08)
    """share of terrain and sidewalk under fallen leaves"""
    building_height: Range = (7.0, 18.0)
    """metres"""
    pitched_roof: float = 0.6
    styles: tuple[float, ...] = (0.58, 0.22, 0.14, 0.04, 0.02)
    facade_hue: Range = (0.02, 0.15)
    facade_value: Range = (0.45, 0.92)
    yellow_centre_line: float = 0.0
    exposure: Range = (0.92, 1.14)
    warmth: Range = (-0.03, 0.05)
    """relative gain of red over green; blue gets the opposite"""
    saturation: Range = (0.9, 1.1)
    gamma: Range = (0.95, 1.05)
    blur: Range = (0.30, 0.50)
    """standard deviation of the lens blur, pixels"""
    noise: Range = (1.2, 3.5)
    """standard deviation of the sensor noise at mid-grey, 8-bit grey levels"""

    def towards(self, other: "Domain", weight: float) -> "Domain":
        """The domain that lies the share `weight` (0..1) of the way to `other`."""

        def mix(a: float | tuple[float, ...], b: float | tuple[float, ...]) -> float | tuple[float, ...]:
            if isinstance(a, tuple) and isinstance(b, tuple):
                return tuple((1 - weight) * x + weight * y for x, y in zip(a, b, strict=True))
            assert isinstance(a, float)
            assert isinstance(b, float)
            return (1 - weight) * a + weight * b

        mixed: dict[str, Any] = {f.name: mix(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return Domain(**mixed)


SOURCE = Domain()
FAR = Domain(
    camera_height=(2.2, 2.9),
    sun_elevation=(10.0, 38.0),
    overcast=0.5,
    drab=0.40,
    haze=(0.002, 0.011),
    leaf_hue=(0.03, 0.20),
    leaf_saturation=(0.35, 0.75),
    grass_hue=(0.09, 0.20),
    leaf_litter=(0.05, 0.45),
    building_height=(9.0, 42.0),
    pitched_roof=0.05,
    styles=(0.14, 0.24, 0.08, 0.30, 0.24),
    facade_hue=(-0.08, 0.24),
    facade_value=(0.25, 0.90),
    yellow_centre_line=0.9,
    exposure=(0.62, 1.45),
    warmth=(-0.14, 0.16),
    saturation=(0.55, 1.05),
    gamma=(0.80, 1.25),
    blur=(0.40, 0.85),
    noise=(3.0, 8.0),
)
_WEIGHT: dict[Shift, float] = {"none": 0.0, "mild": 0.5, "strong": 1.0}


def target_domain(shift: Shift) -> Domain:
    """The target's distributions: the source's own at `none`, halfway at `mild`, far away at
    `strong`."""
    return SOURCE.towards(FAR, _WEIGHT[shift])
