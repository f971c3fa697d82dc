"""How the two TAs are made: network, steps and rates. Plain values; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.classes import Class
from pipeline.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "demo" / "weights"
"""Where the weights that the project ships lie."""

CROP = (96, 192)
"""Height and width of a training crop, pixels of half-size photos (128 x 256)."""
RARE = (
    Class.WALL,
    Class.FENCE,
    Class.POLE,
    Class.TRAFFIC_LIGHT,
    Class.TRAFFIC_SIGN,
    Class.PERSON,
    Class.RIDER,
    Class.TRUCK,
    Class.BUS,
    Class.TRAIN,
    Class.MOTORCYCLE,
    Class.BICYCLE,
)
"""Classes with less than 1.5 % of the photos' pixels each."""
COMMON = (Class.ROAD, Class.BUILDING, Class.VEGETATION, Class.SKY)
"""Classes that cover four fifths of the photos; the loss counts a quarter of their pixels."""


@dataclass(frozen=True)
class Recipe:
    """One TA and its training."""

    name: str
    title: str
    parameters: str
    iterations: int
    learning_rate: float
    """peak rate of AdamW, after a warm-up of 1/15 of the steps; decays to 0"""
    weight_decay: float = 0.05
    batch_size: int = 8

    @property
    def config(self) -> Path:
        """The mmsegmentation config."""
        return ROOT / "mmseg_configs" / "teachers" / f"demo_{self.name}.py"

    @property
    def weights(self) -> Path:
        """The shipped weights."""
        return WEIGHTS / f"ta_{self.name}.safetensors"

    def overrides(self) -> dict[str, Any]:
        """What ``stages.train.run.train`` is to change in the config for photos in place of panoramas."""
        crop = {
            "crop_size": CROP,
            "scale_range": (0.75, 2.0),
            "rare": [int(c) for c in RARE],
            "rare_share": 0.6,
            "common": [int(c) for c in COMMON],
            "common_share": 0.25,
        }
        return {
            "train_pipeline": [
                {"type": "PhotoCrop", **crop},
                {"type": "MirrorPanorama", "prob": 0.5},
                {"type": "PhotoMetricDistortion"},
                {"type": "PackMKAInputs"},
            ],
            "custom_hooks": [{"type": "ChannelsLastHook"}],
            "optim_wrapper.optimizer.lr": self.learning_rate,
            "optim_wrapper.optimizer.weight_decay": self.weight_decay,
            "default_hooks.checkpoint.interval": 250,
        }


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("resnet_fpn", "ResNet-18 at half width with a feature pyramid", "3.1 M parameters", 6000, 2e-3),
        Recipe("segformer", "SegFormer with half a MiT-B0", "0.8 M parameters", 5000, 1e-3),
    )
}
"""The better one first."""


def chosen_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises :class:`UserError` if there is none."""
    if name not in RECIPES:
        raise UserError(f"--which {name}: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
