"""One picture a panorama: what every row of the table says about it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipeline.cache import Cache, ImageGroup
from pipeline.cache.groups import read_mask_sets
from pipeline.data.images import read_image, read_labels
from pipeline.data.labels import LabelSpace
from pipeline.data.manifests import ImageRecord, Manifest
from pipeline.data.visualization import grey, image_grid, mask_picture, overlay
from stages.ablate.stage import Row, stitched_labels

Panels = list[tuple[str, np.ndarray]]


def draw(manifest: Manifest, rows: Sequence[Row], record: ImageRecord) -> Image.Image:
    """Three panels a row: its labels, what of them is not the TA's, and `M`.

    Above them the image with the TA's stitched prediction and the true labels, and the masks with their boundary and
    `B_ref`; both again where a row has others. Rows in which the panorama failed are left out.
    """
    image = read_image(record.path, manifest.preprocessing)
    truth = ("", np.full_like(image, 255))
    if record.label_path is not None:
        labels = read_labels(record.label_path, manifest.preprocessing, manifest.label_space)
        truth = ("true labels", overlay(image, labels, manifest.label_space))
    panels: Panels = []
    drawn: set[str] = set()
    for row in rows:
        if record.id in row.failures:
            continue
        config = row.combination.config
        above, space = config.artefacts(manifest.preprocessing).upstream("fused"), config.fused_space()
        group = row.artefact.read(record.id)
        ta = stitched_labels(group)
        if above["teacher"] not in drawn:
            title = f"TA, stitched: L_CC {group.attributes['signals']['l_cc']:.3f}"
            panels += [(record.id, image), (title, overlay(image, ta, space)), truth]
        if "masks" in above and above["masks"] not in drawn:
            masks = Cache(config.cache, manifest.name).artefact("masks", above["masks"]).read(record.id)
            panels += _mask_panels(image, masks, group)
        drawn |= set(above.values())
        panels += _row_panels(image, row.combination.name, group, ta, space)
    return image_grid(panels, manifest.label_space, columns=3)


def _mask_panels(image: np.ndarray, masks: ImageGroup, fused: ImageGroup) -> Panels:
    found = read_mask_sets(masks, [image.shape[:2]])[0]
    white = np.uint8(255)
    return [
        (f"{len(found)} panorama masks", mask_picture(image, found)),
        ("boundary of the window masks", grey(masks.array("boundary") * white)),
        ("B_ref", grey(fused.array("boundary") * white)),
    ]


def _row_panels(image: np.ndarray, name: str, fused: ImageGroup, ta: np.ndarray, space: LabelSpace) -> Panels:
    label, weight = fused.array("label", ndim=2), fused.array("weight", ndim=2)
    changed = np.where(label == ta, space.ignore_index, label)
    pale = (128 + grey(image.mean(axis=2).astype(np.uint8)) // 2).astype(np.uint8)
    return [
        (name, overlay(image, label, space)),
        (f"changed: {100 * np.mean(changed < space.num_classes):.1f} %", overlay(pale, changed, space, 1.0)),
        (f"M: mean {100 * weight.mean() / 255:.1f} %", grey(weight)),
    ]
