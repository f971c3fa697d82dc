"""Random image files, descriptions of exported students, and checkpoints."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from hypothesis import strategies as st
from PIL import ExifTags, Image

from pipeline.data.images import ImagePreprocessing, prepared_size, read_image, read_labels
from pipeline.data.labels import load_label_space
from pipeline.models.load import load_student
from pipeline.models.student import STUDENT_META
from pipeline.models.torch_student import load_torch_student
from pipeline.models.weights import load_state_dict
from tests.fuzz.guard import Inputs
from tests.fuzz.inputs import changed, changed_bytes
from tests.fuzz.tiers import tiers
from tests.models import street
from tests.predict.helpers import untrained

# -------------------------------------------------------------------------------------------------------------- images

_EXIF = Image.Exif()
_EXIF[ExifTags.Base.Orientation] = 6
_EXIF[ExifTags.Base.Make] = "camera"

#: Formats and options of the encoder by file name.
ENCODED: dict[str, tuple[str, dict[str, Any]]] = {
    "a.jpg": ("JPEG", {"exif": _EXIF}),
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "a.png": ("PNG", {"exif": _EXIF}),
    "raw.tif": ("TIFF", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "deflate.tif": ("TIFF", {"compression": "tiff_deflate"}),
    "jpeg.tif": ("TIFF", {"compression": "jpeg"}),
    "a.webp": ("WEBP", {"exif": _EXIF}),
    "lossless.webp": ("WEBP", {"lossless": True}),
    "a.bmp": ("BMP", {}),
    "a.gif": ("GIF", {}),
}


MODES = {
    "JPEG": ["RGB", "L", "CMYK"],
    "TIFF": ["RGB", "L", "1", "F", "CMYK"],
    "PNG": ["RGB", "P", "RGBA", "L"],
}


@cache
def encoded(name: str, mode: str) -> bytes:
    stream = io.BytesIO()
    kind, options = ENCODED[name]
    Image.fromarray(street(32, 64)).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


@st.composite
def image_files(draw: st.DrawFn) -> tuple[str, bytes]:
    name = draw(st.sampled_from(sorted(ENCODED)))
    mode = draw(st.sampled_from(MODES.get(ENCODED[name][0], ["RGB"])))
    if name == "jpeg.tif":
        mode = "L"
    return name, draw(changed_bytes(encoded(name, mode)))


@tiers(image_files(), 150, 15_000)
def test_image_files(file: tuple[str, bytes], folder: Path, inputs: Inputs) -> None:
    path = folder / file[0]
    path.write_bytes(file[1])
    inputs.run(lambda: read_image(path, ImagePreprocessing()))
    inputs.run(lambda: prepared_size(path, ImagePreprocessing(crop_rows=(0, 16))))
    inputs.run(lambda: read_labels(path, ImagePreprocessing(), load_label_space("cityscapes19")))


# ------------------------------------------------------------------------------------------------------------ students


def tiny_graph() -> bytes:
    """Returns an ONNX graph `(N, 3, H, W)` to `(N, 19, H, W)`: one convolution of 1 x 1."""
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 19, "h", "w"])
    weights = onnx.numpy_helper.from_array(np.linspace(-1, 1, 57, dtype=np.float32).reshape(19, 3, 1, 1), "weights")
    node = onnx.helper.make_node("Conv", ["image", "weights"], ["logits"])
    graph = onnx.helper.make_graph([node], "tiny", [image], [logits], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    data: bytes = model.SerializeToString()
    return data


SPACE = load_label_space("cityscapes19")
DESCRIPTION = {
    "format": 1,
    "label_space": SPACE.name,
    "classes": list(SPACE.classes),
    "palette": [list(colour) for colour in SPACE.palette],
    "ignore_index": 255,
    "normalisation": {"channels": "RGB", "mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 1.0]},
    "size": [32, 64],
    "preparation": {"crop_rows": [0, 32], "size": [32, 64]},
}


def as_json(value: Any) -> str:
    return json.dumps(value, default=str)


def run_student(path: Path) -> None:
    load_student(path, "cpu")(street(32, 64))


@tiers(st.tuples(changed(DESCRIPTION).map(as_json), st.one_of(st.none(), changed_bytes(tiny_graph()))), 30, 3_000)
def test_exported_students(file: tuple[str, bytes | None], folder: Path, inputs: Inputs) -> None:
    (folder / "x.json").write_text(file[0])
    (folder / "x.onnx").write_bytes(tiny_graph() if file[1] is None else file[1])
    inputs.run(lambda: run_student(folder / "x.onnx"))


@tiers(changed_bytes(json.dumps(DESCRIPTION).encode()), 30, 3_000)
def test_descriptions(text: bytes, folder: Path, inputs: Inputs) -> None:
    (folder / "x.json").write_bytes(text)
    (folder / "x.onnx").write_bytes(tiny_graph())
    inputs.run(lambda: run_student(folder / "x.onnx"))


@cache
def own_checkpoint() -> tuple[bytes, dict[str, Any], dict[str, torch.Tensor]]:
    """A student of random weights: the file, what its meta says, and its weights."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = untrained(Path(folder) / "student.pth")
        state, meta = load_state_dict(path)
        return path.read_bytes(), json.loads(meta[STUDENT_META]), state


@tiers(st.deferred(lambda: changed(own_checkpoint()[1])), 15, 1_500)
def test_what_a_checkpoint_says(described: Any, folder: Path, inputs: Inputs) -> None:
    path = folder / "student.pth"
    torch.save({"state_dict": own_checkpoint()[2], "meta": {STUDENT_META: as_json(described)}}, path)
    inputs.run(lambda: load_torch_student(path, "cpu"))


@tiers(st.deferred(lambda: changed_bytes(own_checkpoint()[0])), 15, 1_500)
def test_checkpoint_files(data: bytes, folder: Path, inputs: Inputs) -> None:
    path = folder / "student.pth"
    path.write_bytes(data)
    inputs.run(lambda: load_torch_student(path, "cpu"))
