"""One training step of nano SAM: draws windows and prompts, encodes once, decodes on crops and on whole windows.

All random numbers of step `n` come from generators seeded by `(seed, n)`, and the schedule is a function of the step
alone. A resumed training therefore equals an uninterrupted one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from demo.sam.data import (
    LabelledImages,
    Prompts,
    Segments,
    Window,
    draw_pixels,
    draw_window,
    make_prompts,
    pixels_to_xy,
)
from demo.sam.decode import CROP, MAX_SIDE, crop_embeddings, decode_masks, draw_crop, embed_prompts
from demo.sam.losses import DenseTasks, LossWeights, prompt_loss
from demo.sam.model import GRID, MASK_STRIDE, STRIDE

Precision = Literal["bfloat16", "float32"]


@dataclass(frozen=True)
class Recipe:
    """The training recipe. Steps are optimiser steps, prompts are per window.

    Attributes:
        panoramas, pinholes: windows of each camera per step.
        window_prompts: prompts decoded on the whole window, half of them uniform over pixels.
        crop_prompts: prompts decoded on a crop, uniform over the segments that fit.
        box_share: share of the prompts that are boxes.
        dense_points: points of the auxiliary bilinear decoder.
        dense_steps, balanced_steps: first steps, with the auxiliary tasks only, then with the balanced loss only.
        balanced_end: step at which the balanced loss has faded out.
        mean_end: step from which the best of the three masks has nearly all of the loss.
        learning_rate, warm_up, weight_decay: of AdamW; peak rate and steps of the linear warm-up.
        ema: decay of the average of the weights.
        seed: of weights and data.
    """

    panoramas: int = 3
    pinholes: int = 1
    window_prompts: int = 8
    crop_prompts: int = 24
    box_share: float = 0.2
    dense_points: int = 48
    dense_steps: int = 150
    balanced_steps: int = 100
    balanced_end: int = 900
    mean_end: int = 700
    learning_rate: float = 1.5e-3
    warm_up: int = 80
    weight_decay: float = 0.01
    ema: float = 0.998
    seed: int = 0

    def rng(self, step: int) -> np.random.Generator:
        """Returns the generator of the data of a step."""
        return np.random.default_rng([self.seed, step])

    def loss_weights(self, step: int) -> LossWeights:
        """Returns the weights of the losses at a step."""
        mean_share = max(0.1, 1 - max(0, step - self.dense_steps) / (self.mean_end - self.dense_steps))
        if step < self.dense_steps + self.balanced_steps:
            return LossWeights(dice=0.0, balanced=0.5, scaled=0.0, mean_share=mean_share)
        fade = min(1.0, step / self.balanced_end)
        return LossWeights(dice=1.0, balanced=0.5 * (1 - fade), scaled=0.7 * fade, mean_share=mean_share)

    def auxiliary_weight(self, step: int) -> float:
        """Returns the weight of the auxiliary tasks at a step."""
        return 1.0 if step < self.dense_steps else 0.4


@dataclass(frozen=True)
class Losses:
    """Losses and mean IoUs over the prompts of a step, for the log."""

    total: float
    auxiliary: float
    bilinear_iou: float
    window_iou: float
    crop_iou: float


def preprocess_images(sam: Sam, images: list[np.ndarray]) -> Tensor:
    """Converts images (h, w, 3) uint8 of at most 256 x 256 to the encoder's input (B, 3, 256, 256) float32."""
    return torch.stack([sam.preprocess(torch.from_numpy(image).permute(2, 0, 1).float()) for image in images])


def target_masks(segments: Tensor, numbers: Tensor) -> Tensor:
    """Returns the masks (N, H/2, W/2), at the decoder's resolution, of one segment each.

    Args:
        segments: (N, H, W) int64.
        numbers: (N,) number of the segment.
    """
    return F.avg_pool2d((segments == numbers[:, None, None]).float(), MASK_STRIDE)


def _pad_segments(segments: Segments) -> Tensor:
    """Returns segments (h, w) as int64 (256, 256), padded with -1."""
    h, w = segments.shape
    side = GRID * STRIDE
    return F.pad(torch.from_numpy(segments).long(), (0, side - w, 0, side - h), value=-1)


@dataclass(frozen=True)
class _WindowPrompts:
    """Prompts on a whole window, prompts on crops of it, and the corners of the crops."""

    whole: Prompts
    cropped: Prompts
    corners: list[tuple[int, int]]


def _draw_prompts(window: Window, recipe: Recipe, rng: np.random.Generator) -> _WindowPrompts:
    segments = window.segments
    cells = segments.shape[0] // STRIDE, segments.shape[1] // STRIDE
    pixels = draw_pixels(segments, recipe.window_prompts, rng)
    crop_pixels = draw_pixels(segments, recipe.crop_prompts, rng, by_pixel=0.0, largest=MAX_SIDE)
    cropped = make_prompts(segments, crop_pixels, round(recipe.box_share * len(crop_pixels)), rng)
    corners = [draw_crop(low, high, cells, rng) for low, high in cropped.extent]
    whole = make_prompts(segments, pixels, round(recipe.box_share * len(pixels)), rng)
    return _WindowPrompts(whole, cropped, corners)


def _embed(sam: Sam, prompts: Prompts) -> Tensor:
    return embed_prompts(sam, torch.from_numpy(prompts.points), torch.from_numpy(prompts.boxes))


def _is_box(prompts: Prompts) -> Tensor:
    return torch.arange(len(prompts.target)) >= len(prompts.points)


def draw_batch(
    panoramas: LabelledImages, pinholes: LabelledImages, recipe: Recipe, rng: np.random.Generator
) -> list[Window]:
    """Draws the windows of a step.

    Every step has the same number of windows of each camera, because a batch shares its normalization statistics.
    """
    kinds = [(panoramas, recipe.panoramas), (pinholes, recipe.pinholes)]
    return [draw_window(images, rng) for images, count in kinds for _ in range(count)]


def step_loss(
    sam: Sam, tasks: DenseTasks, windows: list[Window], recipe: Recipe, step: int, precision: Precision
) -> tuple[Tensor, Losses]:
    """Returns the loss of one step, with gradient, and its parts for the log."""
    rng = np.random.default_rng([recipe.seed, step, 1])
    weights = recipe.loss_weights(step)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        embedding = sam.image_encoder(preprocess_images(sam, [window.image for window in windows]))
        points = [
            torch.from_numpy(pixels_to_xy(draw_pixels(w.segments, recipe.dense_points, rng), w.segments.shape[1]))
            for w in windows
        ]
        auxiliary, bilinear = tasks(sam, embedding, [window.segments for window in windows], points, weights)
        total = recipe.auxiliary_weight(step) * auxiliary
        if step < recipe.dense_steps:
            return total, Losses(float(total.detach()), float(auxiliary.detach()), bilinear, 0.0, 0.0)
        prompts = [_draw_prompts(window, recipe, rng) for window in windows]
        window_loss, window_iou = _window_loss(sam, embedding, windows, prompts, weights, padded=step % 4 == 0)
        crop_loss, crop_iou = _crop_loss(sam, embedding, windows, prompts, weights)
    total = total + torch.cat([window_loss, crop_loss]).mean()
    return total, Losses(float(total.detach()), float(auxiliary.detach()), bilinear, window_iou, crop_iou)


def _window_loss(
    sam: Sam,
    embedding: Tensor,
    windows: list[Window],
    prompts: list[_WindowPrompts],
    weights: LossWeights,
    padded: bool,
) -> tuple[Tensor, float]:
    """Returns the loss (N,) of prompts on whole windows and the mean IoU of the best of three masks.

    `padded` decodes the padding below the image too, as inference does; without it a step is cheaper.
    """
    encoding = sam.prompt_encoder.get_dense_pe()
    losses, ious = [], []
    for b, (window, whole) in enumerate(zip(windows, (p.whole for p in prompts), strict=True)):
        rows = GRID if padded else window.segments.shape[0] // STRIDE
        n = len(whole.target)
        logits, predicted = decode_masks(
            sam,
            embedding[b : b + 1, :, :rows].expand(n, -1, -1, -1),
            encoding[:, :, :rows].expand(n, -1, -1, -1),
            _embed(sam, whole),
        )
        truth = target_masks(torch.from_numpy(window.segments).expand(n, -1, -1), torch.from_numpy(whole.target))
        logits = logits[:, :, : truth.shape[1], : truth.shape[2]].float()
        loss, iou = prompt_loss(logits, predicted.float(), truth, _is_box(whole), weights)
        losses.append(loss)
        ious.append(iou)
    return torch.cat(losses), float(torch.cat(ious)[:, 1:].amax(1).mean())


def _crop_loss(
    sam: Sam, embedding: Tensor, windows: list[Window], prompts: list[_WindowPrompts], weights: LossWeights
) -> tuple[Tensor, float]:
    """Returns the loss (N,) of prompts on crops, all windows at once, and the mean IoU of the best of three masks."""
    counts = torch.tensor([len(p.cropped.target) for p in prompts])
    if not counts.sum():
        return embedding.new_zeros(0, dtype=torch.float32), 0.0
    window = torch.repeat_interleave(torch.arange(len(prompts)), counts)
    row, column = torch.tensor([corner for p in prompts for corner in p.corners]).T
    encoding = sam.prompt_encoder.get_dense_pe()
    logits, predicted = decode_masks(
        sam,
        crop_embeddings(embedding, window, row, column),
        crop_embeddings(encoding, torch.zeros_like(window), row, column),
        torch.cat([_embed(sam, p.cropped) for p in prompts if len(p.cropped.target)]),
    )
    segments = [_pad_segments(w.segments) for w in windows]
    side = CROP * STRIDE
    crops = torch.stack(
        [
            segments[w][STRIDE * r : STRIDE * r + side, STRIDE * c : STRIDE * c + side]
            for w, r, c in zip(window.tolist(), row.tolist(), column.tolist(), strict=True)
        ]
    )
    truth = target_masks(crops, torch.from_numpy(np.concatenate([p.cropped.target for p in prompts])))
    is_box = torch.cat([_is_box(p.cropped) for p in prompts])
    loss, iou = prompt_loss(logits.float(), predicted.float(), truth, is_box, weights)
    return loss, float(iou[:, 1:].amax(1).mean())
