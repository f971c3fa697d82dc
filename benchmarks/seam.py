"""Whether masks know a seam: lifted masks of rolled panoramas, and objects on the seam against those in the middle.

On the demo's `target-test` at half size, windows of 256 columns at every 128. A panorama is rolled by multiples of
the windows' distance and goes through the generator and the lift anew. Objects are the connected pieces of instances,
joined across the seam, of at least 0.1 % of a window and narrower than the windows' overlap, so that in every place
some window sees them whole.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import TypeAdapter

from benchmarks import nano_sam
from demo.sam.data import segments_of
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
#: Object counts as one mask if some lifted mask has at least this IoU with it.
FOUND = 0.5
GENERATORS: dict[str, dict[str, Any]] = {
    "felzenszwalb": {"kind": "felzenszwalb", "min_size": 40},
    "nano SAM": nano_sam()["generator"],
}


def run(images: int = IMAGES, generators: tuple[str, ...] = tuple(GENERATORS)) -> dict[str, Any]:
    """Both measurements for each generator."""
    figures: dict[str, Any] = {"images": images}
    rolls, objects = [], []
    for name in generators:
        generate = _generator(GENERATORS[name]).build("cpu")  # type: ignore[attr-defined]
        same, places = [], {"seam": [], "window edge": [], "middle": []}  # type: ignore[var-annotated]
        with console_progress() as progress:
            progress.start(name, images)
            for index in range(images):
                frame = render_sample(WorldSettings(), "target-test", index)
                base = lifted(generate, frame.image)
                shift = VIEWS.stride * (1 + index % 7)
                rolled = lifted(generate, np.roll(frame.image, shift, axis=1))
                same += best_ious([np.roll(mask, shift, axis=1) for mask in base], rolled)
                for place, mask in ring_objects(frame.labels.instance):
                    places[place] += best_ious([mask], base)
                progress.advance()
        share = float(np.mean(np.array(same) >= 0.99))
        rolls.append([name, len(same), 100 * share])
        one = {place: float(np.mean(np.array(ious) >= FOUND)) for place, ious in places.items()}
        objects += [[name, place, len(ious), 100 * one[place], float(np.mean(ious))] for place, ious in places.items()]
        figures[name] = {
            "rolled_masks_matched": round(share, 4),
            "one_mask": {place: round(value, 4) for place, value in one.items()},
            "objects": {place: len(ious) for place, ious in places.items()},
        }
    print_table("lifted masks of the rolled panorama", ["masks by", "masks", "found at IoU 0.99 (%)"], rolls)
    print_table(
        "objects as one mask, by where they lie",
        ["masks by", "place", "objects", f"IoU at least {FOUND} (%)", "mean best IoU"],
        objects,
    )
    return figures


def _generator(settings: dict[str, Any]) -> Component:
    adapter: TypeAdapter[Component] = TypeAdapter(Annotated[Component, GROUP.validator()])
    return adapter.validate_python(settings)


def lifted(generate: Any, image: np.ndarray) -> MaskSet:
    """The panorama masks of an image."""
    views = make_views(VIEWS, *image.shape[:2])
    sets = generate([view.extract_image(image) for view in views])
    placed = [project_to_panorama(masks, view, image.shape[:2]) for masks, view in zip(sets, views, strict=True)]
    return merge_view_masks(placed, image.shape[:2], merge_iou_thresh=0.6, nms_iou_thresh=0.9)


def best_ious(masks: list[np.ndarray], among: MaskSet) -> list[float]:
    """For each mask (bool `(H, W)`) the highest IoU with one of a set."""
    areas = among.table["area"]
    result = []
    for mask in masks:
        both = among.histograms(np.where(mask, 0, 1).astype(np.uint8), 1)[:, 0]
        result.append(float(np.max(both / (areas + mask.sum() - both), initial=0.0)))
    return result


def ring_objects(instance: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Objects and where they lie: across the seam, across another edge of a window, or in the middle of windows."""
    height, width = instance.shape
    pieces = segments_of(instance)
    rows = np.flatnonzero(instance[:, 0] == instance[:, -1])
    names = np.arange(pieces.max() + 1)
    for row in rows:  # a piece at the last column goes on at the first
        names[names == names[pieces[row, -1]]] = names[pieces[row, 0]]
    pieces = names[pieces]
    overlap = VIEWS.width - VIEWS.stride
    found = []
    for piece in np.unique(pieces):
        mask = pieces == piece
        x, _, columns, _ = mask_box(mask, cyclic=True)
        if mask.sum() < 0.001 * height * VIEWS.width or columns > overlap:
            continue
        if x + columns > width:
            place = "seam"
        else:
            place = "window edge" if x // VIEWS.stride != (x + columns - 1) // VIEWS.stride else "middle"
        found.append((place, mask))
    return found
