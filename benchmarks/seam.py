"""Effect of the seam on masks: panorama masks of rolled panoramas, and objects on the seam against those elsewhere.

On the demo's `target-test` at half size, windows of 256 columns at every 128. A panorama is rolled by multiples of the
windows' stride; its masks are generated and merged again. Objects are the connected components of instances, joined
across the seam, of at least 0.1 % of a window and narrower than the windows' overlap, so that some window covers each.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import TypeAdapter

from benchmarks import nano_sam
from demo.sam.data import label_segments
from demo.splits import WorldSettings, render_sample
from pipeline.core.cli import print_table
from pipeline.core.components import Component
from pipeline.core.progress import console_progress
from pipeline.geometry.masks import MaskSet, mask_box
from pipeline.geometry.views import ViewSettings, make_views
from stages.precompute.merge import merge_view_masks, project_to_panorama
from stages.precompute.settings import GENERATORS as GROUP

IMAGES = 8
VIEWS = ViewSettings(width=256, stride=128)
#: An object is found if a panorama mask has at least this IoU with it.
FOUND = 0.5
GENERATORS: dict[str, dict[str, Any]] = {
    "felzenszwalb": {"kind": "felzenszwalb", "min_size": 40},
    "nano SAM": nano_sam()["generator"],
}


def run(images: int = IMAGES, generators: tuple[str, ...] = tuple(GENERATORS)) -> dict[str, Any]:
    """Runs both measurements for each generator."""
    figures: dict[str, Any] = {"images": images}
    rolls, objects = [], []
    for name in generators:
        generate = _generator(GENERATORS[name]).build("cpu")  # type: ignore[attr-defined]
        rolled_ious, positions = [], {"seam": [], "window edge": [], "middle": []}  # type: ignore[var-annotated]
        with console_progress() as progress:
            progress.start(name, images)
            for index in range(images):
                frame = render_sample(WorldSettings(), "target-test", index)
                base = panorama_masks(generate, frame.image)
                shift = VIEWS.stride * (1 + index % 7)
                rolled = panorama_masks(generate, np.roll(frame.image, shift, axis=1))
                rolled_ious += best_ious([np.roll(mask, shift, axis=1) for mask in base], rolled)
                for position, mask in find_objects(frame.labels.instance):
                    positions[position] += best_ious([mask], base)
                progress.advance()
        share = float(np.mean(np.array(rolled_ious) >= 0.99))
        rolls.append([name, len(rolled_ious), 100 * share])
        found = {position: float(np.mean(np.array(ious) >= FOUND)) for position, ious in positions.items()}
        objects += [
            [name, position, len(ious), 100 * found[position], float(np.mean(ious))]
            for position, ious in positions.items()
        ]
        figures[name] = {
            "rolled_masks_matched": round(share, 4),
            "one_mask": {position: round(value, 4) for position, value in found.items()},
            "objects": {position: len(ious) for position, ious in positions.items()},
        }
    print_table("panorama masks of the rolled panorama", ["masks by", "masks", "found at IoU 0.99 (%)"], rolls)
    print_table(
        "objects found as one mask, by position",
        ["masks by", "position", "objects", f"IoU at least {FOUND} (%)", "mean best IoU"],
        objects,
    )
    return figures


def _generator(settings: dict[str, Any]) -> Component:
    adapter: TypeAdapter[Component] = TypeAdapter(Annotated[Component, GROUP])
    return adapter.validate_python(settings)


def panorama_masks(generate: Any, image: np.ndarray) -> MaskSet:
    """Returns the panorama masks of an image."""
    views = make_views(VIEWS, *image.shape[:2])
    sets = generate([view.extract_image(image) for view in views])
    projected = [project_to_panorama(masks, view, image.shape[:2]) for masks, view in zip(sets, views, strict=True)]
    return merge_view_masks(projected, image.shape[:2], merge_iou_thresh=0.6, nms_iou_thresh=0.9)


def best_ious(masks: list[np.ndarray], mask_set: MaskSet) -> list[float]:
    """Returns for each mask (bool `(H, W)`) the highest IoU with one of a set."""
    areas = mask_set.table["area"]
    result = []
    for mask in masks:
        intersection = mask_set.histograms(np.where(mask, 0, 1).astype(np.uint8), 1)[:, 0]
        result.append(float(np.max(intersection / (areas + mask.sum() - intersection), initial=0.0)))
    return result


def find_objects(instance: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Returns objects and their positions: on the seam, on another window edge, or in the middle of windows."""
    height, width = instance.shape
    components = label_segments(instance)
    merged = np.arange(components.max() + 1)
    for row in np.flatnonzero(instance[:, 0] == instance[:, -1]):
        merged[merged == merged[components[row, -1]]] = merged[components[row, 0]]
    components = merged[components]
    overlap = VIEWS.width - VIEWS.stride
    objects = []
    for component in np.unique(components):
        mask = components == component
        x, _, columns, _ = mask_box(mask, cyclic=True)
        if mask.sum() < 0.001 * height * VIEWS.width or columns > overlap:
            continue
        if x + columns > width:
            position = "seam"
        else:
            position = "window edge" if x // VIEWS.stride != (x + columns - 1) // VIEWS.stride else "middle"
        objects.append((position, mask))
    return objects
