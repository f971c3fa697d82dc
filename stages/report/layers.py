"""Pictures of one panorama for the page: the photo as JPEG, and each layer as a PNG of small integers.

The page colours a layer itself, so the PNG of a label map holds class ids, and that of a weight map weights.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from pipeline.cache import ImageGroup
from pipeline.cache.fused_reader import stitched_probabilities
from pipeline.cache.groups import read_mask_sets
from pipeline.core.errors import ImageError, UserError
from pipeline.data.images import read_image, read_labels, vertical_angles
from pipeline.data.labels import LabelSpace
from pipeline.data.manifests import ImageRecord, Manifest
from pipeline.geometry.boundaries import label_boundary
from pipeline.geometry.masks import MaskSet
from pipeline.geometry.upsample import most_likely
from pipeline.models.student import Student
from stages.config import Config

MAX_PIXELS = 1_000_000  #: Of a picture; larger ones are scaled down, which bounds the page.
MAX_WIDTH = 4096  #: Of a picture: what graphics cards accept as a texture.
QUALITY = 82  #: Of the JPEG.
MASK_COLOURS = 250  #: Values 1..250 of the layer of masks are masks.
OUTLINE = 255  #: Value of the outlines in the layer of masks.
NO_LABEL = 255  #: Value of pixels without a class, and of pixels that are not labelled in the layers of errors.
WEIGHT_STEP = 4  #: Weights are rounded down to multiples of it, which halves the file.

#: What the values of a layer mean: class ids of `space`; masks; 255 M; 1 on a boundary; 1 where the label is wrong.
Kind = Literal["labels", "masks", "weight", "boundary", "error"]


@dataclass(frozen=True)
class Layer:
    """One layer: a PNG of uint8 values in base64, its title, a remark on this panorama, and its classes."""

    id: str
    title: str
    kind: Kind
    png: str
    remark: str = ""
    space: str = ""


@dataclass(frozen=True)
class Panorama:
    """One panorama on the page.

    Attributes:
        photo: JPEG in base64.
        size: height and width of photo and layers in pixels.
        angles: elevations of the lower and upper edge in degrees; None for a photo of a pinhole camera.
        figures: figures of this panorama.
    """

    id: str
    photo: str
    size: tuple[int, int]
    angles: tuple[float, float] | None
    layers: tuple[Layer, ...]
    figures: dict[str, float]


@dataclass(frozen=True)
class Source:
    """What the pictures of a data set show: the ensemble of `config`, further ensembles and a student.

    Attributes:
        title: name of the row whose ensemble is shown.
        others: further ensembles by title.
        student: file of a student.
        figures: figures of single panoramas by image id, to choose panoramas by.
    """

    manifest: Manifest
    config: Config
    title: str
    others: dict[str, Config] = field(default_factory=dict)
    student: Path | None = None
    figures: dict[str, dict[str, float]] = field(default_factory=dict)


def draw(source: Source, record: ImageRecord, student: Student | None) -> Panorama:
    """Returns the photo and the layers of a panorama; artefacts that are not in the cache are left out.

    Raises `ImageError` if the image file cannot be read.
    """
    manifest, config = source.manifest, source.config
    image = read_image(record.path, manifest.preprocessing)
    height, width = image.shape[:2]
    size = picture_size(height, width)
    layers: list[Layer] = []

    def add(id: str, title: str, kind: Kind, values: np.ndarray, remark: str = "", space: str = "") -> None:
        layers.append(Layer(id, title, kind, encode_png(values, size), remark, space))

    if group := _read(config, manifest, "masks", record.id):
        masks = read_mask_sets(group, [(height, width)])[0]
        add("masks", "masks", "masks", mask_layer(masks), f"{len(masks)} masks, the smallest on top")
        add("boundary", "boundary", "boundary", group.read_array("boundary", ndim=2), "of the masks of every view")
    space, predictions = config.fused_space(), dict[str, tuple[np.ndarray, LabelSpace]]()
    if fused := _read(config, manifest, "fused", record.id):
        signals = fused.attributes.get("signals", {})
        remark = f"stitched; L_CC {signals['l_cc']:.4f} nats" if "l_cc" in signals else "stitched"
        add("ta", "TA", "labels", most_likely(stitched_probabilities(fused)).astype(np.uint8), remark, space.name)
        predictions["ensemble"] = fused.read_array("label", ndim=2), space
        add("ensemble", "ensemble", "labels", predictions["ensemble"][0], source.title, space.name)
        for number, (title, other) in enumerate(source.others.items()):
            if compared := _read(other, manifest, "fused", record.id):
                labels = compared.read_array("label", ndim=2)
                add(f"other-{number}", title, "labels", labels, "ensemble", other.fused_space().name)
        weight = fused.read_array("weight", ndim=2)
        rounded = weight // WEIGHT_STEP * WEIGHT_STEP
        add("weight", "weight M", "weight", rounded, f"mean {100 * weight.mean() / 255:.1f} %")
        if "boundary" in fused.array_names():
            add("refined", "refined boundary", "boundary", fused.read_array("boundary", ndim=2), "B_ref")
    if student is not None:
        predictions["student"] = student(image), student.space
        name = "" if source.student is None else source.student.parent.name
        add("student", "student", "labels", predictions["student"][0], name, student.space.name)
    if record.label_path is not None:
        truth = read_labels(record.label_path, manifest.preprocessing, manifest.label_space)
        add("truth", "truth", "labels", truth, "true labels", manifest.label_space.name)
        for name, (labels, classes) in predictions.items():
            if (wrong := error_layer(labels, classes, truth, manifest.label_space)) is not None:
                share = 100 * np.mean(wrong[wrong != NO_LABEL]) if (wrong != NO_LABEL).any() else 0
                title = "error" if name == "ensemble" else f"error, {name}"
                add(f"error-{name}", title, "error", wrong, f"{share:.1f} % of the labelled pixels of the {name}")
    panorama = manifest.settings.projection == "erp"
    angles = vertical_angles(record.path, manifest.preprocessing) if panorama else None
    return Panorama(record.id, encode_jpeg(image, size), size, angles, tuple(layers), source.figures.get(record.id, {}))


def picture_size(height: int, width: int) -> tuple[int, int]:
    """Returns height and width of the pictures of a panorama."""
    scale = min(1.0, MAX_WIDTH / width, (MAX_PIXELS / (height * width)) ** 0.5)
    return max(1, round(height * scale)), max(1, round(width * scale))


def spaces_of(source: Source, student: Student | None) -> dict[str, LabelSpace]:
    """Returns the label spaces of the layers by name."""
    configs = [source.config, *source.others.values()]
    spaces = [source.manifest.label_space, *(config.fused_space() for config in configs)]
    return {space.name: space for space in [*spaces, *([student.space] if student else [])]}


def _read(config: Config, manifest: Manifest, kind: str, image_id: str) -> ImageGroup | None:
    try:
        return config.artefact(manifest, kind).read(image_id)
    except ImageError:
        return None


def mask_layer(masks: MaskSet) -> np.ndarray:
    """Returns uint8 `(H, W)`: a value 1..`MASK_COLOURS` for each mask, small masks on top, outlines, 0 elsewhere."""
    values = np.zeros(masks.shape, np.uint8)
    for rank, k in enumerate(np.argsort(-masks.table["area"], kind="stable")):
        values[masks.mask(int(k))] = 1 + rank % MASK_COLOURS
    if len(masks.planes):
        values[label_boundary(masks.planes).any(axis=0)] = OUTLINE
    return values


def error_layer(labels: np.ndarray, classes: LabelSpace, truth: np.ndarray, space: LabelSpace) -> np.ndarray | None:
    """Returns uint8 `(H, W)`: 1 where `labels` are wrong in the classes of `space`, 0 where right.

    `NO_LABEL` where `truth` has no class, or one that `classes` cannot reach. None if the classes do not map, or the
    sizes differ.
    """
    try:
        mapped, reachable = space.map_labels(labels, classes), np.flatnonzero(space.reachable_from(classes))
    except UserError:
        return None
    if mapped.shape != truth.shape:
        return None
    wrong = (mapped != truth).astype(np.uint8)
    return np.where(np.isin(truth, reachable), wrong, np.uint8(NO_LABEL))


def encode_png(values: np.ndarray, size: tuple[int, int]) -> str:
    """Returns uint8 `(H, W)` as a greyscale PNG of `size` (H, W) in base64; scaled by the nearest neighbour."""
    image = Image.fromarray(np.ascontiguousarray(values, dtype=np.uint8))
    if values.shape != size:
        image = image.resize(size[::-1], Image.Resampling.NEAREST)
    return _encoded(image.save, format="PNG", optimize=True)


def encode_jpeg(image: np.ndarray, size: tuple[int, int]) -> str:
    """Returns RGB uint8 `(H, W, 3)` as a JPEG of `size` (H, W) in base64."""
    picture = Image.fromarray(image)
    if image.shape[:2] != size:
        picture = picture.resize(size[::-1], Image.Resampling.LANCZOS)
    return _encoded(picture.save, format="JPEG", quality=QUALITY)


def _encoded(save: Callable[..., object], **options: Any) -> str:
    stream = io.BytesIO()
    save(stream, **options)
    return base64.b64encode(stream.getvalue()).decode("ascii")
