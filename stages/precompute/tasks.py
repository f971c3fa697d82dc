"""The three tasks of stage one: SAM masks, panorama masks and TA logits of single images. The stage's only I/O."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from pipeline.cache.artefact_spec import ArtefactSpec
from pipeline.cache.freshness import read_source, source_matches, upstream_markers
from pipeline.cache.groups import (
    read_mask_sets,
    stack_padded,
    views_from_attributes,
    views_to_attributes,
    write_mask_sets,
)
from pipeline.cache.incremental import DONE_BY_OTHER_RUN, CacheTask
from pipeline.core.errors import ImageError, UserError
from pipeline.data.images import read_image
from pipeline.data.manifests import ImageRecord
from pipeline.execution.task import Summary
from pipeline.geometry.views import View, ViewSettings, make_views
from stages.config import Config
from stages.precompute.artefacts import MASKS, SAM, TEACHER
from stages.precompute.circular_padding import crop_circular_padding, extract_with_circular_padding
from stages.precompute.teachers.base import Infer

Result = TypeVar("Result")


@dataclass(frozen=True)
class SamTask(CacheTask):
    """Masks of every view of one panorama."""

    spec: ClassVar[ArtefactSpec] = SAM

    def setup(self) -> Callable[[ImageRecord], Generator[None, None, Summary]]:
        from pipeline.execution.devices import pick_device

        artefact = self.artefact()
        generate = self.config.sam.generator.build(pick_device(self.config.device))  # type: ignore[attr-defined]
        settings = self.config.sam.views

        def work(record: ImageRecord) -> Generator[None, None, Summary]:
            if source_matches(artefact.find_marker(record.id), record.path, by_content=self.by_content):
                return DONE_BY_OTHER_RUN
            source = read_source(record.path)
            image = read_image(record.path, self.preprocessing)
            size = image.shape[:2]
            views = make_views(settings, *size)
            inputs, paddings = extract_with_circular_padding(image, views, settings)
            yield  # read
            try:
                sets = by_shape(generate, inputs)
            except ImageError as error:
                raise ImageError(f"{record.path}: {error}") from None
            sets = [crop_circular_padding(masks, padding) for masks, padding in zip(sets, paddings, strict=True)]
            yield  # computed
            with artefact.write(record.id, source=source) as writer:
                writer.attributes |= views_to_attributes(views, size)
                write_mask_sets(writer, sets)
            return {"masks": sum(len(masks) for masks in sets)}

        return work


def by_shape(
    function: Callable[[Sequence[np.ndarray]], Iterable[Result]], images: Sequence[np.ndarray]
) -> list[Result]:
    """Calls `function` with all images of one shape at a time; returns its results in the order of `images`."""
    results: dict[int, Result] = {}
    for shape in {image.shape: None for image in images}:
        indices = [k for k, image in enumerate(images) if image.shape == shape]
        results |= zip(indices, function([images[k] for k in indices]), strict=True)
    return [results[k] for k in range(len(images))]


@dataclass(frozen=True)
class TeacherTask(CacheTask):
    """TA logits of every view of one panorama, float16, at the model's output stride."""

    spec: ClassVar[ArtefactSpec] = TEACHER

    def setup(self) -> Callable[[ImageRecord], Generator[None, None, Summary]]:
        from pipeline.execution.devices import pick_device

        artefact = self.artefact()
        infer = self.config.teacher.model.build(pick_device(self.config.device))  # type: ignore[union-attr]
        check_model(infer, self.config)
        settings = self.config.teacher.views
        # A small panorama's views are smaller than in the settings and may have another stride.
        strides: dict[tuple[int, int], int] = {}

        def work(record: ImageRecord) -> Generator[None, None, Summary]:
            if source_matches(artefact.find_marker(record.id), record.path, by_content=self.by_content):
                return DONE_BY_OTHER_RUN
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
            with artefact.write(record.id, source=source) as writer:
                writer.attributes |= views_to_attributes(views, size) | {"output_stride": stride}
                stored = stack_padded([np.clip(view, -6e4, 6e4).astype(np.float16) for view in logits])
                writer.add_array("logits", stored, chunks=(1, *stored.shape[1:]))
            return {}

        return work


def infer_views(
    infer: Infer, image: np.ndarray, views: Sequence[View], settings: ViewSettings, stride: int
) -> list[np.ndarray]:
    """Returns the logits `(C, h, w)` of each view of an image; views of one shape are inferred together."""
    inputs, paddings = extract_with_circular_padding(image, views, settings)
    logits = by_shape(lambda images: infer(np.stack(images)), inputs)
    return [
        values[..., padding // stride : (padding + view.width) // stride]
        for values, view, padding in zip(logits, views, paddings, strict=True)
    ]


def common_stride(infer: Infer, views: Sequence[View], panorama_width: int) -> int:
    """Returns the TA's output stride on all views; raises `ImageError` if it differs or does not fit."""
    strides = {
        shape: output_stride(infer, *shape, panorama_width) for shape in {(view.height, view.width) for view in views}
    }
    if len(set(strides.values())) > 1:
        listed = ", ".join(f"{stride} on {h} x {w}" for (h, w), stride in sorted(strides.items()))
        raise ImageError(f"teacher.views: the TA's output stride is {listed}; expected one stride on all views")
    return next(iter(strides.values()))


def output_stride(infer: Infer, view_height: int, view_width: int, panorama_width: int) -> int:
    """Measures the TA's output stride on views of this shape by one forward pass.

    Raises `ImageError` if it does not divide the widths of view and panorama: the views' grids would not align.
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
    """Raises `UserError` if the TA's logits do not fit the classes or the views; runs it on a black view."""
    space, views = config.teacher_space(), config.teacher.views
    width = {"windows": views.width, "perspective": views.size, "whole": 128}[views.kind]
    channels = infer(np.zeros((1, 128, width, 3), np.uint8)).shape[1]
    if channels != space.num_classes:
        raise UserError(
            f"teacher.label_space: {space.name} has {space.num_classes} classes, but the TA gives {channels}; "
            "expected the label space that the TA was trained in"
        )
    try:
        output_stride(infer, 128, width, width)
    except ImageError as error:
        raise UserError(str(error)) from None


@dataclass(frozen=True)
class MasksTask(CacheTask):
    """Panorama masks and boundary of one panorama, from its view masks; runs no model."""

    spec: ClassVar[ArtefactSpec] = MASKS

    def setup(self) -> Callable[[ImageRecord], Summary]:
        from stages.precompute.cut_masks import remove_cuts
        from stages.precompute.merge import merge_view_masks, project_to_panorama, sam_boundary  # imports scipy

        artefact = self.artefact()
        upstream = {"sam": self.artefact("sam")}
        settings = self.config.masks

        def work(record: ImageRecord) -> Summary:
            markers = upstream_markers(record.id, upstream)
            group = upstream["sam"].read_group(markers["sam"])
            views, size = views_from_attributes(group)
            sets = read_mask_sets(group, [(view.height, view.width) for view in views])
            sets = [masks.filtered(**settings.filter.model_dump()) for masks in sets]
            projected = [project_to_panorama(masks, view, size) for masks, view in zip(sets, views, strict=True)]
            masks = merge_view_masks(projected, size, settings.merge.merge_iou_thresh, settings.merge.nms_iou_thresh)
            if settings.merge.remove_cuts:
                masks = remove_cuts(masks, [view.window for view in projected])
            boundary = sam_boundary(projected, size)
            inputs = {kind: marker.content for kind, marker in markers.items()}
            with artefact.write(record.id, source=markers["sam"].source, inputs=inputs) as writer:
                writer.attributes |= {"image_size": list(size)}
                write_mask_sets(writer, [masks])
                writer.add_array("boundary", boundary.astype(np.uint8))
            return {"masks": len(masks)}

        return work
