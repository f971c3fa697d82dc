"""The demo world's splits: which scene, through which camera, a split's n-th sample is.

A sample is a function of `(settings, split, index)` alone, so that any of them can be rendered anywhere,
in any order.
"""

from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np

from demo.camera import Camera, Equirect, Pinhole
from demo.domain import SOURCE, Shift, target_domain
from demo.render import Frame, render
from demo.scene import Scene, draw_scene
from demo.sensor import Sensor, draw_sensor

Size = Literal["half", "full"]
SIZES: tuple[Size, ...] = get_args(Size)
Split = Literal["source-train", "source-val", "target-train", "target-tune", "target-test"]
SPLITS: tuple[Split, ...] = get_args(Split)
WITHHELD: tuple[Split, ...] = ("target-train",)
"""Splits whose labels only evaluation may read."""
RENDERER = 1
"""Version of the world: raised whenever any sample's bytes change."""

_ERP_WIDTH: dict[Size, int] = {"half": 1024, "full": 2048}
_PINHOLE_HEIGHT: dict[Size, int] = {"half": 128, "full": 256}


@dataclass(frozen=True)
class WorldSettings:
    """What determines every pixel.

    `size`: panoramas 200 x 1024 and pinhole images 128 x 256 (`half`), or 400 x 2048 and 256 x 512
    (`full`). `shift`: how far the target domain's looks lie from the source's, see `demo.domain`.
    `seed`: another seed, another town.
    """

    size: Size = "half"
    shift: Shift = "mild"
    seed: int = 0

    def record(self) -> dict[str, str | int]:
        """The settings and the renderer's version, as they are written beside the pictures."""
        return {"renderer": RENDERER, **asdict(self)}


@dataclass(frozen=True)
class Sample:
    """A scene, the camera that looks at it, its sensor, and the generator of the sensor's noise."""

    scene: Scene
    camera: Camera
    sensor: Sensor
    noise: np.random.Generator


def band(width: int) -> Equirect:
    """The 70-degree band of a full sphere: rows 312..712 of 1024 at width 2048, in proportion at others."""
    return Equirect(width, first_row=round(width * 312 / 2048), height=round(width * 400 / 2048))


def sample(settings: WorldSettings, split: Split, index: int) -> Sample:
    """The `index`-th sample of a split."""
    rng = np.random.default_rng([settings.seed, SPLITS.index(split), index])
    camera: Camera
    if split.startswith("source"):
        domain = SOURCE
        height = _PINHOLE_HEIGHT[settings.size]
        yaw = float(rng.normal(0, 14)) + (180.0 if rng.random() < 0.3 else 0.0)
        camera = Pinhole(height, 2 * height, float(rng.uniform(72, 92)), yaw, pitch_deg=float(rng.uniform(-6, 3)))
    else:
        domain = target_domain(settings.shift)
        yaw = float(rng.normal(0, 15) if rng.random() < 0.5 else rng.uniform(0, 360))
        level = band(_ERP_WIDTH[settings.size])
        camera = Equirect(level.width, level.first_row, level.height, yaw)
    scene = draw_scene(rng, domain, yaw)
    return Sample(scene, camera, draw_sensor(rng, domain, camera.cyclic), rng)


def render_sample(settings: WorldSettings, split: Split, index: int) -> Frame:
    """Picture and labels of the `index`-th sample of a split; the same bytes every time."""
    s = sample(settings, split, index)
    return render(s.scene, s.camera, s.sensor, s.noise)
