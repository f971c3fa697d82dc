"""The source and the target domain, as distributions from which a scene is drawn.

The domain shift moves the distributions of the target away from those of the source. ERP distortion is no part of it:
the camera adds it at every shift.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

Shift = Literal["none", "mild", "strong"]
SHIFTS: tuple[Shift, ...] = get_args(Shift)
Range = tuple[float, float]
#: Facade styles, in the order of `Domain.styles`.
STYLES = ("plaster", "brick", "stone", "panel", "glass")


@dataclass(frozen=True)
class Domain:
    """Distributions of scenes and cameras. Ranges are uniform; other numbers are probabilities.

    Attributes:
        camera_height: metres above the road.
        sun_elevation: degrees.
        overcast: scenes without direct sun.
        low_contrast: scenes whose objects have colours close to the ground's.
        haze: extinction per metre.
        leaf_hue, leaf_saturation, grass_hue: HSV colours of foliage and grass.
        leaf_litter: share of terrain and sidewalk under fallen leaves.
        building_height: metres.
        pitched_roof: buildings of plaster, brick or stone with a pitched roof.
        styles: weights of the facade styles.
        facade_hue, facade_value: HSV hue of plaster and panels, HSV value of all facades.
        yellow_centre_line: scenes with a yellow centre line.
        exposure, warmth, saturation, gamma, blur, noise: parameters of `demo.sensor.Sensor`.
    """

    camera_height: Range = (1.35, 1.65)
    sun_elevation: Range = (24.0, 60.0)
    overcast: float = 0.35
    low_contrast: float = 0.22
    haze: Range = (0.0006, 0.004)
    leaf_hue: Range = (0.21, 0.36)
    leaf_saturation: Range = (0.30, 0.62)
    grass_hue: Range = (0.18, 0.29)
    leaf_litter: Range = (0.0, 0.08)
    building_height: Range = (7.0, 18.0)
    pitched_roof: float = 0.6
    styles: tuple[float, ...] = (0.58, 0.22, 0.14, 0.04, 0.02)
    facade_hue: Range = (0.02, 0.15)
    facade_value: Range = (0.45, 0.92)
    yellow_centre_line: float = 0.0
    exposure: Range = (0.92, 1.14)
    warmth: Range = (-0.03, 0.05)
    saturation: Range = (0.9, 1.1)
    gamma: Range = (0.95, 1.05)
    blur: Range = (0.30, 0.50)
    noise: Range = (1.2, 3.5)

    def interpolate(self, other: "Domain", weight: float) -> "Domain":
        """Returns the linear interpolation of all numbers between this domain (weight 0) and `other` (weight 1)."""

        def mix(a: float | tuple[float, ...], b: float | tuple[float, ...]) -> float | tuple[float, ...]:
            if isinstance(a, tuple) and isinstance(b, tuple):
                return tuple((1 - weight) * x + weight * y for x, y in zip(a, b, strict=True))
            assert isinstance(a, float)
            assert isinstance(b, float)
            return (1 - weight) * a + weight * b

        mixed: dict[str, Any] = {f.name: mix(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return Domain(**mixed)


SOURCE = Domain()
#: The target domain at the strong shift.
STRONG_TARGET = Domain(
    camera_height=(2.2, 2.9),
    sun_elevation=(10.0, 38.0),
    overcast=0.5,
    low_contrast=0.40,
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
_WEIGHTS: dict[Shift, float] = {"none": 0.0, "mild": 0.5, "strong": 1.0}


def target_domain(shift: Shift) -> Domain:
    """Returns the target domain at a shift; at `none` it equals the source domain."""
    return SOURCE.interpolate(STRONG_TARGET, _WEIGHTS[shift])
