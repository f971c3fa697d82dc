"""A trained student as a function: image in, labels out. From a checkpoint, or from an exported ONNX file.

This module is the interface and imports neither torch nor mmsegmentation; what runs the network is imported by
`load_student`, so that an ONNX file needs onnxruntime alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import ImageError
from pipeline.data.images import ImagePreprocessing
from pipeline.data.labels import LabelSpace

STUDENT_META = "student"
"""Key under a checkpoint's `meta`: JSON text with `model`, `classes`, `palette`, `ignore_index`, `label_space` (its
name) and `preparation` (how training images were cropped and resized)."""


class Student(ABC):
    """A segmentation model and the label space it was trained in.

    The three ways to run it raise `ValueError` for other arrays than a uint8 `(H, W, 3)` image, and `ImageError`
    if the network cannot run on this one: its size does not fit, or the device has too little memory for it.

    Attributes:
        space: the classes, their colours and the ignore index (which is never predicted).
        preprocessing: the crop and size that the training images had.
    """

    space: LabelSpace
    preprocessing: ImagePreprocessing

    @abstractmethod
    def logits(self, image: np.ndarray) -> np.ndarray:
        """float32 `(C, H, W)` for a uint8 `(H, W, 3)` RGB panorama seen as a whole."""

    @abstractmethod
    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """float32 `(C, H, W)`, summing to 1 over `C`."""

    @abstractmethod
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The most probable class per pixel: uint8 `(H, W)`."""


def load_student(path: str | Path, device: str = "auto") -> Student:
    """The student in a checkpoint of the train stage, or in an `.onnx` file of the export stage, of whatever origin.

    Args:
        path: the file; beside `x.onnx` there must be its `x.json`.
        device: `auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`.

    Raises:
        UserError: the file carries code, is not a student's, or names something that is not a network.
    """
    if Path(path).suffix.lower() == ".onnx":
        from pipeline.models.onnx_student import OnnxStudent

        return OnnxStudent(path, device)
    from pipeline.models.torch_student import load_torch_student

    return load_torch_student(path, device)


def check_image(image: np.ndarray) -> None:
    """Raises `ValueError` unless `image` is RGB uint8 `(H, W, 3)`."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected a uint8 (H, W, 3) RGB image, found {image.dtype} {image.shape}")


def cannot_run(image: np.ndarray, reason: object) -> ImageError:
    """That a network does not run on `image` `(H, W, 3)`; of the reason the first line is told: some fill a page."""
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    return ImageError(f"the student cannot run on an image of {image.shape[0]} x {image.shape[1]} ({lines[0][:300]})")


STARTING_WEIGHTS = ("init_cfg", "pretrained", "pretrained_backbone", "load_from")
"""Keys of a model's config that name weights to start from."""


def without_weights(value: Any) -> Any:
    """A model's config without the keys that name weights to start from."""
    if isinstance(value, dict):
        return {k: without_weights(v) for k, v in value.items() if k not in STARTING_WEIGHTS}
    if isinstance(value, list | tuple):
        return type(value)(without_weights(item) for item in value)
    return value


_TUPLE = "__tuple__"


def to_json(value: Any) -> Any:
    """A model's config as JSON data; some networks tell tuples from lists, so tuples are marked."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return {_TUPLE: [to_json(item) for item in value]}
    return [to_json(item) for item in value] if isinstance(value, list) else value


def from_json(value: Any) -> Any:
    """The inverse of `to_json`."""
    if isinstance(value, dict):
        if set(value) == {_TUPLE} and isinstance(value[_TUPLE], list):
            return tuple(from_json(item) for item in value[_TUPLE])
        return {key: from_json(item) for key, item in value.items()}
    return [from_json(item) for item in value] if isinstance(value, list) else value
