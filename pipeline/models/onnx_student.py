"""A student from an exported ONNX file, run by onnxruntime; needs neither torch nor mmsegmentation.

Beside `x.onnx` is `x.json`, with what the graph does not hold: classes, colours, normalization, sizes.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_serializer

from pipeline.core.errors import ImageError, UserError
from pipeline.core.reading import error_text, is_file, read_json, short_repr, shorten
from pipeline.core.settings import parse_settings
from pipeline.data.images import ImagePreprocessing, Size
from pipeline.models.normalization import Normalization
from pipeline.models.student import Student, StudentDescription, check_image, inference_error

INPUT, OUTPUT = "image", "logits"
"""Names in the graph: float32 `(N, 3, H, W)`, normalized; float32 `(N, C, H, W)` at the image's size."""


class ExportDescription(StudentDescription):
    """The JSON beside an exported student."""

    format: Literal[1] = 1
    label_space: str = Field(description="Name of the label space.")
    normalisation: Normalization
    size: Size | None = Field(None, description="[height, width] that the graph takes; null: any.")
    checkpoint_sha256: str | None = Field(None, description="The checkpoint that was exported.")
    graph_sha256: str | None = Field(None, description="The described ONNX file; null (older files): not checked.")

    @field_serializer("preparation")
    def _write_preparation(self, preparation: ImagePreprocessing) -> dict[str, Any]:
        return preparation.model_dump(mode="json", exclude_none=True)


def description_path(onnx: Path) -> Path:
    """Returns the path of the JSON that belongs to an ONNX file."""
    return onnx.with_suffix(".json")


class OnnxStudent(Student):
    """A student as an onnxruntime session. `OMP_NUM_THREADS` limits its threads, as it does torch's.

    Raises `UserError` if the ONNX file or its JSON is missing or unreadable, or they do not belong together.
    """

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        self.source = path = Path(path)
        description = description_path(path)
        data = read_json(description, f"the JSON that the export stage writes beside {path.name}")
        self.description = parse_settings(ExportDescription, data, str(description))
        self.space = self.description.space(str(description))
        self.preprocessing = self.description.preparation
        self.session = open_session(path, device, self.description.graph_sha256)
        shape = self.session.get_outputs()[0].shape
        if len(shape) != 4:
            raise UserError(f"{path}: gives an array of {len(shape)} dimensions, expected (N, C, H, W)")
        if isinstance(shape[1], int):  # another exporter may leave the number of channels open
            self._check_channels(shape[1])

    def _check_channels(self, channels: int) -> None:
        if channels != self.space.num_classes:
            classes = f"its JSON names {self.space.num_classes} classes; expected as many"
            raise UserError(f"{self.source}: gives {channels} channels, but {classes}")

    def logits(self, image: np.ndarray) -> np.ndarray:
        check_image(image)
        size = self.description.size
        if size is not None and image.shape[:2] != size:
            raise ImageError(f"the exported student takes images of {size[0]} x {size[1]}, found {image.shape[:2]}")
        inputs = self.description.normalisation.normalize(image[None])
        try:
            logits: np.ndarray = self.session.run([OUTPUT], {INPUT: inputs})[0][0]
        except Exception as error:  # onnxruntime has its own exception class for every defect
            raise inference_error(image, error) from None
        if logits.shape[1:] != image.shape[:2]:
            raise inference_error(image, f"the graph gives {logits.shape}, expected the image's size")
        self._check_channels(logits.shape[0])
        return logits


def open_session(path: Path, device: str = "auto", sha256: str | None = None) -> Any:
    """Opens a local ONNX file as an `onnxruntime.InferenceSession` with input `INPUT` and output `OUTPUT`.

    Raises `UserError` if file or device is missing, its digest is not `sha256`, or onnxruntime cannot run it.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"{path}: running it needs onnxruntime; expected `pip install goodsam-offline[onnx]`") from None
    if not is_file(path):
        raise UserError(f"{shorten(path)}: no such file; expected an ONNX file of the export stage")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    provider = _provider(device, onnxruntime.get_available_providers())
    graph = path.read_bytes()  # read once: the checked bytes are the ones that run, even while an export replaces them
    if sha256 is not None and (digest := hashlib.sha256(graph).hexdigest()) != sha256:
        digests = f"found sha256 {digest[:12]}..., expected {sha256[:12]}..."
        described = f"the graph that {description_path(path).name} describes"
        raise UserError(f"{path}: is not {described} ({digests}); export the student again")
    try:
        fallback = int(provider != "CPUExecutionProvider")  # on a CPU onnxruntime would print and try the same again
        session = onnxruntime.InferenceSession(graph, options, providers=[provider], enable_fallback=fallback)
    except Exception as error:  # onnxruntime has its own exception class for every defect
        reason = error_text(error, 200)
        raise UserError(f"{path}: is not a readable ONNX file ({reason}); expected one of the export stage") from None
    names = [node.name for node in session.get_inputs()], [node.name for node in session.get_outputs()]
    if names != ([INPUT], [OUTPUT]):
        raise UserError(f"{path}: has inputs and outputs {short_repr(names)}, expected [{INPUT!r}] and [{OUTPUT!r}]")
    return session


def _provider(device: str, available: list[str]) -> Any:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UserError(f"device: found {device!r}, expected auto, cpu or cuda[:index]")
    if device != "cpu" and "CUDAExecutionProvider" in available:
        return "CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)}
    if device.startswith("cuda"):
        raise UserError(f"device: found {device!r}, but this onnxruntime has {', '.join(available)}; expected cpu")
    return "CPUExecutionProvider"
