"""Draws one panorama with its cached artefacts, a student's prediction and the true labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.cache import ImageGroup
from pipeline.cache.fused_reader import stitched_probabilities
from pipeline.cache.groups import read_mask_sets
from pipeline.core.errors import ImageError, UserError
from pipeline.data.images import read_image, read_labels
from pipeline.data.manifests import Manifest
from pipeline.data.visualization import Panel, grey_to_rgb, image_grid, overlay, overlay_masks
from pipeline.geometry.upsample import most_likely
from stages.config import Config


def draw_panorama(manifest: Manifest, config: Config, image_id: str, student: Path | None = None) -> Image.Image:
    """Draws titled panels below each other; artefacts that are not in the cache are left out.

    Raises `UserError` if the manifest has no such image, or the checkpoint `student` cannot be loaded.
    """
    record = next((r for r in manifest.images if r.id == image_id), None)
    if record is None:
        some = ", ".join(r.id for r in manifest.images[:5])
        raise UserError(f"{manifest.path}: has no image {image_id!r}; expected an id such as {some}")
    image = read_image(record.path, manifest.preprocessing)
    size = image.shape[:2]
    space, white = config.fused_space(), np.uint8(255)
    panels: list[Panel] = [(f"image {image_id}, {size[1]} x {size[0]}", image)]

    def cached(kind: str) -> ImageGroup | None:
        try:
            return config.artefact(manifest, kind).read(image_id)
        except ImageError:
            return None

    if group := cached("masks"):
        masks = read_mask_sets(group, [size])[0]
        panels.append((f"panorama masks: {len(masks)} on {len(masks.planes)} planes", overlay_masks(image, masks)))
        panels.append(("boundary of the view masks", grey_to_rgb(group.read_array("boundary") * white)))
    if fused := cached("fused"):
        labels = most_likely(stitched_probabilities(fused))
        signals = fused.attributes.get("signals", {})
        l_cc = f": L_CC {signals['l_cc']:.3f} nats" if "l_cc" in signals else ""
        panels.append((f"TA, stitched{l_cc}", overlay(image, labels, space)))
        panels.append((f"ensemble, rule {config.fusion.rule.kind}", overlay(image, fused.read_array("label"), space)))
        if "boundary" in fused.array_names():
            panels.append(("refined boundary", grey_to_rgb(fused.read_array("boundary") * white)))
        weight = fused.read_array("weight")
        if weight.min() != weight.max():
            panels.append((f"weight map M: mean {100 * weight.mean() / 255:.1f} %", grey_to_rgb(weight)))
    if student is not None:
        from pipeline.models.load import load_student

        model = load_student(student)
        panels.append((f"student {student.name}", overlay(image, model(image), model.space)))
    if record.label_path is not None:
        truth = read_labels(record.label_path, manifest.preprocessing, manifest.label_space)
        panels.append(("true labels", overlay(image, truth, manifest.label_space)))
    return image_grid([[panel] for panel in panels], space)
