"""SAM's automatic masks at low cost: several views per encoder call, and only few masks are up-sampled [O].

The points, filters and the removal of duplicates are those of segment_anything's `SamAutomaticMaskGenerator`
(Kirillov et al., Segment Anything, ICCV 2023), which up-samples every mask of every point before it filters. Here the
low-resolution logits drop most candidates first: those of low predicted IoU, empty ones, those that a crop cuts off
and, best first, those that a better mask surely suppresses. Only the others are up-sampled, each in its region. Their
quality, boxes and duplicates are then computed from the up-sampled mask, as in the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.core.errors import ImageError
from pipeline.execution.devices import BatchSize, inference_context
from pipeline.geometry.masks import Mask, MaskSet, from_crops
from stages.precompute.sam.binary import mask_nms, prompt_component, remove_small_regions
from stages.precompute.sam.duplicates import BoxSuppression, MaskSuppression
from stages.precompute.sam.lowres import Candidate, Geometry, find_candidates
from stages.precompute.sam.settings import AutomaticMasks

#: A mask this near (pixels) to an edge of its crop inside the view is cut off there, and dropped.
EDGE_DISTANCE = 20


@dataclass(frozen=True)
class Crop:
    """A part of a view that SAM runs on: box XYXY (the end not included), prompts `(N, 2)` in pixels of the crop."""

    x0: int
    y0: int
    x1: int
    y1: int
    points: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.y1 - self.y0, self.x1 - self.x0


def make_crops(size: tuple[int, int], settings: AutomaticMasks) -> list[Crop]:
    """Returns the view of `size` (h, w) itself and the crops of each layer, with their grids of points."""
    from segment_anything.utils.amg import build_all_layer_point_grids, generate_crop_boxes

    layers = settings.crop_n_layers
    grids = build_all_layer_point_grids(settings.points_per_side, layers, settings.crop_n_points_downscale_factor)
    boxes = zip(*generate_crop_boxes(size, layers, settings.crop_overlap_ratio), strict=True)
    return [
        Crop(x0, y0, x1, y1, grids[layer] * np.array([x1 - x0, y1 - y0]))
        for (x0, y0, x1, y1), layer in boxes
        if x1 > x0 and y1 > y0
    ]


class BatchedMasks:
    """Generates the masks of views with the image encoder, prompt encoder and mask decoder of a `Sam` on `device`.

    `views_per_batch` views go through the encoder at a time, `points_per_batch` prompts through the decoder. Batches
    are halved when memory runs out.
    """

    def __init__(
        self, model: Any, settings: AutomaticMasks, device: str, views_per_batch: int, points_per_batch: int
    ) -> None:
        self.model = model
        self.settings = settings
        self.device = device
        self.encoder_batch = BatchSize(views_per_batch)
        self.decoder_batch = BatchSize(points_per_batch)

    def __call__(self, views: Sequence[np.ndarray]) -> list[MaskSet]:
        """Returns the mask set of each of `views` (RGB uint8, all of one shape `(h, w, 3)`), best masks first.

        Raises:
            ImageError: the model's output is not finite, or there are more masks than a set can hold.
            ValueError: the views differ in shape.
        """
        import torch

        if not views:
            return []
        if len({view.shape for view in views}) > 1:
            raise ValueError(f"views are of shapes {sorted({view.shape for view in views})}, expected one shape")
        size = views[0].shape[:2]
        crops = make_crops(size, self.settings)
        selected: list[list[tuple[Crop, Mask]]] = [[] for _ in views]
        with torch.inference_mode():
            for crop in crops:
                geometry = Geometry.of(self.model, crop.size)
                for part, embeddings in self._encode(views, crop):
                    for masks, embedding in zip(selected[part], embeddings.split(1), strict=True):
                        # without a name for the candidates, which are freed before the next ones are proposed
                        best = self._select(self._propose(embedding, crop, geometry), crop, geometry, size)
                        masks += [(crop, mask) for mask in best]
        return [from_crops(self._finish(masks, size, len(crops)), *size) for masks in selected]

    def _encode(self, views: Sequence[np.ndarray], crop: Crop) -> Iterator[tuple[slice, Any]]:
        """Yields slices of views and the embeddings of their `crop`, float tensors `(n, c, h, w)`."""
        import torch
        from segment_anything.utils.transforms import ResizeLongestSide

        resize = ResizeLongestSide(self.model.image_encoder.img_size)

        def encode(part: slice) -> Any:
            images = [resize.apply_image(view[crop.y0 : crop.y1, crop.x0 : crop.x1]) for view in views[part]]
            batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
            with inference_context(self.device, self.settings.precision):
                return self.model.image_encoder(self.model.preprocess(batch.to(self.device)))

        return self.encoder_batch.run(encode, len(views))

    def _propose(self, embedding: Any, crop: Crop, geometry: Geometry) -> list[Candidate]:
        """Returns the decoder's masks that are not empty and of sufficient predicted IoU, best first."""
        import torch
        from segment_anything.utils.transforms import ResizeLongestSide

        model, settings = self.model, self.settings
        # float64 up to here, as in the reference: the rounding of a prompt changes its mask.
        prompts = ResizeLongestSide(model.image_encoder.img_size).apply_coords(crop.points, crop.size)
        dense_pe = model.prompt_encoder.get_dense_pe()

        def decode(part: slice) -> list[Candidate]:
            points = torch.as_tensor(prompts[part], device=self.device)[:, None]
            labels = torch.ones(points.shape[:2], dtype=torch.int, device=self.device)
            with inference_context(self.device, settings.precision):
                sparse, dense = model.prompt_encoder(points=(points, labels), boxes=None, masks=None)
                logits, predicted_iou = model.mask_decoder(
                    image_embeddings=embedding,
                    image_pe=dense_pe,
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=True,
                )
            mask_points = np.repeat(crop.points[part], logits.shape[1], axis=0)
            logits, predicted_iou = logits.flatten(0, 1), predicted_iou.flatten().float()
            good = torch.ones_like(predicted_iou, dtype=torch.bool)
            if settings.pred_iou_thresh > 0:
                good = predicted_iou > settings.pred_iou_thresh
            logits = logits[good].float()
            if not (predicted_iou.isfinite().all() and logits.isfinite().all()):
                raise ImageError(f"SAM gave NaN or infinite values; precision is {settings.precision}")
            return find_candidates(
                logits,
                predicted_iou[good],
                mask_points[good.cpu().numpy()],
                geometry,
                model.mask_threshold,
                settings.stability_score_offset,
            )

        candidates = [candidate for _, batch in self.decoder_batch.run(decode, len(prompts)) for candidate in batch]
        return sorted(candidates, key=lambda candidate: -candidate.predicted_iou)

    def _select(self, candidates: list[Candidate], crop: Crop, geometry: Geometry, size: tuple[int, int]) -> list[Mask]:
        """Returns the candidates of a crop that are stable and no duplicates of better ones, best first."""
        settings = self.settings
        suppression: BoxSuppression | MaskSuppression = BoxSuppression(settings.box_nms_thresh, (crop.x0, crop.y0))
        cut_down = settings.keep_prompt_component and settings.mask_nms_thresh is not None
        if settings.mask_nms_thresh is not None:
            level = self.model.mask_threshold
            suppression = MaskSuppression(settings.mask_nms_thresh, size, geometry, level, cut_down)
        origin = np.array([crop.x0, crop.y0] * 2)
        # A side between two others that are near an edge is near it too; one pixel less for errors of estimation.
        inner, outer = (
            near_crop_edges(np.reshape(boxes, (-1, 4)) + origin, crop, size, EDGE_DISTANCE - 1)
            for boxes in ([c.inner for c in candidates], [c.outer for c in candidates])
        )
        is_cut_off = (inner & outer).any(axis=1)
        masks: list[Mask] = []
        for k in np.flatnonzero(~is_cut_off).tolist():
            if suppression.is_sure_duplicate(candidates[k]):
                continue
            mask = self._upsample(candidates[k], crop, geometry)
            if mask is None or near_crop_edges(np.array(mask.box), crop, size).any():
                continue
            if cut_down:
                mask = cut_to_prompt_component(mask)
            if not suppression.is_duplicate(mask):
                suppression.keep(mask, candidates[k])
                masks.append(mask)
        return masks

    def _upsample(self, candidate: Candidate, crop: Crop, geometry: Geometry) -> Mask | None:
        """Returns the mask at full size; None if it is empty or not stable enough."""
        settings, threshold = self.settings, self.model.mask_threshold
        logits = candidate.upsampled(geometry)
        higher = int((logits > threshold + settings.stability_score_offset).sum())
        lower = int((logits > threshold - settings.stability_score_offset).sum())
        stability = np.float32(higher) / np.float32(lower) if lower else np.float32(np.nan)
        if settings.stability_score_thresh > 0 and not stability >= np.float32(settings.stability_score_thresh):
            return None
        pixels = (logits > threshold).cpu().numpy()
        left, top = candidate.region[:2]
        x, y = candidate.point
        point = (crop.x0 + x, crop.y0 + y)
        mask = Mask(pixels, crop.x0 + left, crop.y0 + top, candidate.predicted_iou, float(stability), point).trimmed()
        return mask if mask.crop.size else None

    def _finish(self, selected: list[tuple[Crop, Mask]], size: tuple[int, int], crops: int) -> list[Mask]:
        """Post-processes all masks of a view: duplicates between crops, small regions, components."""
        settings = self.settings
        masks = [mask for _, mask in selected]
        by_masks = settings.mask_nms_thresh is not None
        if crops > 1 and not by_masks:
            # Of masks from different crops, that of the smaller crop has more detail and is kept.
            scores = [1 / (crop.size[0] * crop.size[1]) for crop, _ in selected]
            masks = _box_nms(masks, scores, settings.crop_nms_thresh)
        if settings.min_mask_region_area > 0:
            cleaned = [_remove_small_regions(mask, size, settings.min_mask_region_area) for mask in masks]
            is_unchanged = [float(new is old) for new, old in zip(cleaned, masks, strict=True)]
            masks = cleaned
            if not by_masks:
                masks = _box_nms(masks, is_unchanged, max(settings.box_nms_thresh, settings.crop_nms_thresh))
        if settings.keep_prompt_component and not by_masks:
            masks = [cut_to_prompt_component(mask) for mask in masks]
        if settings.mask_nms_thresh is not None and (crops > 1 or settings.min_mask_region_area > 0):
            dense = [mask.dense(size) for mask in masks]
            indices = mask_nms(dense, [mask.predicted_iou for mask in masks], settings.mask_nms_thresh)
            masks = [masks[k] for k in indices]
        return masks


def near_crop_edges(
    boxes: np.ndarray, crop: Crop, size: tuple[int, int], distance: float = EDGE_DISTANCE
) -> np.ndarray:
    """Marks the sides of boxes (XYXY of the view of `size`, `(..., 4)`) near an edge of `crop` inside the view.

    A side that is also near an edge of the view does not count. Returns bool `(..., 4)`.
    """
    edges, borders = np.array([crop.x0, crop.y0, crop.x1, crop.y1]), np.array([0, 0, size[1], size[0]])
    near: np.ndarray = (np.abs(boxes - edges) <= distance) & (np.abs(boxes - borders) > EDGE_DISTANCE)
    return near


def cut_to_prompt_component(mask: Mask) -> Mask:
    """Returns `mask` cut down to its connected component at the prompt."""
    pixels = prompt_component(mask.crop, mask.point[0] - mask.x, mask.point[1] - mask.y)
    return replace(mask, crop=pixels).trimmed()


def _remove_small_regions(mask: Mask, size: tuple[int, int], min_area: int) -> Mask:
    before = mask.dense(size)
    after = remove_small_regions(before, min_area)
    return mask if after is before else replace(mask, crop=after, x=0, y=0).trimmed()


def _box_nms(masks: list[Mask], scores: list[float], threshold: float) -> list[Mask]:
    """Suppression by the IoU of boxes, the highest score first, of equal ones the earlier."""
    import torch
    from torchvision.ops import nms

    if not masks:
        return masks
    boxes = torch.tensor([mask.box for mask in masks], dtype=torch.float32)
    return [masks[k] for k in nms(boxes, torch.tensor(scores), threshold).tolist()]
