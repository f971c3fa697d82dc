"""Panoptic segments in the formats of COCO: `panoptic` (PNGs and JSON) and `instances` (JSON with RLE)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.core.atomic_files import write_result, write_text
from pipeline.core.errors import UserError
from pipeline.data.labels import LabelSpace
from pipeline.geometry.masks import MaskSet, mask_box
from stages.labels.segments import Segment, panoptic_segments

PANOPTIC, INSTANCES = "coco_panoptic", "coco_instances"  #: Names of the JSON files; also of the folder of the PNGs.


def check_coco() -> None:
    """Raises `UserError` if pycocotools is not installed, or an earlier version without RLE."""
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError:
        raise UserError("--coco needs pycocotools; expected `pip install goodsam-offline[coco]`") from None


class CocoWriter:
    """Collects the segments of panoramas; PNGs are written at once, both JSON files by `finish`.

    Args:
        out: Folder of the files. JSON files of an earlier run are removed, so that a killed run leaves none.
        space: Classes of the labels. The category of a class is its label value.
    """

    def __init__(self, out: Path, space: LabelSpace) -> None:
        self.out, self.space = out, space
        self._images: list[dict[str, Any]] = []
        self._panoptic: list[dict[str, Any]] = []
        self._instances: list[dict[str, Any]] = []
        for name in (PANOPTIC, INSTANCES):
            self._json(name).unlink(missing_ok=True)

    def _json(self, name: str) -> Path:
        return self.out / f"{name}.json"

    def add(self, image_id: str, file_name: str, masks: MaskSet, label: np.ndarray) -> int:
        """Adds a panorama: its image file, masks and label map, uint8 `(H, W)`. Returns the number of its instances.

        Writes `coco_panoptic/<image_id>.png`. Raises `ImageError` if its name is too long.
        """
        ids, segments = panoptic_segments(masks, label, self.space)
        png = f"{image_id}.png"
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        write_result(self.out / PANOPTIC / png, partial(Image.fromarray(rgb).save, format="PNG"))
        number, (height, width) = len(self._images) + 1, label.shape
        self._images.append({"id": number, "file_name": file_name, "width": width, "height": height})
        described = [_describe(ids == segment.id, segment) for segment in segments]
        self._panoptic.append({"image_id": number, "file_name": png, "segments_info": described})
        instances = [(s, d) for s, d in zip(segments, described, strict=True) if self._is_thing(s) and not s.is_crowd]
        for segment, description in instances:
            own = {"id": len(self._instances) + 1, "image_id": number, "segmentation": encode_rle(ids == segment.id)}
            self._instances.append({**description, **own})
        return len(instances)

    def finish(self) -> None:
        """Writes `coco_panoptic.json` and `coco_instances.json`."""
        self._write(PANOPTIC, self._panoptic, range(self.space.num_classes))
        things = [index for index, name in enumerate(self.space.classes) if name in self.space.things]
        self._write(INSTANCES, self._instances, things)

    def _is_thing(self, segment: Segment) -> bool:
        return self.space.classes[segment.category] in self.space.things

    def _write(self, name: str, annotations: list[dict[str, Any]], classes: Sequence[int]) -> None:
        categories = [
            {
                "id": index,
                "name": self.space.classes[index],
                "isthing": int(self.space.classes[index] in self.space.things),
                "color": list(self.space.palette[index]),
            }
            for index in classes
        ]
        document = {"images": self._images, "annotations": annotations, "categories": categories}
        write_text(self._json(name), json.dumps(document, ensure_ascii=False))


def _describe(pixels: np.ndarray, segment: Segment) -> dict[str, Any]:
    """Returns a segment as COCO describes it, of its pixels, bool `(H, W)`.

    `bbox` is XYWH on the flat image, as COCO's tools compute it: across the seam it has the panorama's full width.
    `bbox_cyclic` is the smallest box on the circle, whose `x + w` may exceed the width.
    """
    return {
        "id": segment.id,
        "category_id": segment.category,
        "area": int(np.count_nonzero(pixels)),
        "bbox": list(mask_box(pixels)),
        "bbox_cyclic": list(mask_box(pixels, cyclic=True)),
        "iscrowd": int(segment.is_crowd),
    }


def encode_rle(pixels: np.ndarray) -> dict[str, Any]:
    """Returns COCO's compressed run lengths of a mask, bool `(H, W)`: `size` [H, W] and `counts`."""
    from pycocotools import mask

    rle = mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}
