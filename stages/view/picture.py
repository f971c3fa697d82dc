"""Draws what the cache and a student say about one panorama."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.cache import ImageGroup
from pipeline.cache.groups import read_mask_sets
from pipeline.core.errors import ImageError, UserError
from pipeline.data.images import read_image, read_labels
from pipeline.data.manifests import Manifest
from pipeline.data.visualization import grey, image_grid, mask_picture, overlay
from pipeline.geometry.upsample import upsample
from stages.config import Config


def draw(manifest: Manifest, config: Config, image_id: str, student: Path | None = None) -> Image.Image:
    """A sheet of everything that is there for `image_id`; what is not there is left out.

    Raises `UserError` if the manifest has no such image.
    """
    record = next((r for r in manifest.images if r.id == image_id), None)
    if record is None:
        some = ", ".join(r.id for r in manifest.images[:5])
        raise UserError(f"{manifest.path}: has no image {image_id!r}; it has for instance {some}")
    image = read_image(record.path, manifest.preprocessing)
    size = image.shape[:2]
    space = config.fused_space()
    panels = [(f"image {image_id}, {size[1]} x {size[0]}", image)]

    def cached(kind: str) -> ImageGroup | None:
        try:
            return config.artefact(manifest, kind).read(image_id)
        except ImageError:
            return None

    if masks := cached("masks"):
        found = read_mask_sets(masks, [size])[0]
        panels.append((f"panorama masks: {len(found)} on {len(found.planes)} planes", mask_picture(image, found)))
        panels.append(("boundary of the window masks", grey(masks.array("boundary") * np.uint8(255))))
    if fused := cached("fused"):
        stitched = fused.array("stitched", ndim=3).astype(np.float32)
        full = upsample(stitched, int(fused.attributes["output_stride"]), size[0], cyclic=True)
        signals = fused.attributes.get("signals", {})
        panels.append(
            (f"TA, stitched (L_CC {signals.get('l_cc')})", overlay(image, full.argmax(axis=0).astype(np.uint8), space))
        )
        panels.append((f"ensemble, rule {config.fusion.rule.kind}", overlay(image, fused.array("label"), space)))
        if "boundary" in fused.names():
            panels.append(("refined boundary", grey(fused.array("boundary") * np.uint8(255))))
        weight = fused.array("weight")
        if weight.min() != weight.max():
            panels.append((f"weight map (mean {signals.get('weight')})", grey(weight)))
    if student is not None:
        from pipeline.models.student import load_student

        loaded = load_student(student)
        panels.append((f"student {student.name}", overlay(image, loaded(image), loaded.space)))
    if record.label_path is not None:
        truth = read_labels(record.label_path, manifest.preprocessing, manifest.label_space)
        panels.append(("ground truth", overlay(image, truth, manifest.label_space)))
    return image_grid(panels, space)
