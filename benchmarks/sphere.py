"""The TA on full-sphere demo panoramas, by latitude and kind of views.

Rendered at half size (512 x 1024) with the scenes of `target-test`; labels are exact. mIoU and pixel accuracy in
percent, of the stitched prediction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from demo.camera import Equirect
from demo.domain import Shift
from demo.render import render
from demo.splits import WorldSettings, draw_sample
from demo.teachers.evaluate import teacher_config
from demo.teachers.recipes import RECIPES
from pipeline.core.cli import print_table
from pipeline.core.progress import console_progress
from pipeline.geometry.upsample import upsample
from pipeline.geometry.views import ViewSettings, make_views
from stages.fuse.pooling import TINY, pool
from stages.fuse.settings import PoolingSettings
from stages.precompute.tasks import common_stride, infer_views
from stages.precompute.teachers.base import Infer

IMAGES = 12
WIDTH = 1024
VIEWS = {
    "whole": ViewSettings(kind="whole"),
    "windows": ViewSettings(width=256, stride=128),
    "perspective": ViewSettings(kind="perspective", size=256, fov=90),
    "windows + perspective": ViewSettings(
        width=256,
        stride=128,
        additional=(ViewSettings(kind="perspective", size=256, fov=90, pitches=(-35.0, 0.0, 35.0)),),
    ),
}
#: Bands of the absolute latitude, degrees.
BANDS = ((0, 20), (20, 40), (40, 60), (60, 90))


def run(images: int = IMAGES, shift: Shift = "mild", teacher: str = next(iter(RECIPES))) -> dict[str, Any]:
    """Renders, predicts, and returns mIoU and accuracy by kind of views and band."""
    recipe = RECIPES[teacher]
    classes = 19
    confusion = {name: np.zeros((len(BANDS), classes, classes), np.int64) for name in VIEWS}
    config = teacher_config(recipe, recipe.weights, {"kind": "whole"}, cache=Path("unused"))
    infer = config.teacher.model.build("cpu")  # type: ignore[union-attr]
    with console_progress() as progress:
        progress.start("full spheres", images)
        for index in range(images):
            scene = draw_sample(WorldSettings(shift=shift), "target-test", index)
            frame = render(scene.scene, Equirect(WIDTH), scene.sensor, scene.noise)
            for name, views in VIEWS.items():
                predicted = predict(infer, frame.image, views)
                for matrix, (rows, truth) in zip(confusion[name], _bands(frame.labels.semantic), strict=True):
                    is_labelled = truth < classes
                    pairs = truth[is_labelled].astype(np.int64) * classes + predicted[rows][is_labelled]
                    matrix += np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
            progress.advance()
    header = ["views", *(f"{low}-{high} deg" for low, high in BANDS), "all", "accuracy, all"]
    table = [
        [name, *(_miou(band) for band in bands), _miou(bands.sum(axis=0)), _accuracy(bands.sum(axis=0))]
        for name, bands in confusion.items()
    ]
    print_table(f"TA {teacher}: mIoU by latitude, {images} full spheres, shift {shift}", header, table)
    return {
        "images": images,
        "teacher": teacher,
        "shift": shift,
        "miou": {name: [round(_miou(band), 2) for band in bands] for name, bands in confusion.items()},
        "accuracy": {name: [round(_accuracy(band), 2) for band in bands] for name, bands in confusion.items()},
    }


def predict(infer: Infer, image: np.ndarray, settings: ViewSettings) -> np.ndarray:
    """Returns the labels `(H, W)` of the views' pooled prediction, by the functions of stages one and two."""
    size = image.shape[:2]
    stride = common_stride(infer, make_views(settings, *size), size[1])
    views = make_views(settings, *size, align=stride)
    logits = infer_views(infer, image, views, settings, stride)
    placements = [view.place(size, stride) for view in views]
    probabilities = [softmax(view.astype(np.float32), axis=0) for view in logits]
    projected = [place.interpolate(view) for place, view in zip(placements, probabilities, strict=True)]
    pooled = pool(projected, placements, (-(-size[0] // stride), size[1] // stride), PoolingSettings())
    full = upsample(np.log(np.maximum(pooled.probabilities, TINY)), stride, size[0], cyclic=True)
    labels: np.ndarray = full.argmax(axis=0)
    return labels


def _bands(truth: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the rows of each band of latitude as a mask, and the truth there."""
    latitude = np.abs(90 - (np.arange(len(truth)) + 0.5) * 180 / len(truth))
    bands = [(low <= latitude) & (latitude < high) for low, high in BANDS]
    return [(rows, truth[rows]) for rows in bands]


def _miou(confusion: np.ndarray) -> float:
    hits = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    return float(100 * np.mean(hits[union > 0] / union[union > 0]))


def _accuracy(confusion: np.ndarray) -> float:
    return float(100 * np.trace(confusion) / max(1, confusion.sum()))
