"""A tiny world for the training tests: random panoramas, their fused samples in memory, a small student."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.data.samples import FusedSample
from pipeline.geometry.boundaries import label_boundary

CLASSES = ("road", "building", "sky", "person")
PALETTE = ((128, 64, 128), (70, 70, 70), (70, 130, 180), (220, 20, 60))
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


def memory_reader(**arguments: Any) -> MemoryReader:
    return MemoryReader(**arguments)
