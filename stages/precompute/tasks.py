"""The three passes of stage one over single images: SAM masks, panorama masks, TA logits. The stage's only I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.errors import ImageError, UserError
from pipeline.images import read_image
from pipeline.manifests import ImageRecord
from pipeline.store.freshness import made_from_file, read_source
from pipeline.store.groups import read_mask_sets, views_from_attributes, views_to_attributes, write_mask_sets
from pipeline.store.upstream import upstream_markers
from pipeline.tasks import DONE_BY_ANOTHER, CacheTask
from pipeline.views import Window, make_views

Work = Callable[[ImageRecord], dict[str, Any]]
Infer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SamTask(CacheTask):
    """Masks of every view of one panorama."""

    kind: str = "sam"

    def open(self) -> Work:
        from pipeline.devices import pick_device

        artefact = self.artefact()
        generate = self.config.sam.generator.build(pick_device(self.config.device))  # type: ignore[attr-defined]

        def work(record: ImageRecord) -> dict[str, Any]:
            if made_from_file(artefact.marker(record.id), record.path):
                return DONE_BY_ANOTHER
            source = read_source(record.path)
            image = read_image(record.path, self.preparation)
            views = make_views(self.config.sam.views, *image.shape[:2])
            sets = [generate(view.extract_image(image)) for view in views]
            with artefact.write(record.id, source=source) as attempt:
                attempt.attributes |= views_to_attributes(views, image.shape[:2])
                write_mask_sets(attempt, sets)
            return {"masks": sum(len(masks) for masks in sets)}

        return work


@dataclass(frozen=True)
class TeacherTask(CacheTask):
    """TA logits of every view of one panorama, float16, at the model's output stride."""

    kind: str = "teacher"

    def open(self) -> Work:
        from pipeline.devices import pick_device

        artefact = self.artefact()
        infer = self.config.teacher.model.build(pick_device(self.config.device))  # type: ignore[union-attr]
        check_model(infer, self.config)
        settings = self.config.teacher.views
        # a view of another width than asked for (a narrow panorama) may have another stride: found for each shape once
        strides: dict[tuple[int, int], int] = {}

        def work(record: ImageRecord) -> dict[str, Any]:
            if made_from_file(artefact.marker(record.id), record.path):
                return DONE_BY_ANOTHER
            source = read_source(record.path)
            image = read_image(record.path, self.preparation)
            shape = image.shape[:2]
            if shape not in strides:
                strides[shape] = output_stride(infer, make_views(settings, *shape)[0], shape[1])
            stride = strides[shape]
            views = make_views(settings, *shape, align=stride)
            logits = infer(np.stack([view.extract_image(image) for view in views]))
            if not np.isfinite(logits).all():
                raise ImageError(f"{record.path}: the TA gave NaN or infinite logits")
            with artefact.write(record.id, source=source) as attempt:
                attempt.attributes |= views_to_attributes(views, shape) | {"output_stride": stride}
                clipped = np.clip(logits, -6e4, 6e4).astype(np.float16)
                attempt.array("logits", clipped, chunks=(1, *clipped.shape[1:]))
            return {}

        return work


def output_stride(infer: Infer, view: Window, panorama_width: int) -> int:
    """The TA's output stride on views like ``view``, found by one forward pass.

    Raises :class:`ImageError` unless it divides the widths of view and panorama: pooled grids would not align.
    """
    _, _, height, width = infer(np.zeros((1, view.height, view.width, 3), np.uint8)).shape
    stride = round(view.width / width)
    if width * stride != view.width or panorama_width % stride or height != -(-view.height // stride):
        raise ImageError(
            f"teacher.views: on views of {view.height} x {view.width} the TA gives {height} x {width} logits; expected "
            f"an output stride that divides the view's width and the panorama's ({panorama_width})"
        )
    return stride


def check_model(infer: Infer, config: Config) -> None:
    """One forward pass on a black view, before any work.

    Raises :class:`UserError` unless there is a logit for every class, at a stride that divides the view's width.
    """
    space, views = config.teacher_space(), config.teacher.views
    view = Window(0, 0, 128, views.width if views.kind == "windows" else 128)
    found = infer(np.zeros((1, view.height, view.width, 3), np.uint8)).shape[1]
    if found != space.num_classes:
        raise UserError(
            f"teacher.label_space: {space.name} has {space.num_classes} classes, but the TA gives {found}; "
            f"expected the label space that the TA was trained in"
        )
    try:
        output_stride(infer, view, view.width)
    except ImageError as error:
        raise UserError(str(error)) from None


@dataclass(frozen=True)
class MasksTask(CacheTask):
    """Panorama masks and boundary of one panorama, from its window masks; no model."""

    kind: str = "masks"

    def open(self) -> Work:
        from stages.precompute.lift import lift, sam_boundary

        artefact = self.artefact()
        upstream = {"sam": self.artefact("sam")}
        settings = self.config.masks

        def work(record: ImageRecord) -> dict[str, Any]:
            markers = upstream_markers(record.id, upstream)
            group = upstream["sam"].group(markers["sam"])
            views, size = views_from_attributes(group)
            sets = read_mask_sets(group, len(views), (views[0].height, views[0].width))
            sets = [masks.filtered(**settings.filter.model_dump()) for masks in sets]
            lifted = lift(sets, views, size, settings.lift.agreement)
            boundary = sam_boundary(sets, views, size)
            inputs = {kind: marker.content for kind, marker in markers.items()}
            with artefact.write(record.id, source=markers["sam"].source, inputs=inputs) as attempt:
                attempt.attributes |= {"image_size": list(size)}
                write_mask_sets(attempt, [lifted])
                attempt.array("boundary", boundary.astype(np.uint8))
            return {"masks": len(lifted)}

        return work
