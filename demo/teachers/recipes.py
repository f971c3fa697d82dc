"""How the models that learn from photos are made: network, steps and rates. Plain values; imports nothing heavy.

Two are the demo's TAs. The third is where its student begins: what a model of the student's size, trained on photos,
is to a user's student.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.classes import Class
from pipeline.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "demo" / "weights"
"""Where the weights that the project ships lie."""
CONFIGS = ROOT / "mmseg_configs"

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
    """One model and its training."""

    name: str
    config: Path
    """the mmsegmentation config"""
    weights: Path
    """the shipped weights"""
    title: str
    parameters: str
    iterations: int
    learning_rate: float
    """peak rate of AdamW, after a warm-up of 1/15 of the steps; decays to 0"""
    weight_decay: float = 0.05
    teacher: bool = True
    """a TA; else where the demo's student begins"""
    batch_size: int = 8

    def overrides(self) -> dict[str, Any]:
        """What `stages.train.run.train` is to change in the config for photos in place of panoramas."""
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
        Recipe(
            name="resnet_fpn",
            config=CONFIGS / "teachers" / "demo_resnet_fpn.py",
            weights=WEIGHTS / "ta_resnet_fpn.safetensors",
            title="ResNet-18 at half width with a feature pyramid",
            parameters="3.1 M parameters",
            iterations=6000,
            learning_rate=2e-3,
        ),
        Recipe(
            name="segformer",
            config=CONFIGS / "teachers" / "demo_segformer.py",
            weights=WEIGHTS / "ta_segformer.safetensors",
            title="SegFormer with half a MiT-B0",
            parameters="0.8 M parameters",
            iterations=5000,
            learning_rate=1e-3,
        ),
        Recipe(
            name="goodsam_demo",
            config=CONFIGS / "students" / "goodsam_demo.py",
            weights=WEIGHTS / "start_goodsam_demo.safetensors",
            title="ResNet-18 at a quarter of its width with a feature pyramid",
            parameters="0.8 M parameters",
            iterations=5000,
            learning_rate=2e-3,
            teacher=False,
        ),
    )
}
"""The TAs, the better one first, and the student's start."""


def chosen_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises `UserError` if there is none."""
    if name not in RECIPES:
        raise UserError(f"--which {name}: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
