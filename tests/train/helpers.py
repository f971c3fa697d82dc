"""Random panoramas with fused samples in memory, small students, and short trainings of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.core.progress import Progress, SilentProgress
from pipeline.data.images import ImagePreprocessing
from pipeline.data.labels import LabelSpace
from pipeline.data.samples import FusedSample, Reader
from pipeline.geometry.boundaries import label_boundary
from pipeline.models.weights import load_state_dict
from stages.train.settings import TrainSettings

CLASSES = ("road", "building", "sky", "person")
PALETTE = ((128, 64, 128), (70, 70, 70), (70, 130, 180), (220, 20, 60))
SPACE = LabelSpace(name="student", classes=CLASSES, palette=PALETTE)
STRIDE = 4

TINY_STUDENT: dict[str, Any] = {
    "model.backbone.embed_dims": 8,
    "model.backbone.num_layers": [1, 1, 1, 1],
    "model.decode_head.in_channels": [8, 16, 40, 64],
    "model.decode_head.channels": 16,
    "default_hooks.checkpoint.interval": 5,
    "default_hooks.logger.interval": 5,
}

TINY_CGNET: dict[str, Any] = {
    "model.backbone.num_channels": (8, 16, 32),
    "model.backbone.num_blocks": (1, 1),
    "model.backbone.reductions": (2, 2),
    "model.decode_head.in_channels": 64,
    "model.decode_head.channels": 64,
    "default_hooks.checkpoint.interval": 5,
    "default_hooks.logger.interval": 5,
}


def blocks(rng: np.random.Generator, height: int, width: int, classes: int = len(CLASSES)) -> np.ndarray:
    """uint8 `(height, width)`: random classes in blocks of 8 x 8 pixels."""
    coarse = rng.integers(classes, size=(-(-height // 8), -(-width // 8)), dtype=np.uint8)
    return np.kron(coarse, np.ones((8, 8), np.uint8))[:height, :width]


def log_probs(label: np.ndarray, classes: int = len(CLASSES), confidence: float = 0.9) -> np.ndarray:
    """float16 `(C, h, w)` at `STRIDE`: confident in the label."""
    native = label[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    rest = (1 - confidence) / (classes - 1)
    probs = np.where(native[None] == np.arange(classes)[:, None, None], confidence, rest)
    return np.log(probs).astype(np.float16)


class MemoryReader:
    """Panoramas whose colours follow their labels."""

    def __init__(self, count: int = 4, height: int = 32, width: int = 64, supervised: bool = False) -> None:
        rng = np.random.default_rng(0)
        self.labels = {f"pano/{i}.png": blocks(rng, height, width) for i in range(count)}
        self.supervised = supervised
        self.noise = rng.integers(-20, 21, (height, width, 3))

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.labels)

    def image(self, image_id: str) -> np.ndarray:
        colors = np.array(PALETTE)[self.labels[image_id]]
        return np.clip(colors + self.noise, 0, 255).astype(np.uint8)

    def fused(self, image_id: str) -> FusedSample:
        label = self.labels[image_id].copy()
        if self.supervised:
            return FusedSample(label=label)
        stitched = log_probs(label)
        label[:2] = 255
        return FusedSample(
            label=label,
            stitched=stitched,
            gate=np.where(label == 255, 0, 200).astype(np.uint8),
            weight=np.where(label == 255, 0, 255).astype(np.uint8),
            boundary=label_boundary(self.labels[image_id]).astype(np.uint8),
        )

    def label(self, image_id: str) -> np.ndarray:
        return self.fused(image_id).label


def run(
    work_dir: Path,
    iterations: int = 10,
    *,
    reader: Reader | None = None,
    space: LabelSpace = SPACE,
    tiny: dict[str, Any] = TINY_STUDENT,
    preprocessing: ImagePreprocessing = ImagePreprocessing(),
    resume: bool = False,
    distributed: bool = False,
    device: str = "cpu",
    progress: Progress = SilentProgress(),
    **settings: Any,
) -> Path:
    """A short training of a small student; `settings` are those of `TrainSettings`."""
    from stages.train.launch import launch
    from stages.train.run import TrainingRun

    overrides = {**tiny, **settings.pop("overrides", {})}
    defaults: dict[str, Any] = {"schedule": "schedule_demo", "workers": 0, "memory": 0, "iterations": iterations}
    train = TrainSettings.model_validate({**defaults, "overrides": overrides, **settings})
    training = TrainingRun(
        train,
        space,
        reader or MemoryReader(),
        work_dir,
        preprocessing=preprocessing,
        device=device,
        resume=resume,
        distributed=distributed,
    )
    return launch(training, progress)


def same_weights(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold the same weights, bit for bit."""
    first, second = load_state_dict(a)[0], load_state_dict(b)[0]
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
