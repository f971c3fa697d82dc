"""A student from an exported ONNX file, run by onnxruntime; needs neither torch nor mmsegmentation.

Beside `x.onnx` lies `x.json`, what the graph itself does not say: classes, colours, normalisation, sizes.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pipeline.core.errors import ImageError, UserError
from pipeline.core.reading import is_file, read_json, shortened, shown
from pipeline.core.settings import Settings, parse_settings
from pipeline.data.images import ImagePreprocessing, Size
from pipeline.data.labels import LabelSpace
from pipeline.models.student import Student, cannot_run, check_image

INPUT, OUTPUT = "image", "logits"
"""Names in the graph: float32 `(N, 3, H, W)`, normalised; float32 `(N, C, H, W)` at the image's size."""


Deviation = Annotated[float, Field(gt=0)]


class Normalisation(Settings):
    """`(pixel - mean) / std`, channel by channel, for pixels 0..255."""

    channels: Literal["RGB", "BGR"] = Field("RGB", description="Order of the graph's input channels.")
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[Deviation, Deviation, Deviation] = (1.0, 1.0, 1.0)


class ExportDescription(Settings):
    """The JSON beside an exported student."""

    format: Literal[1] = 1
    label_space: str = Field(description="Name of the classes.")
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] = Field(description="RGB colour of every class.")
    ignore_index: int = 255
    normalisation: Normalisation
    size: Size | None = Field(None, description="[height, width] that the graph takes; null: any.")
    preparation: dict[str, Any] = Field(default_factory=dict, description="Crop and size of the training images.")
    checkpoint_sha256: str | None = Field(None, description="The checkpoint that was exported.")
    graph_sha256: str | None = Field(None, description="The ONNX file that this describes; null (older): not checked.")


def description_path(onnx: Path) -> Path:
    """Where the JSON of an ONNX file lies."""
    return onnx.with_suffix(".json")


class OnnxStudent(Student):
    """A student as an onnxruntime session.

    `OMP_NUM_THREADS` limits its threads, as it does torch's. Raises `UserError` if one of the two files is
    missing or cannot be read, or they do not belong together.
    """

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        path = Path(path)
        self.description = read_description(path)
        described = self.description
        try:
            self.space = LabelSpace(
                name=described.label_space,
                classes=described.classes,
                palette=described.palette,
                ignore_index=described.ignore_index,
            )
            self.preprocessing = ImagePreprocessing.model_validate(described.preparation)
        except ValueError as error:
            raise UserError(f"{description_path(path)}: {shortened(' '.join(str(error).split()))}") from None
        self.path = path
        self.session = open_session(path, device, described.graph_sha256)
        shape = self.session.get_outputs()[0].shape
        if len(shape) != 4:
            raise UserError(f"{path}: gives an array of {len(shape)} dimensions, expected (N, C, H, W)")
        self._check_classes(shape[1])

    def _check_classes(self, found: object) -> None:
        """A graph of another exporter may leave the number of its channels open: then the first image tells."""
        if isinstance(found, int) and found != self.space.num_classes:
            raise UserError(
                f"{self.path}: gives {found} channels, but {description_path(self.path).name} names "
                f"{self.space.num_classes} classes; expected as many"
            )

    def logits(self, image: np.ndarray) -> np.ndarray:
        check_image(image)
        size = self.description.size
        if size is not None and image.shape[:2] != size:
            raise ImageError(f"the exported student takes images of {size[0]} x {size[1]}, found {image.shape[:2]}")
        inputs = normalised(image, self.description.normalisation)[None]
        try:
            logits = self.session.run([OUTPUT], {INPUT: inputs})[0][0]
        except Exception as error:  # onnxruntime has exception classes of its own for every defect
            raise cannot_run(image, error) from None
        if logits.shape[1:] != image.shape[:2]:
            raise cannot_run(image, f"the graph gives {logits.shape}, expected the image's size")
        self._check_classes(logits.shape[0])
        return logits

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        logits = self.logits(image)
        logits -= logits.max(axis=0)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=0)
        return logits

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return self.logits(image).argmax(axis=0).astype(np.uint8)


def normalised(image: np.ndarray, settings: Normalisation) -> np.ndarray:
    """RGB uint8 `(H, W, 3)` as the graph takes it: float32 `(3, H, W)`."""
    channels = image if settings.channels == "RGB" else image[..., ::-1]
    planes = np.ascontiguousarray(channels.transpose(2, 0, 1), dtype=np.float32)
    planes -= np.array(settings.mean, np.float32)[:, None, None]
    planes /= np.array(settings.std, np.float32)[:, None, None]
    return planes


def read_description(path: Path) -> ExportDescription:
    """The JSON beside an ONNX file. Raises `UserError`."""
    beside = description_path(path)
    data = read_json(beside, f"the JSON that the export stage writes beside {path.name}")
    return parse_settings(ExportDescription, data, str(beside))


def open_session(path: Path, device: str = "auto", sha256: str | None = None) -> Any:
    """An onnxruntime session of a local file.

    Args:
        path: the file.
        device: `auto`, `cpu` or `cuda[:index]`.
        sha256: that its bytes have to have.

    Raises:
        UserError: there is no such file or device, it holds other bytes, or onnxruntime cannot run it.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"{path}: running it needs onnxruntime; expected `pip install goodsam-offline[onnx]`") from None
    if not is_file(path):
        raise UserError(f"{shortened(path)}: no such file; expected an ONNX file of the export stage")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UserError(f"device: found {device!r}, expected auto, cpu or cuda[:index]")
    available = onnxruntime.get_available_providers()
    provider: Any = "CPUExecutionProvider"
    if device != "cpu" and "CUDAExecutionProvider" in available:
        _, _, index = device.partition(":")
        provider = ("CUDAExecutionProvider", {"device_id": int(index or 0)})
    elif device not in ("auto", "cpu"):
        raise UserError(f"device: found {device!r}, but this onnxruntime has {', '.join(available)}; expected cpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    graph = path.read_bytes()  # once: what is checked is what runs, whatever an export does meanwhile
    if sha256 is not None and (found := hashlib.sha256(graph).hexdigest()) != sha256:
        raise UserError(
            f"{path}: is not the graph that {description_path(path).name} describes (found sha256 {found[:12]}..., "
            f"expected {sha256[:12]}...); export the student again"
        )
    try:
        fallback = int(provider != "CPUExecutionProvider")  # else onnxruntime prints and tries the same again
        session = onnxruntime.InferenceSession(graph, options, providers=[provider], enable_fallback=fallback)
    except Exception as error:  # onnxruntime has exception classes of its own for every defect
        reason = shortened(" ".join(str(error).split()), 200) or type(error).__name__
        raise UserError(f"{path}: is not a readable ONNX file ({reason}); expected one of the export stage") from None
    names = [node.name for node in session.get_inputs()], [node.name for node in session.get_outputs()]
    if names != ([INPUT], [OUTPUT]):
        raise UserError(f"{path}: has inputs and outputs {shown(names)}, expected [{INPUT!r}] and [{OUTPUT!r}]")
    return session
