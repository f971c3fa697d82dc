"""The three passes of stage one over single images: SAM masks, panorama masks, TA logits. The stage's only I/O."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.cache.artefact_spec import ArtefactSpec
from pipeline.cache.cache_task import DONE_BY_ANOTHER, CacheTask
from pipeline.cache.freshness import made_from_file, read_source
from pipeline.cache.groups import (
    read_mask_sets,
    stack_padded,
    views_from_attributes,
    views_to_attributes,
    write_mask_sets,
)
from pipeline.cache.upstream import upstream_markers
from pipeline.core.errors import ImageError, UserError
from pipeline.data.images import read_image
from pipeline.data.manifests import ImageRecord
from pipeline.execution.executor import Summary
from pipeline.geometry.masks import MaskSet
from pipeline.geometry.views import View, ViewSettings, make_views
from stages.config import Config
from stages.precompute.artefacts import MASKS, SAM, TEACHER
from stages.precompute.circular_padding import circular_padding, crop_circular_padding, extract_with_circular_padding

Work = Callable[[ImageRecord], dict[str, Any]]
Infer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SamTask(CacheTask):
    """Masks of every view of one panorama."""

    spec: ClassVar[ArtefactSpec] = SAM

    def open(self) -> Callable[[ImageRecord], Generator[None, None, Summary]]:
        from pipeline.execution.devices import pick_device

        artefact = self.artefact()
        generate = self.config.sam.generator.build(pick_device(self.config.device))  # type: ignore[attr-defined]
        settings = self.config.sam.views

        def work(record: ImageRecord) -> Generator[None, None, Summary]:
            if made_from_file(artefact.marker(record.id), record.path, by_content=self.by_content):
                return DONE_BY_ANOTHER
            source = read_source(record.path)
            image = read_image(record.path, self.preprocessing)
            size = image.shape[:2]
            views = make_views(settings, *size)
            paddings = [circular_padding(settings, view, size[1]) for view in views]
            inputs = [
                extract_with_circular_padding(view, image, padding)
                for view, padding in zip(views, paddings, strict=True)
            ]
            yield  # read
            try:
                sets = by_shape(generate, inputs)
            except ImageError as error:
                raise ImageError(f"{record.path}: {error}") from None
            sets = [
                crop_circular_padding(masks, padding) if padding else masks
                for masks, padding in zip(sets, paddings, strict=True)
            ]
            yield  # computed
            with artefact.write(record.id, source=source) as attempt:
                attempt.attributes |= views_to_attributes(views, size)
                write_mask_sets(attempt, sets)
            return {"masks": sum(len(masks) for masks in sets)}

        return work


def by_shape(generate: Callable[[Sequence[np.ndarray]], list[MaskSet]], views: Sequence[np.ndarray]) -> list[MaskSet]:
    """The mask set of each view, in order; `generate` takes views of one shape together."""
    sets: dict[int, MaskSet] = {}
    for shape in {view.shape: None for view in views}:
        members = [k for k, view in enumerate(views) if view.shape == shape]
        sets |= zip(members, generate([views[k] for k in members]), strict=True)
    return [sets[k] for k in range(len(views))]


@dataclass(frozen=True)
class TeacherTask(CacheTask):
    """TA logits of every view of one panorama, float16, at the model's output stride."""

    spec: ClassVar[ArtefactSpec] = TEACHER

    def open(self) -> Callable[[ImageRecord], Generator[None, None, Summary]]:
        from pipeline.execution.devices import pick_device

        artefact = self.artefact()
        infer = self.config.teacher.model.build(pick_device(self.config.device))  # type: ignore[union-attr]
        check_model(infer, self.config)
        settings = self.config.teacher.views
        # views of another shape than asked for (a small panorama's) may have another stride: found for each shape once
        strides: dict[tuple[int, int], int] = {}

        def work(record: ImageRecord) -> Generator[None, None, Summary]:
            if made_from_file(artefact.marker(record.id), record.path, by_content=self.by_content):
                return DONE_BY_ANOTHER
            source = read_source(record.path)
            image = read_image(record.path, self.preprocessing)
            size = image.shape[:2]
            yield  # read
            if size not in strides:
                strides[size] = common_stride(infer, make_views(settings, *size), size[1])
            stride = strides[size]
            views = make_views(settings, *size, align=stride)
            logits = infer_views(infer, image, views, settings, stride)
            if not all(np.isfinite(view).all() for view in logits):
                raise ImageError(f"{record.path}: the TA gave NaN or infinite logits")
            yield  # computed
            with artefact.write(record.id, source=source) as attempt:
                attempt.attributes |= views_to_attributes(views, size) | {"output_stride": stride}
                stored = stack_padded([np.clip(view, -6e4, 6e4).astype(np.float16) for view in logits])
                attempt.array("logits", stored, chunks=(1, *stored.shape[1:]))
            return {}

        return work


def infer_views(
    infer: Infer, image: np.ndarray, views: Sequence[View], settings: ViewSettings, stride: int
) -> list[np.ndarray]:
    """Logits `(C, h, w)` of each view of an image, views of one shape at a time."""
    paddings = [circular_padding(settings, view, image.shape[1]) for view in views]
    alike: dict[tuple[int, int], list[int]] = {}
    for k, view in enumerate(views):
        alike.setdefault((view.height, view.width), []).append(k)
    logits: list[np.ndarray] = [np.empty(0)] * len(views)
    for (_, width), indices in alike.items():
        found = infer(np.stack([extract_with_circular_padding(views[k], image, paddings[k]) for k in indices]))
        margin = paddings[indices[0]] // stride
        for k, own in zip(indices, found[..., margin : margin + width // stride], strict=True):
            logits[k] = own
    return logits


def common_stride(infer: Infer, views: Sequence[View], panorama_width: int) -> int:
    """The TA's output stride on all views; `ImageError` if it differs between their shapes."""
    strides = {
        shape: output_stride(infer, *shape, panorama_width) for shape in {(view.height, view.width) for view in views}
    }
    if len(set(strides.values())) > 1:
        found = ", ".join(f"{stride} on {h} x {w}" for (h, w), stride in sorted(strides.items()))
        raise ImageError(f"teacher.views: the TA's output stride is {found}; expected one stride on all views")
    return next(iter(strides.values()))


def output_stride(infer: Infer, view_height: int, view_width: int, panorama_width: int) -> int:
    """The TA's output stride on views of this shape, found by one forward pass.

    Raises `ImageError` unless it divides the widths of view and panorama: pooled grids would not align.
    """
    _, _, height, width = infer(np.zeros((1, view_height, view_width, 3), np.uint8)).shape
    stride = round(view_width / width)
    if width * stride != view_width or panorama_width % stride or height != -(-view_height // stride):
        raise ImageError(
            f"teacher.views: on views of {view_height} x {view_width} the TA gives {height} x {width} logits; expected "
            f"an output stride that divides the view's width and the panorama's ({panorama_width})"
        )
    return stride


def check_model(infer: Infer, config: Config) -> None:
    """One forward pass on a black view, before any work.

    Raises `UserError` unless there is a logit for every class, at a stride that divides the view's width.
    """
    space, views = config.teacher_space(), config.teacher.views
    width = {"windows": views.width, "perspective": views.size, "whole": 128}[views.kind]
    found = infer(np.zeros((1, 128, width, 3), np.uint8)).shape[1]
    if found != space.num_classes:
        raise UserError(
            f"teacher.label_space: {space.name} has {space.num_classes} classes, but the TA gives {found}; "
            f"expected the label space that the TA was trained in"
        )
    try:
        output_stride(infer, 128, width, width)
    except ImageError as error:
        raise UserError(str(error)) from None


@dataclass(frozen=True)
class MasksTask(CacheTask):
    """Panorama masks and boundary of one panorama, from its window masks; no model."""

    spec: ClassVar[ArtefactSpec] = MASKS

    def open(self) -> Work:
        from stages.precompute.merge import merge_view_masks, project_to_panorama, sam_boundary

        artefact = self.artefact()
        upstream = {"sam": self.artefact("sam")}
        settings = self.config.masks

        def work(record: ImageRecord) -> dict[str, Any]:
            markers = upstream_markers(record.id, upstream)
            group = upstream["sam"].group(markers["sam"])
            views, size = views_from_attributes(group)
            sets = read_mask_sets(group, [(view.height, view.width) for view in views])
            sets = [masks.filtered(**settings.filter.model_dump()) for masks in sets]
            placed = [project_to_panorama(masks, view, size) for masks, view in zip(sets, views, strict=True)]
            lifted = merge_view_masks(placed, size, settings.merge.merge_iou_thresh, settings.merge.nms_iou_thresh)
            boundary = sam_boundary(placed, size)
            inputs = {kind: marker.content for kind, marker in markers.items()}
            with artefact.write(record.id, source=markers["sam"].source, inputs=inputs) as attempt:
                attempt.attributes |= {"image_size": list(size)}
                write_mask_sets(attempt, [lifted])
                attempt.array("boundary", boundary.astype(np.uint8))
            return {"masks": len(lifted)}

        return work
