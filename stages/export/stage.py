"""Writes a student as ONNX, and only if onnxruntime gives what torch gives."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from pipeline.core.atomic_files import whole_file, writable_folder
from pipeline.core.errors import UserError
from pipeline.core.hashing import file_digest
from pipeline.core.reading import shortened
from pipeline.data.images import MAX_PIXELS, MIN_SIDE, Size
from pipeline.models.onnx_student import (
    INPUT,
    OUTPUT,
    ExportDescription,
    Normalisation,
    description_path,
    normalised,
    open_session,
)
from pipeline.models.torch_student import TorchStudent, load_torch_student, whole_logits

#: Largest difference of a logit, and smallest share of pixels with the same class, between onnxruntime and torch.
MAX_DIFFERENCE, MIN_ARGMAX_MATCH = 1e-3, 0.999

#: A graph of any size is traced on images of this size, and checked on others.
TRACED_SIZE = (128, 256)

OPSET = 18

_HINT = "; --size HEIGHTxWIDTH may help"


@dataclass(frozen=True)
class Exported:
    """An exported student: its file, how it compares with torch, and its size in megabytes (10^6 bytes)."""

    path: Path
    max_difference: float
    argmax_match: float
    megabytes: float


class Network(torch.nn.Module):
    """Normalised images float32 `(N, 3, H, W)` to logits float32 `(N, C, H, W)`: what is exported."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return whole_logits(self.model, images)


def export_student(checkpoint: Path, out: Path, size: tuple[int, int] | None = None) -> Exported:
    """Writes `out` (`.onnx`, batch of any size) and its JSON; nothing is written unless the check passes.

    Each of the two appears whole or not at all. The JSON comes first and names the graph by its SHA-256: whoever reads
    a pair that does not belong together, because another export was killed in between, is told.

    Args:
        checkpoint: of the train stage.
        out: the ONNX file to write; its JSON gets the suffix `.json`.
        size: `(height, width)` of the images that it will take; None is any.

    Raises:
        UserError: the student cannot be exported, or onnxruntime does not give what torch gives.
    """
    if out.suffix.lower() != ".onnx":
        raise UserError(f"--out {out}: expected a file name that ends in .onnx")
    writable_folder(out.parent, "--out")
    student = load_torch_student(checkpoint, "cpu")
    network = Network(student.model).eval()
    description = describe(student, checkpoint, size)
    # the inner one is in its place first
    with whole_file(out) as temporary, whole_file(description_path(out)) as described:
        _write_graph(network, temporary, size, checkpoint)
        difference, argmax_match = compare(network, temporary, check_pictures(size), description.normalisation)
        if difference >= MAX_DIFFERENCE or argmax_match < MIN_ARGMAX_MATCH:
            raise UserError(
                f"{checkpoint}: the exported graph is not the model: logits differ by up to {difference:.2g} and "
                f"{argmax_match:.2%} of the pixels have the same class; expected less than {MAX_DIFFERENCE:g} and at "
                f"least {MIN_ARGMAX_MATCH:.1%}{_HINT if size is None else ''}"
            )
        description = description.model_copy(update={"graph_sha256": file_digest(temporary)})
        text = json.dumps(description.model_dump(mode="json"), indent=1, ensure_ascii=False)
        described.write_text(text + "\n", encoding="utf-8")
    return Exported(out, difference, argmax_match, out.stat().st_size / 1e6)


def parse_size(text: str) -> tuple[int, int]:
    """`400x2048` as (400, 2048). Raises `UserError` for another form."""
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)
    try:
        size: tuple[int, int] = TypeAdapter(Size).validate_python(match and match.groups())
    except ValidationError:
        raise UserError(
            f"--size {shortened(text, 40)}: expected HEIGHTxWIDTH, e.g. 400x2048, of {MIN_SIDE} pixels or more a side "
            f"and at most {MAX_PIXELS:,}"
        ) from None
    return size


def describe(student: TorchStudent, checkpoint: Path, size: tuple[int, int] | None) -> ExportDescription:
    """What the graph does not say. Images for a graph of one size are brought to it, after the training's crop."""
    preprocessing = student.preprocessing if size is None else student.preprocessing.model_copy(update={"size": size})
    return ExportDescription(
        label_space=student.space.name,
        classes=student.space.classes,
        palette=student.space.palette,
        ignore_index=student.space.ignore_index,
        normalisation=_normalisation(student),
        size=size,
        preparation=preprocessing.model_dump(mode="json", exclude_none=True),
        checkpoint_sha256=file_digest(checkpoint),
    )


def _normalisation(student: TorchStudent) -> Normalisation:
    preprocessor = student.model.data_preprocessor
    channels = "BGR" if preprocessor._channel_conversion else "RGB"
    if not preprocessor._enable_normalize:
        return Normalisation(channels=channels)
    mean, std = (tuple(buffer.flatten().tolist()) for buffer in (preprocessor.mean, preprocessor.std))
    return Normalisation(channels=channels, mean=mean, std=std)


def _write_graph(network: Network, path: Path, size: tuple[int, int] | None, checkpoint: Path) -> None:
    try:
        import onnx  # noqa: F401 (told here, before torch looks for it)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"export needs {error.name}; expected `pip install goodsam-offline[onnx]`") from None
    dynamic = {0: torch.export.Dim.DYNAMIC}
    if size is None:
        dynamic |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    try:
        with _quiet(), _whole_factors(network):
            torch.onnx.export(
                network,
                (torch.zeros(2, 3, *(size or TRACED_SIZE)),),
                path,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(dynamic,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # torch's exporter has many classes of errors, none of them public
        what = f"with images of any size{_HINT}" if size is None else f"for images of {size}"
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise UserError(f"{checkpoint}: torch cannot export this model {what} ({reason})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks on its own progress say nothing to a user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _whole_factors(network: torch.nn.Module) -> Iterator[None]:
    """mmseg's `Upsample` (of a feature pyramid's head) multiplies sizes in floats, and the exporter takes the traced
    sizes for constants. Within the context those with whole factors multiply integers, which stay open."""
    from mmseg.models.utils import Upsample

    layers = [
        module
        for module in network.modules()
        if isinstance(module, Upsample) and not module.size and float(module.scale_factor).is_integer()
    ]
    for layer in layers:
        layer.forward = partial(_upsample, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _upsample(layer: Any, features: torch.Tensor) -> torch.Tensor:
    size = [side * int(layer.scale_factor) for side in features.shape[2:]]
    return torch.nn.functional.interpolate(features, size, mode=layer.mode, align_corners=layer.align_corners)


def check_pictures(size: tuple[int, int] | None) -> list[np.ndarray]:
    """Batches of pictures RGB uint8 `(N, H, W, 3)` to compare on: blocks of colour with noise, other batch sizes and
    (where the graph takes any) other image sizes than the traced one, odd ones too."""
    rng = np.random.default_rng(0)
    shapes = [(2, *size), (1, *size)] if size else [(2, *TRACED_SIZE), (1, 200, 416), (3, 96, 256), (1, 45, 77)]
    batches = []
    for count, height, width in shapes:
        blocks = rng.integers(0, 256, (count, -(-height // 16), -(-width // 16), 3))
        picture = blocks.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
        batches.append(np.clip(picture + rng.integers(-20, 21, picture.shape), 0, 255).astype(np.uint8))
    return batches


@torch.no_grad()
def compare(
    network: torch.nn.Module, onnx_file: Path, batches: list[np.ndarray], settings: Normalisation
) -> tuple[float, float]:
    """onnxruntime against torch: the largest difference of a logit, and the share of pixels with the same class.

    Batches after the first that torch cannot run either are left out.
    """
    session = open_session(onnx_file, "cpu")
    difference, same, pixels = 0.0, 0, 0
    for pictures in batches:
        inputs = np.stack([normalised(picture, settings) for picture in pictures])
        try:
            expected = network(torch.from_numpy(inputs)).numpy()
        except RuntimeError:
            if not pixels:
                raise
            continue  # another size than the traced one that the network itself cannot take
        try:
            found = session.run([OUTPUT], {INPUT: inputs})[0]
        except Exception as error:  # of onnxruntime's own classes
            reason = str(error).strip().splitlines()[0][:300]
            raise UserError(f"the exported graph does not run on images {inputs.shape} ({reason})") from error
        if found.shape != expected.shape:
            raise UserError(f"the exported graph gives {found.shape}, expected {expected.shape}")
        difference = max(difference, float(np.abs(found - expected).max()))
        equal = found.argmax(axis=1) == expected.argmax(axis=1)
        same, pixels = same + int(equal.sum()), pixels + equal.size
    return (difference if np.isfinite(difference) else float("inf")), same / pixels
