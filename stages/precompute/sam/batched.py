"""SAM's automatic masks without their cost: several windows an encoder call, and only few masks are up-sampled (ours).

The points, filters and the removal of duplicates are those of segment_anything's `SamAutomaticMaskGenerator`
(Kirillov et al., Segment Anything, ICCV 2023). It up-samples every mask of every point before it filters. Here, what
the low-resolution logits tell goes first: candidates below the predicted IoU, empty ones, those that a crop cuts off,
and, best first, those that a better mask surely suppresses. Only the others are up-sampled, each once, each alone in
its own region, and the quality, boxes and duplicates that count are those of the up-sampled mask, as in the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.core.errors import ImageError
from pipeline.execution.devices import BatchSize, autocast
from pipeline.geometry.masks import MAX_MASKS, MaskSet, MaskSetBuilder, mask_box
from stages.precompute.sam.binary import mask_nms, prompt_component, remove_small_regions
from stages.precompute.sam.duplicates import Duplicates, Mask, SimilarBoxes, SimilarMasks
from stages.precompute.sam.lowres import Candidates, Geometry
from stages.precompute.sam.settings import AutomaticMasks

#: A mask that comes this near (pixels) to an edge of its crop inside the view is cut off there: it is dropped.
EDGE = 20


@dataclass(frozen=True)
class Crop:
    """A part of a view that SAM looks at: box XYXY (the end not included), prompts `(N, 2)` in its own pixels."""

    x0: int
    y0: int
    x1: int
    y1: int
    points: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.y1 - self.y0, self.x1 - self.x0


def crops_of(size: tuple[int, int], settings: AutomaticMasks) -> list[Crop]:
    """The view of `size` (h, w) itself, then the crops of each layer, with their grids of points."""
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
    """The masks of views, by a segment_anything `Sam` on `device`.

    Needs its image encoder, prompt encoder and mask decoder only. `windows` views go through the encoder at a time,
    `points` prompts through the decoder.
    """

    def __init__(self, model: Any, settings: AutomaticMasks, device: str, windows: int, points: int) -> None:
        self.model = model
        self.settings = settings
        self.device = device
        self.windows = BatchSize(windows)
        self.points = BatchSize(points)

    def __call__(self, views: Sequence[np.ndarray]) -> list[MaskSet]:
        """The mask set of each of `views` (RGB uint8, all of one shape `(h, w, 3)`), best masks first.

        Raises `ImageError` if the model's output is not finite, or for more masks than a set can hold.
        """
        import torch

        if not views:
            return []
        if len({view.shape for view in views}) > 1:
            raise ValueError(f"views are of shapes {sorted({view.shape for view in views})}, expected one shape")
        size = views[0].shape[:2]
        crops = crops_of(size, self.settings)
        found: list[list[Mask]] = [[] for _ in views]
        with torch.inference_mode():
            for crop in crops:
                geometry = Geometry.of(self.model, crop.size)
                for part, embeddings in self._encode(views, crop):
                    for masks, embedding in zip(found[part], embeddings.split(1), strict=True):
                        masks += self._select(self._propose(embedding, crop, geometry), crop, geometry, size)
        return [_mask_set(self._finish(masks, size, len(crops)), size) for masks in found]

    def _encode(self, views: Sequence[np.ndarray], crop: Crop) -> Iterator[tuple[slice, Any]]:
        """Embeddings of `crop` of some views at a time: their slice, and a float tensor `(n, c, h, w)`."""
        import torch
        from segment_anything.utils.transforms import ResizeLongestSide

        resize = ResizeLongestSide(self.model.image_encoder.img_size)

        def encode(part: slice) -> Any:
            images = [resize.apply_image(view[crop.y0 : crop.y1, crop.x0 : crop.x1]) for view in views[part]]
            batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
            with autocast(self.device, self.settings.precision):
                return self.model.image_encoder(self.model.preprocess(batch.to(self.device)))

        return self.windows.run(encode, len(views))

    def _propose(self, embedding: Any, crop: Crop, geometry: Geometry) -> Candidates:
        """The decoder's answers to the points of a crop, without empty ones and those of too low predicted IoU."""
        import torch
        from segment_anything.utils.transforms import ResizeLongestSide

        model, settings = self.model, self.settings
        # float64 up to here, as in the reference: the rounding of a prompt is visible in its mask
        prompts = ResizeLongestSide(model.image_encoder.img_size).apply_coords(crop.points, crop.size)
        dense_pe = model.prompt_encoder.get_dense_pe()

        def decode(part: slice) -> Candidates:
            points = torch.as_tensor(prompts[part], device=self.device)[:, None]
            labels = torch.ones(points.shape[:2], dtype=torch.int, device=self.device)
            with autocast(self.device, settings.precision):
                sparse, dense = model.prompt_encoder(points=(points, labels), boxes=None, masks=None)
                logits, predicted_iou = model.mask_decoder(
                    image_embeddings=embedding,
                    image_pe=dense_pe,
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=True,
                )
            own = np.repeat(crop.points[part], logits.shape[1], axis=0)
            logits, predicted_iou = logits.flatten(0, 1), predicted_iou.flatten().float()
            good = torch.ones_like(predicted_iou, dtype=torch.bool)
            if settings.pred_iou_thresh > 0:
                good = predicted_iou > settings.pred_iou_thresh
            logits = logits[good].float()
            if not (predicted_iou.isfinite().all() and logits.isfinite().all()):
                raise ImageError(f"SAM gave NaN or infinite values; precision is {settings.precision}")
            return Candidates.of(
                logits,
                predicted_iou[good],
                own[good.cpu().numpy()],
                geometry,
                model.mask_threshold,
                settings.stability_score_offset,
            )

        return Candidates.joined([some for _, some in self.points.run(decode, len(prompts))])

    def _select(self, found: Candidates, crop: Crop, geometry: Geometry, size: tuple[int, int]) -> list[Mask]:
        """The candidates of a crop that are good at full size, and no duplicates of better ones; best first."""
        settings, threshold = self.settings, self.model.mask_threshold
        kept: list[Mask] = []
        by_masks = settings.mask_nms_thresh is not None
        duplicates: Duplicates = SimilarBoxes(settings.box_nms_thresh, (crop.x0, crop.y0))
        if settings.mask_nms_thresh is not None:
            cut = settings.keep_prompt_component
            duplicates = SimilarMasks(settings.mask_nms_thresh, size, geometry, threshold, cut)
        origin = np.array([crop.x0, crop.y0] * 2)
        # a side between two others that are near an edge is near it too; one pixel less for errors of estimation
        near = (at_crop_edges(boxes + origin, crop, size, EDGE - 1) for boxes in (found.inner, found.outer))
        cut_off = np.logical_and(*near).any(axis=1)
        for k in np.flatnonzero(~cut_off).tolist():
            if duplicates.surely(found, k):
                continue
            mask = self._at_full_size(found, k, crop, geometry)
            if mask is None or at_crop_edges(np.array(mask.box), crop, size).any():
                continue
            if by_masks and settings.keep_prompt_component:
                mask = at_prompt(mask)
            if not duplicates.has(mask):
                duplicates.add(mask, found, k)
                kept.append(mask)
        return kept

    def _at_full_size(self, found: Candidates, k: int, crop: Crop, geometry: Geometry) -> Mask | None:
        """Candidate `k`, up-sampled; None if it is empty or not stable enough."""
        settings, threshold = self.settings, self.model.mask_threshold
        logits = found.upsampled(k, geometry)
        higher = int((logits > threshold + settings.stability_score_offset).sum())
        lower = int((logits > threshold - settings.stability_score_offset).sum())
        stability = np.float32(higher) / np.float32(lower) if lower else np.float32(np.nan)
        if settings.stability_score_thresh > 0 and not stability >= np.float32(settings.stability_score_thresh):
            return None
        inside = (logits > threshold).cpu().numpy()
        x, y, width, height = mask_box(inside)
        if not width:
            return None
        left, top = found.region[k, :2].tolist()
        px, py = found.points[k].tolist()
        return Mask(
            inside[y : y + height, x : x + width].copy(),
            crop.x0 + left + x,
            crop.y0 + top + y,
            float(found.predicted_iou[k]),
            float(stability),
            (crop.x0 + px, crop.y0 + py),
            crop.size[0] * crop.size[1],
        )

    def _finish(self, masks: list[Mask], size: tuple[int, int], crops: int) -> list[Mask]:
        """What is done on all masks of a view: duplicates between crops, small regions, pieces."""
        settings = self.settings
        by_masks = settings.mask_nms_thresh is not None
        if crops > 1 and not by_masks:
            # of masks from different crops, the one from the smaller crop was seen larger: it stays
            masks = _nms(masks, [1 / mask.crop_area for mask in masks], settings.crop_nms_thresh)
        if settings.min_mask_region_area > 0:
            cleaned = [_cleaned(mask, size, settings.min_mask_region_area) for mask in masks]
            unchanged = [float(new is old) for new, old in zip(cleaned, masks, strict=True)]
            masks = cleaned
            if not by_masks:
                masks = _nms(masks, unchanged, max(settings.box_nms_thresh, settings.crop_nms_thresh))
        if settings.keep_prompt_component and not by_masks:
            masks = [at_prompt(mask) for mask in masks]
        if settings.mask_nms_thresh is not None and (crops > 1 or settings.min_mask_region_area > 0):
            whole = [mask.on(size) for mask in masks]
            kept = mask_nms(whole, [mask.predicted_iou for mask in masks], settings.mask_nms_thresh)
            masks = [masks[k] for k in kept]
        return masks


def at_crop_edges(boxes: np.ndarray, crop: Crop, size: tuple[int, int], distance: float = EDGE) -> np.ndarray:
    """Which sides of boxes (XYXY of the view of `size`, `(..., 4)`) lie near an edge of `crop` inside the view.

    bool `(..., 4)`. A side that is near an edge of the view too does not count.
    """
    edges, borders = np.array([crop.x0, crop.y0, crop.x1, crop.y1]), np.array([0, 0, size[1], size[0]])
    near: np.ndarray = (np.abs(boxes - edges) <= distance) & (np.abs(boxes - borders) > EDGE)
    return near


def at_prompt(mask: Mask) -> Mask:
    """`mask` cut down to its piece under its point."""
    return _placed(mask, prompt_component(mask.inside, mask.point[0] - mask.x, mask.point[1] - mask.y), mask.x, mask.y)


def _cleaned(mask: Mask, size: tuple[int, int], min_area: int) -> Mask:
    before = mask.on(size)
    after = remove_small_regions(before, min_area)
    return mask if after is before else _placed(mask, after, 0, 0)


def _placed(mask: Mask, inside: np.ndarray, x0: int, y0: int) -> Mask:
    """`mask` with other pixels: `inside`, whose corner is at column x0, row y0 of the view."""
    x, y, width, height = mask_box(inside)
    return replace(mask, inside=inside[y : y + height, x : x + width].copy(), x=x0 + x, y=y0 + y)


def _nms(masks: list[Mask], scores: list[float], threshold: float) -> list[Mask]:
    """Suppression by boxes, the highest score first, of equal ones the earlier."""
    import torch
    from torchvision.ops import nms

    if not masks:
        return masks
    boxes = torch.tensor([mask.box for mask in masks], dtype=torch.float32)
    return [masks[k] for k in nms(boxes, torch.tensor(scores), threshold).tolist()]


def _mask_set(masks: list[Mask], size: tuple[int, int]) -> MaskSet:
    if len(masks) > MAX_MASKS:
        raise ImageError(
            f"found {len(masks)} masks in one view, expected at most {MAX_MASKS}; raise pred_iou_thresh or "
            f"stability_score_thresh"
        )
    builder = MaskSetBuilder(*size)
    for mask in masks:
        builder.add(
            mask.inside,
            mask.x,
            mask.y,
            predicted_iou=mask.predicted_iou,
            stability_score=mask.stability_score,
            point=mask.point,
        )
    return builder.build()
