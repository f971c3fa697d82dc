"""Stage two on single images: reads cached arrays, calls the pure functions, writes the ensemble; its only I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import FilterSettings
from pipeline.errors import ImageError
from pipeline.labels import LabelSpace
from pipeline.manifests import ImageRecord
from pipeline.masks import MaskSet
from pipeline.store import ImageGroup
from pipeline.store.groups import read_mask_sets, views_from_attributes
from pipeline.store.upstream import open_artefacts, upstream_markers
from pipeline.tasks import CacheTask
from pipeline.upsample import upsample
from pipeline.views import Window
from stages.fuse.pooling import TINY, Pooled, pool, view_probabilities
from stages.fuse.rules.base import FULL, FusionInput, FusionRule


@dataclass(frozen=True)
class FuseTask(CacheTask):
    """The ensemble of one panorama."""

    kind: str = "fused"

    def open(self) -> Callable[[ImageRecord], dict[str, Any]]:
        rule: FusionRule = self.config.fusion.rule  # type: ignore[assignment]
        artefact = self.artefact()
        upstream = open_artefacts(self.cache, self.artefacts, rule.needs)
        source, target = self.config.teacher_space(), self.config.fused_space()

        def work(record: ImageRecord) -> dict[str, Any]:
            markers = upstream_markers(record.id, upstream)
            groups = {kind: upstream[kind].group(marker) for kind, marker in markers.items()}
            views, size, stride, logits = read_logits(groups["teacher"], source)
            probabilities = view_probabilities(logits, source, target)
            pooled = pool(
                probabilities,
                [view.scaled(stride) for view in views],
                size[1] // stride,
                self.config.fusion.pooling,
            )
            # what is stored is what is used: readers of the artefact find the same labels
            stitched = np.log(np.maximum(pooled.probabilities, TINY)).astype(np.float16)
            full = upsample(stitched.astype(np.float32), stride, size[0], cyclic=True)
            inputs = FusionInput(target.num_classes, full.argmax(axis=0).astype(np.uint8))
            if "masks" in groups:
                masks = read_mask_sets(groups["masks"], 1, size)[0]
                inputs = FusionInput(inputs.num_classes, inputs.labels, masks)
            if "sam" in groups:
                window_masks = read_window_masks(groups["sam"], views, self.config.masks.filter)
                window_labels = [labels_of_view(p, stride, view) for p, view in zip(probabilities, views, strict=True)]
                inputs = FusionInput(
                    inputs.num_classes, inputs.labels, inputs.masks, views, window_labels, window_masks
                )
            ensemble = rule(inputs)
            signals = _signals(pooled, ensemble.weight)
            contents = {kind: marker.content for kind, marker in markers.items()}
            with artefact.write(record.id, inputs=contents) as attempt:
                attempt.attributes |= {"image_size": list(size), "output_stride": stride, "signals": signals}
                attempt.array("stitched", stitched)
                for name, values in {
                    "label": ensemble.label,
                    "gate": ensemble.gate,
                    "weight": ensemble.weight,
                    **ensemble.more,
                }.items():
                    attempt.array(name, values)
            return signals

        return work


def read_logits(group: ImageGroup, space: LabelSpace) -> tuple[tuple[Window, ...], tuple[int, int], int, np.ndarray]:
    """Views, panorama size, output stride and logits (as stored, ``(V, C, h, w)``) of one cached panorama.

    Raises :class:`ImageError` where the parts do not fit together or logits are not finite.
    """
    where = f"{group.marker.id}: {group.artefact.path}"
    views, size = views_from_attributes(group)
    stride = group.attributes.get("output_stride")
    if not isinstance(stride, int) or stride < 1 or size[1] % stride:
        raise ImageError(f"{where}: attribute output_stride is {stride!r}, expected a divisor of the width {size[1]}")
    logits = group.array("logits", ndim=4)
    expected = (len(views), space.num_classes, -(-views[0].height // stride), views[0].width // stride)
    if logits.shape != expected:
        raise ImageError(f"{where}: logits are {logits.shape}, expected (views, classes, h, w) = {expected}")
    if not np.isfinite(logits).all():
        raise ImageError(f"{where}: logits hold NaN or infinite values")
    if any((view.y0, view.height) != (0, size[0]) for view in views):
        raise ImageError(f"{where}: expected views of the panorama's full height")
    return views, size, stride, logits


def read_window_masks(group: ImageGroup, views: tuple[Window, ...], settings: FilterSettings) -> list[MaskSet]:
    """The filtered masks of each of the TA's windows. Raises :class:`ImageError` if SAM saw other windows."""
    mask_views, _ = views_from_attributes(group)
    if mask_views != views:
        raise ImageError(
            f"{group.marker.id}: the windows of {group.artefact.path} are not those of the TA; "
            f"the per-window rule expects sam.views and teacher.views alike"
        )
    sets = read_mask_sets(group, len(views), (views[0].height, views[0].width))
    return [masks.filtered(**settings.model_dump()) for masks in sets]


def labels_of_view(probabilities: np.ndarray, stride: int, view: Window) -> np.ndarray:
    """The argmax of one view's probabilities ``(C, h, w)`` at pixels: uint8 ``(height, width)`` of the view."""
    logits = np.log(np.maximum(probabilities, TINY))
    return upsample(logits, stride, view.height, cyclic=False).argmax(axis=0).astype(np.uint8)


def _signals(pooled: Pooled, weight: np.ndarray) -> dict[str, float]:
    """Label-less quality of one panorama: disagreement of the views (nats), and the mean of the weight map."""
    return {
        "l_cc": round(pooled.l_cc, 6),
        "residual": round(pooled.residual, 6),
        "weight": round(float(weight.mean(dtype=np.float64)) / FULL, 6),
    }
