"""Losses of nano SAM: mask losses against segments, and dense auxiliary tasks for the encoder."""

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

#: Image pixels per pixel of the auxiliary targets.
AUX_STRIDE = 4
_OFFSET_SCALE = 16.0


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of `mask_loss` and `prompt_loss`.

    Attributes:
        dice: of one minus the soft dice coefficient.
        balanced: of the binary cross entropy as the mean inside the target plus the mean outside. An empty mask is
            never good, which the decoder must learn first.
        scaled: of the binary cross entropy as the sum divided by `sqrt(area * h * w)`: between the mean per pixel,
            which neglects small segments, and the mean per target pixel, which neglects false positives.
        mean_share: of the mean loss of the three masks of a prompt; the rest is the weight of the best mask.
    """

    dice: float
    balanced: float
    scaled: float
    mean_share: float = 0.0


def mask_loss(logits: Tensor, target: Tensor, weights: LossWeights) -> Tensor:
    """Returns the loss (...) of masks: `logits` (..., h, w) against `target` (..., h, w) in 0..1."""
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    total, area = bce.sum((-2, -1)), target.sum((-2, -1))
    pixels = target.shape[-1] * target.shape[-2]
    loss = torch.zeros_like(total)
    if weights.dice:
        probability = logits.sigmoid()
        overlap = (probability * target).sum((-2, -1))
        loss = loss + weights.dice * (1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + area + 1))
    if weights.balanced:
        inside = (bce * target).sum((-2, -1))
        outside = (total - inside) / (pixels - area).clamp(min=1)
        loss = loss + weights.balanced * (inside / area.clamp(min=1) + outside)
    if weights.scaled:
        loss = loss + weights.scaled * total / (area.clamp(min=4) * pixels).sqrt()
    return loss


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the IoU of `logits > 0` with `target > 0.5` over the last two axes; 0 if both are empty."""
    mask, truth = logits > 0, target > 0.5
    union = (mask | truth).sum((-2, -1)).clamp(min=1)
    return (mask & truth).sum((-2, -1)) / union


def prompt_loss(
    logits: Tensor, predicted_iou: Tensor, target: Tensor, is_box: Tensor, weights: LossWeights
) -> tuple[Tensor, Tensor]:
    """Computes the loss of prompts.

    Args:
        logits: (N, 4, h, w); mask 0 is the single-mask output, 1 to 3 are the three masks.
        predicted_iou: (N, 4).
        target: (N, h, w) in 0..1.
        is_box: (N,) bool. A box is unambiguous: the single mask learns from boxes only.
        weights: of the losses.

    Returns:
        The loss (N,), to be averaged, and the IoU (N, 4) of the masks without gradient.
    """
    truth = target[:, None].expand_as(logits)
    losses = mask_loss(logits, truth, weights)
    with torch.no_grad():
        iou = mask_iou(logits, truth)
    three = losses[:, 1:]
    combined = (1 - weights.mean_share) * three.amin(1) + weights.mean_share * three.mean(1)
    return combined + is_box * losses[:, 0] + F.mse_loss(predicted_iou, iou, reduction="none").mean(1), iou


def dense_targets(segments: Segments) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Computes the auxiliary targets of segments (h, w) at the resolution of the targets.

    Returns:
        `(boundary, offset, weight)`. `boundary` (h, w) is 1 where a 4-neighbour is in another segment. `offset`
        (2, h, w) is the XY vector to the segment's centre of mass in units of 16 pixels. `weight` (h, w) is
        proportional to the inverse square root of the segment's area, with mean 1.
    """
    boundary = np.zeros(segments.shape, np.float32)
    horizontal = segments[:, 1:] != segments[:, :-1]
    boundary[:, 1:][horizontal] = 1
    boundary[:, :-1][horizontal] = 1
    vertical = segments[1:] != segments[:-1]
    boundary[1:][vertical] = 1
    boundary[:-1][vertical] = 1
    _, inverse, counts = np.unique(segments, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(segments.shape)
    rows, columns = np.mgrid[: segments.shape[0], : segments.shape[1]].astype(np.float32)
    centre = [np.bincount(inverse.ravel(), axis.ravel()) / counts for axis in (columns, rows)]
    offset = np.stack([centre[0][inverse] - columns, centre[1][inverse] - rows]) / _OFFSET_SCALE
    weight = (1 / np.sqrt(counts))[inverse]
    return boundary, offset.astype(np.float32), (weight / weight.mean()).astype(np.float32)


class DenseTasks(nn.Module):
    """Auxiliary tasks that train the encoder on all pixels at once; not part of the shipped model.

    The tasks are segment boundaries, offsets to segment centres, and masks of a bilinear decoder: the embedding at a
    pixel, after two layers, multiplied with the upscaled features of the mask decoder. This is the decoder without
    attention, hundreds of times cheaper per prompt.
    """

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.dense = nn.Conv2d(dim, 3 * (STRIDE // AUX_STRIDE) ** 2, 1)
        self.query = nn.Sequential(nn.Linear(dim + dim // 8, 128), nn.ReLU(), nn.Linear(128, dim // 8))

    def forward(
        self, sam: Sam, embedding: Tensor, segments: list[Segments], pixels: list[Tensor], weights: LossWeights
    ) -> tuple[Tensor, float]:
        """Computes the loss and the mean IoU of the bilinear decoder's masks.

        Args:
            sam: provides the decoder's `output_upscaling`.
            embedding: (B, C, 32, 32).
            segments: per window, (h, w) int32 at the window's resolution.
            pixels: per window, the prompts as int64 (P, 2) XY.
            weights: of `mask_loss`.
        """
        dense = F.pixel_shuffle(self.dense(embedding), STRIDE // AUX_STRIDE)
        normed = F.layer_norm(embedding.permute(0, 2, 3, 1), (embedding.shape[1],)).permute(0, 3, 1, 2)
        fine = sam.mask_decoder.output_upscaling(normed)
        total, ious = embedding.new_zeros((), dtype=torch.float32), []
        for b, window in enumerate(segments):
            coarse = np.ascontiguousarray(window[::AUX_STRIDE, ::AUX_STRIDE])
            h, w = coarse.shape
            boundary, offset, weight = (torch.from_numpy(a) for a in dense_targets(coarse))
            prediction = dense[b, :, :h, :w].float()
            positive = prediction.new_tensor(3.0)
            boundary_loss = F.binary_cross_entropy_with_logits(prediction[0], boundary, pos_weight=positive)
            offset_loss = F.smooth_l1_loss(prediction[1:], offset, reduction="none", beta=0.3).sum(0) * weight
            x, y = pixels[b].T
            features = torch.cat([embedding[b][:, y // STRIDE, x // STRIDE], fine[b][:, y // 2, x // 2]]).T
            logits = torch.einsum("nc,chw->nhw", self.query(features), fine[b][:, : 2 * h : 2, : 2 * w : 2]).float()
            ids = torch.from_numpy(window)[y, x]
            target = (torch.from_numpy(coarse) == ids[:, None, None]).float()
            present = target.amax((1, 2)) > 0
            masks = mask_loss(logits, target, weights)[present].mean()
            total = total + (boundary_loss + offset_loss.mean() + masks) / len(segments)
            ious.append(float(mask_iou(logits.detach(), target)[present].mean()))
        return total, float(np.mean(ious))
