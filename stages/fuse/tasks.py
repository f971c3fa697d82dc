"""Stage two on single images: reads cached arrays, computes the ensemble and writes it; the stage's only I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from pipeline.cache import ImageGroup
from pipeline.cache.artefact_spec import ArtefactSpec, open_artefacts
from pipeline.cache.freshness import upstream_markers
from pipeline.cache.groups import read_mask_sets, views_from_attributes, views_to_attributes
from pipeline.cache.incremental import CacheTask
from pipeline.core.errors import ImageError
from pipeline.core.reading import short_repr
from pipeline.data.labels import LabelSpace
from pipeline.data.manifests import ImageRecord
from pipeline.geometry.masks import MaskSet
from pipeline.geometry.upsample import most_likely, upsample
from pipeline.geometry.views import View
from pipeline.geometry.windows import Window
from stages.fuse.artefacts import FUSED
from stages.fuse.boundary import ViewLabels, refine
from stages.fuse.pooling import TINY, class_probabilities, pool
from stages.fuse.rules.base import FULL, FusionInput, FusionRule


@dataclass(frozen=True)
class FuseTask(CacheTask):
    """The ensemble of one panorama."""

    spec: ClassVar[ArtefactSpec] = FUSED

    @property
    def title(self) -> str:
        return f"ensemble by rule {self.config.fusion.rule.kind}"

    def setup(self) -> Callable[[ImageRecord], dict[str, Any]]:
        rule: FusionRule = self.config.fusion.rule  # type: ignore[assignment]
        artefact = self.artefact()
        upstream = open_artefacts(self.cache, self.artefacts, rule.needs)
        source, target = self.config.teacher_space(), self.config.fused_space()
        things = tuple(name in target.things for name in target.classes)

        def work(record: ImageRecord) -> dict[str, Any]:
            markers = upstream_markers(record.id, upstream)
            groups = {kind: upstream[kind].read_group(marker) for kind, marker in markers.items()}
            views, size, stride, logits = read_logits(groups["teacher"], source)
            probabilities = [class_probabilities(view, source, target) for view in logits]
            placements = [view.place(size, stride) for view in views]
            projected = [place.interpolate(view) for place, view in zip(placements, probabilities, strict=True)]
            grid = -(-size[0] // stride), size[1] // stride
            try:
                pooled = pool(projected, placements, grid, self.config.fusion.pooling)
            except ValueError as error:
                raise ImageError(f"{record.id}: teacher.views: {error}; expected views all over the panorama") from None
            # The rule gets the prediction as it is stored, so that readers of the artefact compute the same labels.
            stitched = np.log(np.maximum(pooled.probabilities, TINY)).astype(np.float16)
            inputs = FusionInput.of_stitched(stitched.astype(np.float32), stride, size[0], things)
            if "masks" in groups:
                view_labels = [
                    ViewLabels(place.window, most_likely(view), place.covered)
                    for place, view in zip(placements, projected, strict=True)
                ]
                radius = self.config.fusion.boundary_radius or stride
                boundary = refine(read_boundary(groups["masks"], size), inputs.labels, view_labels, grid, radius)
                inputs = replace(inputs, masks=read_mask_sets(groups["masks"], [size])[0], boundary=boundary)
            if "sam" in groups:
                windows, window_masks = read_window_masks(
                    groups["sam"], views, size[0], self.config.masks.filter.model_dump()
                )
                logs = [np.log(np.maximum(view, TINY)) for view in probabilities]
                window_labels = [most_likely(upsample(view, stride, size[0], cyclic=False)) for view in logs]
                inputs = replace(inputs, windows=windows, window_labels=window_labels, window_masks=window_masks)
            ensemble = rule(inputs)
            # Quality signals that need no labels: disagreement of the views (nats), and mean of the weight map.
            mean_weight = float(ensemble.weight.mean(dtype=np.float64)) / FULL
            figures = {"l_cc": pooled.l_cc, "residual": pooled.residual, "weight": mean_weight}
            signals = {name: round(value, 6) for name, value in figures.items()}
            arrays = {"stitched": stitched, "label": ensemble.label, "gate": ensemble.gate, "weight": ensemble.weight}
            if inputs.boundary is not None:
                arrays["boundary"] = inputs.boundary.astype(np.uint8)
            contents = {kind: marker.content for kind, marker in markers.items()}
            with artefact.write(record.id, source=markers["teacher"].source, inputs=contents) as writer:
                writer.attributes |= {"image_size": list(size), "output_stride": stride, "signals": signals}
                writer.attributes |= views_to_attributes(inputs.windows, size) if ensemble.extra_arrays else {}
                for name, values in {**arrays, **ensemble.extra_arrays}.items():
                    writer.add_array(name, values)
            return signals

        return work


def read_logits(
    group: ImageGroup, space: LabelSpace
) -> tuple[tuple[View, ...], tuple[int, int], int, list[np.ndarray]]:
    """Returns the views, panorama size, output stride and each view's logits `(C, h, w)` of one cached panorama.

    Raises `ImageError` if attributes and logits do not fit together, or logits are not finite.
    """
    where = f"{group.marker.id}: {group.artefact.path}"
    views, size = views_from_attributes(group)
    stride = group.attributes.get("output_stride")
    if not isinstance(stride, int) or stride < 1 or size[1] % stride:
        raise ImageError(
            f"{where}: attribute output_stride is {short_repr(stride)}, expected a divisor of the width {size[1]}"
        )
    logits = group.read_array("logits", ndim=4)
    grids = [(-(-view.height // stride), view.width // stride) for view in views]
    expected = (len(views), space.num_classes, max(h for h, _ in grids), max(w for _, w in grids))
    if logits.shape != expected:
        raise ImageError(f"{where}: logits are {logits.shape}, expected (views, classes, h, w) = {expected}")
    if not np.isfinite(logits).all():
        raise ImageError(f"{where}: logits hold NaN or infinite values")
    return views, size, stride, [view[:, :h, :w] for view, (h, w) in zip(logits, grids, strict=True)]


def read_window_masks(
    group: ImageGroup, views: tuple[View, ...], height: int, thresholds: Mapping[str, Any]
) -> tuple[list[Window], list[MaskSet]]:
    """Returns the TA's windows and the filtered masks of each.

    Raises `ImageError` if SAM had other views than the TA, or they are not windows of the panorama's full `height`.
    """
    mask_views, _ = views_from_attributes(group)
    if mask_views != views:
        raise ImageError(
            f"{group.marker.id}: the windows of {group.artefact.path} are not those of the TA; "
            "the per-window rule expects equal sam.views and teacher.views"
        )
    windows = [view for view in views if isinstance(view, Window) and view.height == height]
    if len(windows) < len(views):
        raise ImageError(f"{group.marker.id}: the per-window rule expects windows of the panorama's full height only")
    if len(widths := {window.width for window in windows}) > 1:
        found = f"found windows {sorted(widths)} wide"
        raise ImageError(f"{group.marker.id}: {found}; the per-window rule expects windows of one width")
    sets = read_mask_sets(group, [(view.height, view.width) for view in windows])
    return windows, [masks.filtered(**thresholds) for masks in sets]


def read_boundary(group: ImageGroup, size: tuple[int, int]) -> np.ndarray:
    """Returns `B_SAM` of one panorama, bool `(H, W)`; raises `ImageError` if it has another size."""
    boundary = group.read_array("boundary", ndim=2)
    if boundary.shape != size:
        raise ImageError(f"{group.marker.id}: {group.artefact.path}: boundary is {boundary.shape}, expected {size}")
    return boundary > 0
