"""Training recipes of the models that learn from photos: two TAs, and the initial weights of the demo's student.

The module imports no heavy libraries.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.classes import Class
from pipeline.core.errors import UserError
from pipeline.core.project_files import PROJECT_ROOT

#: Folder of the shipped weights.
WEIGHTS = PROJECT_ROOT / "demo" / "weights"
CONFIGS = PROJECT_ROOT / "mmseg_configs"

#: Height and width of a training crop, pixels of half-size photos (128 x 256).
CROP = (96, 192)
_FREQUENT = {Class.ROAD, Class.SIDEWALK, Class.BUILDING, Class.VEGETATION, Class.TERRAIN, Class.SKY, Class.CAR}
#: Classes with less than 1.5 % of the photos' pixels each.
RARE = tuple(c for c in Class if c not in _FREQUENT)
#: Classes that cover four fifths of the photos; the loss uses a quarter of their pixels.
COMMON = (Class.ROAD, Class.BUILDING, Class.VEGETATION, Class.SKY)


@dataclass(frozen=True)
class Recipe:
    """One model and its training.

    Attributes:
        name: for the command line and the files.
        title: of the model card.
        parameters: millions of parameters, for the model card.
        iterations: optimiser steps.
        learning_rate: peak rate of AdamW, after a warm-up of 1/15 of the steps; it decays to 0.
        is_teacher: a TA; otherwise initial weights of the demo's student.
        weight_decay: of AdamW.
        batch_size: crops per step.
    """

    name: str
    title: str
    parameters: float
    iterations: int
    learning_rate: float
    is_teacher: bool = True
    weight_decay: float = 0.05
    batch_size: int = 8

    @property
    def config(self) -> Path:
        """The mmsegmentation config."""
        return CONFIGS / (f"teachers/demo_{self.name}.py" if self.is_teacher else f"students/{self.name}.py")

    @property
    def weights(self) -> Path:
        """The shipped weights."""
        return WEIGHTS / f"{'ta' if self.is_teacher else 'start'}_{self.name}.safetensors"

    def overrides(self) -> dict[str, Any]:
        """Returns the changes of the config, for photos in place of panoramas (`train.overrides`)."""
        crop = {
            "crop_size": CROP,
            "scale_range": (0.75, 2.0),
            "rare_classes": [int(c) for c in RARE],
            "rare_prob": 0.6,
            "common_classes": [int(c) for c in COMMON],
            "common_keep_prob": 0.25,
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


_RECIPES = (
    Recipe("resnet_fpn", "ResNet-18 at half width with a feature pyramid", 3.1, 6000, 2e-3),
    Recipe("segformer", "SegFormer with half a MiT-B0", 0.8, 5000, 1e-3),
    Recipe("goodsam_demo", "ResNet-18 at a quarter of its width with a feature pyramid", 0.8, 5000, 2e-3, False),
)
#: The TAs, the better one first, and the student's initial weights, by name.
RECIPES = {recipe.name: recipe for recipe in _RECIPES}


def find_recipe(name: str) -> Recipe:
    """Returns the recipe of that name.

    Raises:
        UserError: there is none.
    """
    if name not in RECIPES:
        raise UserError(f"--which: found {name!r}; expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
