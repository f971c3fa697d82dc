"""The splits of the demo world: scene, camera and sensor of every sample.

A sample is a function of `(settings, split, index)` alone. Samples can therefore be rendered in any order and place.
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
#: Splits whose labels only the evaluation may read.
WITHHELD: tuple[Split, ...] = ("target-train",)
#: Version of the renderer: raised whenever any sample's bytes change.
RENDERER = 1

_PANORAMA_WIDTH: dict[Size, int] = {"half": 1024, "full": 2048}
_PHOTO_HEIGHT: dict[Size, int] = {"half": 128, "full": 256}


@dataclass(frozen=True)
class WorldSettings:
    """Settings that determine every pixel.

    Attributes:
        size: `half` (panoramas 200 x 1024, photos 128 x 256) or `full` (400 x 2048, 256 x 512).
        shift: domain shift of the target, see `demo.domain`.
        seed: seed of all scenes.
    """

    size: Size = "half"
    shift: Shift = "mild"
    seed: int = 0

    def record(self) -> dict[str, str | int]:
        """Returns the settings and the renderer's version, as `world.json` stores them."""
        return {"renderer": RENDERER, **asdict(self)}


@dataclass(frozen=True)
class Sample:
    """A scene, its camera, its sensor, and the generator of the sensor noise."""

    scene: Scene
    camera: Camera
    sensor: Sensor
    noise: np.random.Generator


def panorama_camera(width: int, yaw_deg: float = 0.0) -> Equirect:
    """Returns the camera of the 70-degree band of a full sphere: at width 2048 rows 312..712 of 1024."""
    return Equirect(width, round(width * 312 / 2048), round(width * 400 / 2048), yaw_deg)


def draw_sample(settings: WorldSettings, split: Split, index: int) -> Sample:
    """Returns the `index`-th sample of a split."""
    rng = np.random.default_rng([settings.seed, SPLITS.index(split), index])
    camera: Camera
    if split.startswith("source"):
        domain = SOURCE
        height = _PHOTO_HEIGHT[settings.size]
        yaw = float(rng.normal(0, 14)) + (180.0 if rng.random() < 0.3 else 0.0)
        camera = Pinhole(height, 2 * height, float(rng.uniform(72, 92)), yaw, pitch_deg=float(rng.uniform(-6, 3)))
    else:
        domain = target_domain(settings.shift)
        yaw = float(rng.normal(0, 15) if rng.random() < 0.5 else rng.uniform(0, 360))
        camera = panorama_camera(_PANORAMA_WIDTH[settings.size], yaw)
    scene = draw_scene(rng, domain, yaw)
    return Sample(scene, camera, draw_sensor(rng, domain, camera.cyclic), rng)


def render_sample(settings: WorldSettings, split: Split, index: int) -> Frame:
    """Renders the `index`-th sample of a split; the bytes are the same every time."""
    sample = draw_sample(settings, split, index)
    return render(sample.scene, sample.camera, sample.sensor, sample.noise)
