"""Draws one picture for each panorama that compares the rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipeline.cache import Cache, ImageGroup
from pipeline.cache.groups import read_mask_sets
from pipeline.data.images import read_image, read_labels
from pipeline.data.labels import LabelSpace
from pipeline.data.manifests import ImageRecord, Manifest
from pipeline.data.visualization import Panel, grey_to_rgb, image_grid, overlay, overlay_masks
from stages.ablate.signals import stitched_labels
from stages.ablate.stage import Row


def draw_sheet(manifest: Manifest, rows: Sequence[Row], record: ImageRecord) -> Image.Image:
    """Draws the ensembles of one panorama, one row of panels for each of `rows` that is an ensemble.

    A row shows its labels, those that differ from the TA's, and the weight map M unless it is constant. Before the
    first row with a TA come the image, the TA's prediction and the true labels; before the first row with masks come
    the masks and the boundaries. Rows in which the panorama failed are left out.
    """
    image = read_image(record.path, manifest.preprocessing)
    sheet: list[list[Panel]] = []
    drawn: set[str] = set()
    for row in rows:
        if row.kind == "student" or record.id in row.failures:
            continue
        config = row.config
        upstream, space = config.artefacts(manifest.preprocessing).upstream("fused"), config.fused_space()
        fused = row.artefact.read(record.id)
        teacher_labels = stitched_labels(fused)
        if upstream["teacher"] not in drawn:
            title = f"TA, stitched: L_CC {fused.attributes['signals']['l_cc']:.3f} nats"
            sheet.append([(record.id, image), (title, overlay(image, teacher_labels, space))])
            if record.label_path is not None:
                truth = read_labels(record.label_path, manifest.preprocessing, manifest.label_space)
                sheet[-1].append(("true labels", overlay(image, truth, manifest.label_space)))
        if "masks" in upstream and upstream["masks"] not in drawn:
            masks = Cache(config.cache, manifest.name).artefact("masks", upstream["masks"]).read(record.id)
            sheet.append(_mask_panels(image, masks, fused))
        drawn |= set(upstream.values())
        sheet.append(_row_panels(image, row.name, fused, teacher_labels, space))
    return image_grid(sheet, manifest.label_space)


def _mask_panels(image: np.ndarray, group: ImageGroup, fused: ImageGroup) -> list[Panel]:
    masks = read_mask_sets(group, [image.shape[:2]])[0]
    white = np.uint8(255)
    return [
        (f"{len(masks)} panorama masks", overlay_masks(image, masks)),
        ("boundary of the view masks", grey_to_rgb(group.read_array("boundary") * white)),
        ("B_ref", grey_to_rgb(fused.read_array("boundary") * white)),
    ]


def _row_panels(
    image: np.ndarray, name: str, fused: ImageGroup, teacher_labels: np.ndarray, space: LabelSpace
) -> list[Panel]:
    labels, weight = fused.read_array("label", ndim=2), fused.read_array("weight", ndim=2)
    changed = np.where(labels == teacher_labels, space.ignore_index, labels)
    share = 100 * np.mean(changed < space.num_classes)
    pale = (128 + grey_to_rgb(image.mean(axis=2).astype(np.uint8)) // 2).astype(np.uint8)
    mean = f"{100 * weight.mean() / 255:.1f} %"
    constant = weight.min() == weight.max()
    title = f"changed: {share:.1f} %" + (f"; M: {mean} everywhere" if constant else "")
    panels = [(name, overlay(image, labels, space)), (title, overlay(pale, changed, space, 1.0))]
    return panels if constant else [*panels, (f"M: mean {mean}", grey_to_rgb(weight))]
