"""Layers: what the PNG of each holds, decoded again."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.data.labels import load_label_space
from pipeline.geometry.masks import from_masks
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from stages.report.layers import (
    MAX_PIXELS,
    NO_LABEL,
    OUTLINE,
    Layer,
    Source,
    draw,
    encode_png,
    error_layer,
    mask_layer,
    picture_size,
)
from tests.conftest import Project, write_yaml

CITYSCAPES = load_label_space("cityscapes19")


def values_of(layer: Layer) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(layer.png))))


def add_truth(project: Project) -> np.ndarray:
    """Gives every panorama one label map; the left half is not labelled."""
    truth = np.full((64, 256), 13, np.uint8)
    truth[:, :128] = 255
    for k in range(3):
        project.add_labels(f"p{k:03d}_labelTrainIds.png", truth)
    labels = {"replace": [["images/", "labels/"], [".png", "_labelTrainIds.png"]]}
    split = {"images": ["images/*"], "labels": labels}
    write_yaml(project.manifest_path, {"name": "toy", "splits": {"train": split}})
    return truth


class Constant:
    """A student that predicts one class everywhere."""

    space = CITYSCAPES

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return np.full(image.shape[:2], 13, np.uint8)


def test_every_layer_holds_the_values_of_the_cache(project: Project) -> None:
    truth = add_truth(project)
    manifest, config = project.manifest(), project.config("fusion.rule=best")
    precompute(manifest, config)
    fuse(manifest, config)
    other = project.config("fusion.rule=paper")
    fuse(manifest, other)
    source = Source(manifest, config, "best", others={"paper": other}, figures={"images/p000": {"mIoU": 50.0}})
    panorama = draw(source, manifest.images[0], Constant())  # type: ignore[arg-type]
    layers = {layer.id: layer for layer in panorama.layers}
    assert list(layers) == [
        *("masks", "boundary", "ta", "ensemble", "other-0", "weight", "refined"),
        *("student", "truth", "error-ensemble", "error-student"),
    ]
    fused = config.artefact(manifest, "fused").read("images/p000")
    label, weight = fused.read_array("label"), fused.read_array("weight")
    assert (values_of(layers["ensemble"]) == label).all()
    assert (values_of(layers["refined"]) == fused.read_array("boundary")).all()
    assert (
        values_of(layers["other-0"]) == other.artefact(manifest, "fused").read("images/p000").read_array("label")
    ).all()
    assert np.abs(values_of(layers["weight"]).astype(int) - weight).max() < 4
    assert (values_of(layers["truth"]) == truth).all()
    assert (values_of(layers["error-student"]) == np.where(truth == 255, NO_LABEL, 0)).all()
    assert layers["error-student"].remark == "0.0 % of the labelled pixels of the student"
    assert (values_of(layers["error-ensemble"])[:, 128:] == (label[:, 128:] != 13)).all()
    assert (panorama.size, panorama.figures) == ((64, 256), {"mIoU": 50.0})
    photo = np.asarray(Image.open(io.BytesIO(base64.b64decode(panorama.photo))))
    assert photo.shape == (64, 256, 3)


def test_what_is_not_cached_is_left_out(project: Project) -> None:
    manifest = project.manifest()
    panorama = draw(Source(manifest, project.config(), "paper"), manifest.images[0], None)
    assert panorama.layers == ()
    assert panorama.angles == pytest.approx((-45, 45))  # 64 rows of 360 / 256 degrees
    photos = replace(manifest, settings=manifest.settings.model_copy(update={"projection": "pinhole"}))
    assert draw(Source(photos, project.config(), "paper"), manifest.images[0], None).angles is None


def test_masks_small_ones_on_top_with_outlines() -> None:
    large, small = np.zeros((2, 12, 40), bool)
    large[1:11, 2:38] = True
    small[4:8, 10:20] = True
    values = mask_layer(from_masks([small, large], 12, 40))
    assert values[6, 30] == 1
    assert values[6, 14] == 2
    assert values[0, 0] == 0
    assert OUTLINE in values[4, 8:12]


def test_errors_in_the_classes_of_the_truth() -> None:
    space = load_label_space("densepass13")
    truth = np.array([[0, 1, 255, 12]], np.uint8)
    labels = np.array([[0, 0, 0, 13]], np.uint8)  # road, road, road, car, of Cityscapes
    assert error_layer(labels, CITYSCAPES, truth, space).tolist() == [[0, 1, NO_LABEL, 0]]  # type: ignore[union-attr]
    assert error_layer(labels[:, :2], CITYSCAPES, truth, space) is None
    assert error_layer(labels, load_label_space("stanford2d3d"), truth, space) is None


def test_large_pictures_are_scaled_down() -> None:
    assert picture_size(400, 2048) == (400, 2048)
    height, width = picture_size(4096, 8192)
    assert width == pytest.approx(2 * height, abs=2)
    assert height * width == pytest.approx(MAX_PIXELS, rel=0.01)
    assert picture_size(20, 40_000)[1] == 4096
    layer = Layer("a", "a", "labels", encode_png(np.repeat([[3, 200]], 8, axis=1).astype(np.uint8), (1, 4)))
    assert values_of(layer).tolist() == [[3, 3, 200, 200]]
