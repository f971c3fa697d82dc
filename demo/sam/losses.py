"""What nano SAM is trained with: losses of masks against segments, and dense auxiliary tasks for the encoder.

Pure functions on tensors and one small module; no data, no schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from demo.sam.data import Segments
from demo.sam.model import DIM, STRIDE

AUX_STRIDE = 4
"""Pixels per pixel of the auxiliary tasks' targets."""
_OFFSET_SCALE = 16.0


@dataclass(frozen=True)
class MaskWeights:
    """Weights of the terms of `mask_loss`."""

    dice: float
    balanced: float
    sized: float


def mask_loss(logits: Tensor, target: Tensor, weights: MaskWeights) -> Tensor:
    """Loss of every mask: `logits` (..., h, w) against `target` (..., h, w) in 0..1, to (...).

    `dice` is one minus the soft dice coefficient. Both others are binary cross entropies that differ in what they
    divide by: `balanced` averages inside and outside of the target apart, so that an empty mask is never a good
    answer (the first thing that the decoder must learn); `sized` divides the sum by `sqrt(area * h * w)`, between
    the mean per pixel, which forgets small segments, and the mean per object pixel, which forgets precision.
    """
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    everything, area = bce.sum((-2, -1)), target.sum((-2, -1))
    pixels = target.shape[-1] * target.shape[-2]
    loss = torch.zeros_like(everything)
    if weights.dice:
        probability = logits.sigmoid()
        both = (probability * target).sum((-2, -1))
        loss = loss + weights.dice * (1 - (2 * both + 1) / (probability.sum((-2, -1)) + area + 1))
    if weights.balanced:
        inside = (bce * target).sum((-2, -1))
        outside = (everything - inside) / (pixels - area).clamp(min=1)
        loss = loss + weights.balanced * (inside / area.clamp(min=1) + outside)
    if weights.sized:
        loss = loss + weights.sized * everything / (area.clamp(min=4) * pixels).sqrt()
    return loss


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of `logits > 0` with `target > 0.5` over the last two axes; 0 if both are empty."""
    mask, truth = logits > 0, target > 0.5
    union = (mask | truth).sum((-2, -1)).clamp(min=1)
    return (mask & truth).sum((-2, -1)) / union


def prompt_loss(
    logits: Tensor, predicted_iou: Tensor, target: Tensor, is_box: Tensor, weights: MaskWeights, spread: float
) -> tuple[Tensor, Tensor]:
    """Loss of prompts, one segment each.

    Args:
        logits: (N, 4, h, w); mask 0 is the single mask, 1 to 3 are the three masks.
        predicted_iou: (N, 4).
        target: (N, h, w) in 0..1.
        is_box: (N,) bool. A box names one segment: the single mask learns from boxes only.
        weights: of the terms.
        spread: share of the loss that all three masks take, whichever is best; the best one takes the rest.

    Returns:
        `(loss, iou)`: (N,) to be averaged, and the IoU of each mask (N, 4) without gradient.
    """
    truth = target[:, None].expand_as(logits)
    losses = mask_loss(logits, truth, weights)
    with torch.no_grad():
        iou = mask_iou(logits, truth)
    three = losses[:, 1:]
    best = (1 - spread) * three.amin(1) + spread * three.mean(1)
    return best + is_box * losses[:, 0] + F.mse_loss(predicted_iou, iou, reduction="none").mean(1), iou


def boundary_and_offsets(segments: Segments) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Dense targets of segments (h, w), which are already at the targets' resolution.

    Returns:
        `(boundary, offset, weight)`: 1 where a 4-neighbour lies in another segment (h, w); the way to the segment's
        centre of mass, XY in units of 16 pixels (2, h, w); and a weight (h, w) of mean 1, with the inverse
        square root of the segment's area.
    """
    boundary = np.zeros(segments.shape, np.float32)
    across = segments[:, 1:] != segments[:, :-1]
    boundary[:, 1:][across] = 1
    boundary[:, :-1][across] = 1
    along = segments[1:] != segments[:-1]
    boundary[1:][along] = 1
    boundary[:-1][along] = 1
    _, inverse, counts = np.unique(segments, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(segments.shape)
    rows, columns = np.mgrid[: segments.shape[0], : segments.shape[1]].astype(np.float32)
    centre = [np.bincount(inverse.ravel(), axis.ravel()) / counts for axis in (columns, rows)]
    offset = np.stack([centre[0][inverse] - columns, centre[1][inverse] - rows]) / _OFFSET_SCALE
    weight = (1 / np.sqrt(counts))[inverse]
    return boundary, offset.astype(np.float32), (weight / weight.mean()).astype(np.float32)


class DenseTasks(nn.Module):
    """Auxiliary tasks by which the encoder learns from all pixels at once; trained along, not shipped.

    Where segments end, where their centres lie, and masks by a bilinear decoder: the embedding at a pixel, through
    two layers, dotted with the mask decoder's own upscaled features. The last is what the decoder does without
    attention, hundreds of times cheaper per prompt.
    """

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.dense = nn.Conv2d(dim, 3 * (STRIDE // AUX_STRIDE) ** 2, 1)
        self.query = nn.Sequential(nn.Linear(dim + dim // 8, 128), nn.ReLU(), nn.Linear(128, dim // 8))

    def forward(
        self, sam: Sam, embedding: Tensor, segments: list[Segments], pixels: list[Tensor], weights: MaskWeights
    ) -> tuple[Tensor, float]:
        """Loss, and the mean IoU of the bilinear decoder's masks.

        Args:
            sam: gives its decoder's `output_upscaling`.
            embedding: (B, C, 32, 32).
            segments: of each of the B windows, (h, w) int32, at the window's own size.
            pixels: per window, the prompts' places as int64 (P, 2) XY.
            weights: of `mask_loss`.
        """
        dense = F.pixel_shuffle(self.dense(embedding), STRIDE // AUX_STRIDE)
        normed = F.layer_norm(embedding.permute(0, 2, 3, 1), (embedding.shape[1],)).permute(0, 3, 1, 2)
        fine = sam.mask_decoder.output_upscaling(normed)
        total, ious = embedding.new_zeros((), dtype=torch.float32), []
        for b, window in enumerate(segments):
            coarse = np.ascontiguousarray(window[::AUX_STRIDE, ::AUX_STRIDE])
            h, w = coarse.shape
            boundary, offset, weight = (torch.from_numpy(a) for a in boundary_and_offsets(coarse))
            found = dense[b, :, :h, :w].float()
            edges = F.binary_cross_entropy_with_logits(found[0], boundary, pos_weight=found.new_tensor(3.0))
            centres = F.smooth_l1_loss(found[1:], offset, reduction="none", beta=0.3).sum(0) * weight
            x, y = pixels[b].T
            place = torch.cat([embedding[b][:, y // STRIDE, x // STRIDE], fine[b][:, y // 2, x // 2]]).T
            logits = torch.einsum("nc,chw->nhw", self.query(place), fine[b][:, : 2 * h : 2, : 2 * w : 2]).float()
            ids = torch.from_numpy(window)[y, x]
            target = (torch.from_numpy(coarse) == ids[:, None, None]).float()
            seen = target.amax((1, 2)) > 0
            masks = mask_loss(logits, target, weights)[seen].mean()
            total = total + (edges + centres.mean() + masks) / len(segments)
            ious.append(float(mask_iou(logits.detach(), target)[seen].mean()))
        return total, float(np.mean(ious))
