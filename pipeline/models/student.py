"""A trained student as a function from images to labels: the interface, and the description stored with its weights.

This module imports neither torch nor mmsegmentation; `pipeline.models.load` chooses the implementation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field

from pipeline.core.errors import ImageError
from pipeline.core.settings import Settings, parse_settings
from pipeline.data.images import ImagePreprocessing, read_image
from pipeline.data.labels import LabelSpace

STUDENT_META = "student"
"""Key under a checkpoint's `meta`: JSON text with the fields of `StudentDescription` and `model`, the config."""

_SPACE_FIELDS = {"classes", "palette", "ignore_index", "things"}


class StudentDescription(Settings):
    """The part of a student that is stored as JSON with its weights; the field names are those of stored files."""

    label_space: str = Field("student", description="Name of the label space.")
    classes: tuple[str, ...] = Field(description="Class names; the position is the label value.")
    palette: tuple[tuple[int, int, int], ...] = Field(description="RGB colour of every class.")
    ignore_index: int = 255
    things: tuple[str, ...] = Field((), description="The classes of countable objects.")
    preparation: ImagePreprocessing = Field(ImagePreprocessing(), description="Crop and size of the training images.")

    @classmethod
    def of(cls, space: LabelSpace, preprocessing: ImagePreprocessing, **fields: Any) -> Self:
        """Returns the description of a student for these classes and images."""
        fields |= space.model_dump(include=_SPACE_FIELDS)
        return cls(label_space=space.name, preparation=preprocessing, **fields)

    def space(self, source: str) -> LabelSpace:
        """Returns the label space. Raises `UserError`, which names `source`, if its parts do not fit each other."""
        return parse_settings(LabelSpace, {"name": self.label_space, **self.model_dump(include=_SPACE_FIELDS)}, source)


class Student(ABC):
    """A segmentation model, its label space and its image preprocessing.

    `logits`, `probabilities` and `student(image)` take one preprocessed RGB image, uint8 `(H, W, 3)`. They raise
    `ValueError` for another array, and `ImageError` if its size does not fit or the device has too little memory.

    Attributes:
        space: Classes, colours and the ignore index, which is never predicted.
        preprocessing: Crop and size that `read_image` and `predict` apply; at first those of the training images.
        source: File that the student was loaded from.
    """

    space: LabelSpace
    preprocessing: ImagePreprocessing
    source: Path | None = None

    @abstractmethod
    def logits(self, image: np.ndarray) -> np.ndarray:
        """Returns the logits of an image, float32 `(C, H, W)`."""

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Returns class probabilities, float32 `(C, H, W)`, with sum 1 over `C`."""
        logits = self.logits(image)
        logits -= logits.max(axis=0)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=0)
        return logits

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns the most probable class of each pixel, uint8 `(H, W)`."""
        return self.logits(image).argmax(axis=0).astype(np.uint8)

    def read_image(self, path: str | Path) -> np.ndarray:
        """Reads, crops and resizes an image file: RGB uint8 `(H, W, 3)`. Raises `ImageError`."""
        return read_image(Path(path), self.preprocessing)

    def predict(self, path: str | Path) -> np.ndarray:
        """Returns the labels of an image file at the preprocessed resolution, uint8 `(H, W)`. Raises `ImageError`."""
        return self(self.read_image(path))

    def __repr__(self) -> str:
        rows, size = self.preprocessing.crop_rows, self.preprocessing.size
        parts = [
            f"{self.space.num_classes} classes of {self.space.name}",
            f"rows {rows[0]}:{rows[1]}" if rows else "",
            f"size {size[0]}x{size[1]}" if size else "any size",
            f"source {str(self.source)!r}" if self.source else "",
        ]
        return f"<{type(self).__name__}: {', '.join(filter(None, parts))}>"


def check_image(image: np.ndarray) -> None:
    """Raises `ValueError` unless `image` is RGB uint8 `(H, W, 3)`."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected a uint8 (H, W, 3) RGB image, found {image.dtype} {image.shape}")


def inference_error(image: np.ndarray, reason: object) -> ImageError:
    """Returns the error of a network that cannot run on an image `(H, W, 3)`, with the first line of `reason`."""
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    return ImageError(f"the student cannot run on an image of {image.shape[0]} x {image.shape[1]} ({lines[0][:300]})")
