"""Writes a student as ONNX, if onnxruntime gives the same result as torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from pipeline.core.atomic_files import atomic_write, make_writable_folder
from pipeline.core.errors import UserError
from pipeline.core.hashing import file_digest
from pipeline.core.reading import error_text, shorten
from pipeline.data.images import MAX_PIXELS, MIN_SIDE, Size
from pipeline.models.mmseg_import import silence
from pipeline.models.normalization import Normalization
from pipeline.models.onnx_student import INPUT, OUTPUT, ExportDescription, description_path, open_session
from pipeline.models.torch_student import TorchStudent, load_torch_student, whole_logits
from stages.export.mmseg_internals import integer_upsampling, preprocessor_normalization

MAX_DIFFERENCE, MIN_ARGMAX_MATCH = 1e-3, 0.999  #: Limits of the figures of `compare`.
TRACED_SIZE = (128, 256)  #: Image size at which a graph of any size is traced; it is compared at others.
OPSET = 18
_HINT = "; --size HEIGHTxWIDTH may help"


@dataclass(frozen=True)
class Exported:
    """An exported ONNX file, its size (10^6 bytes), and the figures of `compare`."""

    path: Path
    max_difference: float
    argmax_match: float
    megabytes: float


class Network(torch.nn.Module):
    """The exported function: normalized images float32 `(N, 3, H, W)` to logits float32 `(N, C, H, W)`."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return whole_logits(self.model, images)


def export_student(checkpoint: Path, out: Path, size: tuple[int, int] | None = None) -> Exported:
    """Writes a student as `out` (`.onnx`, batch of any size) and its JSON (`.json`), both atomically.

    The JSON is moved into place first and holds the graph's SHA-256: a pair that does not belong together, because an
    export was killed between the two moves, is refused when it is loaded.

    `size` is the `(height, width)` of the only images that the graph takes; None is any size. Raises `UserError`, and
    writes nothing, if the student cannot be exported, or onnxruntime's result differs from torch's.
    """
    if out.suffix.lower() != ".onnx":
        raise UserError(f"--out {out}: expected a file name that ends in .onnx")
    make_writable_folder(out.parent, "--out")
    student = load_torch_student(checkpoint, "cpu")
    network = Network(student.model).eval()
    description = describe_student(student, checkpoint, size)
    # the inner context ends first
    with atomic_write(out) as graph_file, atomic_write(description_path(out)) as description_file:
        _write_graph(network, graph_file, size, checkpoint)
        batches = make_test_images(size)
        difference, argmax_match = compare(network, graph_file, batches, description.normalisation)
        if difference >= MAX_DIFFERENCE or argmax_match < MIN_ARGMAX_MATCH:
            raise UserError(
                f"{checkpoint}: the exported graph is not the model: logits differ by up to {difference:.2g} and "
                f"{argmax_match:.2%} of the pixels have the same class; expected less than {MAX_DIFFERENCE:g} and at "
                f"least {MIN_ARGMAX_MATCH:.1%}{_HINT if size is None else ''}"
            )
        description = description.model_copy(update={"graph_sha256": file_digest(graph_file)})
        text = json.dumps(description.model_dump(mode="json"), indent=1, ensure_ascii=False)
        description_file.write_text(text + "\n", encoding="utf-8")
    return Exported(out, difference, argmax_match, out.stat().st_size / 1e6)


def parse_size(text: str) -> tuple[int, int]:
    """Parses `400x2048` as `(400, 2048)`. Raises `UserError` for another form."""
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)
    try:
        size: tuple[int, int] = TypeAdapter(Size).validate_python(match and match.groups())
    except ValidationError:
        raise UserError(
            f"--size {shorten(text, 40)}: expected HEIGHTxWIDTH, e.g. 400x2048, of {MIN_SIDE} pixels or more a side "
            f"and at most {MAX_PIXELS:,}"
        ) from None
    return size


def describe_student(student: TorchStudent, checkpoint: Path, size: tuple[int, int] | None) -> ExportDescription:
    """Returns the JSON of an export. Images for a graph of one size are resized to it, after the training's crop."""
    preprocessing = student.preprocessing if size is None else student.preprocessing.model_copy(update={"size": size})
    return ExportDescription.of(
        student.space,
        preprocessing,
        normalisation=preprocessor_normalization(student.model.data_preprocessor),
        size=size,
        checkpoint_sha256=file_digest(checkpoint),
    )


def _write_graph(network: Network, path: Path, size: tuple[int, int] | None, checkpoint: Path) -> None:
    try:
        import onnx  # noqa: F401 (a clear message before torch imports them)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"export needs {error.name}; expected `pip install goodsam-offline[onnx]`") from None
    dynamic = dict.fromkeys((0, 2, 3) if size is None else (0,), torch.export.Dim.DYNAMIC)
    try:
        with silence(), integer_upsampling(network):
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
        images = f"with images of any size{_HINT}" if size is None else f"for images of {size}"
        raise UserError(f"{checkpoint}: torch cannot export this model {images} ({error_text(error)})") from error


def make_test_images(size: tuple[int, int] | None) -> list[np.ndarray]:
    """Returns batches of RGB uint8 images `(N, H, W, 3)`: blocks of colour with noise.

    The first batch has the traced size. Others have other numbers of images and, if allowed, other and odd sizes.
    """
    rng = np.random.default_rng(0)
    shapes = [(2, *size), (1, *size)] if size else [(2, *TRACED_SIZE), (1, 200, 416), (3, 96, 256), (1, 45, 77)]
    batches = []
    for count, height, width in shapes:
        blocks = rng.integers(0, 256, (count, -(-height // 16), -(-width // 16), 3))
        images = blocks.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
        batches.append(np.clip(images + rng.integers(-20, 21, images.shape), 0, 255).astype(np.uint8))
    return batches


@torch.no_grad()
def compare(
    network: torch.nn.Module, onnx_file: Path, batches: list[np.ndarray], normalization: Normalization
) -> tuple[float, float]:
    """Compares onnxruntime with torch on batches of RGB uint8 images `(N, H, W, 3)`.

    A batch after the first on which torch fails too, because the network cannot take its size, is left out. Returns the
    largest difference of a logit, and the share of pixels with the same class, 0..1. Raises `UserError` if onnxruntime
    fails where torch does not, or gives another shape.
    """
    session = open_session(onnx_file, "cpu")
    difference, same, pixels = 0.0, 0, 0
    for images in batches:
        inputs = normalization.normalize(images)
        try:
            expected = network(torch.from_numpy(inputs)).numpy()
        except RuntimeError:
            if not pixels:
                raise
            continue
        try:
            logits = session.run([OUTPUT], {INPUT: inputs})[0]
        except Exception as error:  # onnxruntime has its own exception classes
            reason = error_text(error)
            raise UserError(f"the exported graph does not run on images {inputs.shape} ({reason})") from error
        if logits.shape != expected.shape:
            raise UserError(f"the exported graph gives {logits.shape}, expected {expected.shape}")
        difference = max(difference, float(np.abs(logits - expected).max()))
        matches = logits.argmax(axis=1) == expected.argmax(axis=1)
        same, pixels = same + int(matches.sum()), pixels + matches.size
    return (difference if np.isfinite(difference) else float("inf")), same / pixels
