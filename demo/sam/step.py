"""One training step of nano SAM: draw windows and prompts, encode once, decode prompts on pieces and whole windows.

Everything random in step `n` comes from a generator seeded by `(seed, n)`, so a resumed training draws what an
undisturbed one would have drawn. The schedule is a function of the step alone, for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from demo.sam.data import Pictures, Prompts, Segments, Window, draw_pixels, draw_window, prompts_at
from demo.sam.decode import CROP, FITS, decode, draw_piece, pieces, prompt_tokens
from demo.sam.losses import DenseTasks, MaskWeights, prompt_loss
from demo.sam.model import GRID, MASK_STRIDE, STRIDE

Precision = Literal["bfloat16", "float32"]


@dataclass(frozen=True)
class Recipe:
    """What a step does. Steps are optimiser steps; prompts are per window."""

    panoramas: int = 3
    pinholes: int = 1
    whole: int = 8
    """prompts decoded on the whole window, half of them uniform over pixels"""
    pieces: int = 24
    """prompts decoded on a piece of it, uniform over the segments that fit"""
    boxes: float = 0.2
    """share of the prompts that are boxes"""
    dense: int = 48
    """points of the auxiliary bilinear decoder"""
    dense_only: int = 150
    """first steps, in which only the auxiliary tasks are trained"""
    balanced_only: int = 100
    """then so many steps with the balanced loss alone"""
    balanced_until: int = 900
    """step at which the balanced loss has faded out"""
    spread_until: int = 700
    """step from which (almost) only the best of the three masks learns"""
    learning_rate: float = 1.5e-3
    warm_up: int = 80
    weight_decay: float = 0.01
    ema: float = 0.998
    seed: int = 0

    def rng(self, step: int) -> np.random.Generator:
        """The generator of all that step `step` draws."""
        return np.random.default_rng([self.seed, step])

    def mask_weights(self, step: int) -> MaskWeights:
        """Weights of the mask loss at a step."""
        fade = min(1.0, step / self.balanced_until)
        if step < self.dense_only + self.balanced_only:
            return MaskWeights(dice=0.0, balanced=0.5, sized=0.0)
        return MaskWeights(dice=1.0, balanced=0.5 * (1 - fade), sized=0.7 * fade)

    def spread(self, step: int) -> float:
        """Share of the loss that goes to all three masks at a step."""
        return max(0.1, 1 - max(0, step - self.dense_only) / (self.spread_until - self.dense_only))

    def auxiliary(self, step: int) -> float:
        """Weight of the auxiliary tasks at a step."""
        return 1.0 if step < self.dense_only else 0.4


@dataclass(frozen=True)
class Losses:
    """Means over a step's prompts, for the log; without gradient."""

    total: float
    auxiliary: float
    bilinear_iou: float
    whole_iou: float
    piece_iou: float


def pad_segments(segments: Segments) -> Tensor:
    """Segments (h, w) as int64 (256, 256) with -1 below."""
    h, w = segments.shape
    side = GRID * STRIDE
    return F.pad(torch.from_numpy(segments).long(), (0, side - w, 0, side - h), value=-1)


def to_input(sam: Sam, images: list[np.ndarray]) -> Tensor:
    """Images (h, w, 3) uint8, at most 256 on each side, as the encoder's input (B, 3, 256, 256) float32."""
    return torch.stack([sam.preprocess(torch.from_numpy(image).permute(2, 0, 1).float()) for image in images])


def targets(segments: Tensor, prompts: Tensor) -> Tensor:
    """Segments (N, H, W) int64 and a number for each (N,), as masks (N, H/2, W/2) at the decoder's resolution."""
    return F.avg_pool2d((segments == prompts[:, None, None]).float(), MASK_STRIDE)


@dataclass(frozen=True)
class _Asked:
    """Prompts of one window."""

    whole: Prompts
    piece: Prompts
    corners: list[tuple[int, int]]


def _ask(window: Window, recipe: Recipe, rng: np.random.Generator) -> _Asked:
    segments = window.segments
    cells = segments.shape[0] // STRIDE, segments.shape[1] // STRIDE
    whole = draw_pixels(segments, recipe.whole, rng)
    piece = draw_pixels(segments, recipe.pieces, rng, by_pixel=0.0, largest=FITS)
    small = prompts_at(segments, piece, round(recipe.boxes * len(piece)), rng)
    corners = [draw_piece(low, high, cells, rng) for low, high in small.extent]
    return _Asked(prompts_at(segments, whole, round(recipe.boxes * len(whole)), rng), small, corners)


def _tokens(sam: Sam, prompts: Prompts) -> Tensor:
    return prompt_tokens(sam, torch.from_numpy(prompts.points), torch.from_numpy(prompts.boxes))


def _is_box(prompts: Prompts) -> Tensor:
    return torch.arange(len(prompts.target)) >= len(prompts.points)


def draw_batch(panoramas: Pictures, pinholes: Pictures, recipe: Recipe, rng: np.random.Generator) -> list[Window]:
    """The windows of a step; as many of each camera in every step, because they share the batch's statistics."""
    kinds = [(panoramas, recipe.panoramas), (pinholes, recipe.pinholes)]
    return [draw_window(pictures, rng) for pictures, count in kinds for _ in range(count)]


def step_loss(
    sam: Sam, tasks: DenseTasks, windows: list[Window], recipe: Recipe, step: int, precision: Precision
) -> tuple[Tensor, Losses]:
    """The loss of one step, with gradient, and what to log."""
    rng = np.random.default_rng([recipe.seed, step, 1])
    weights, spread = recipe.mask_weights(step), recipe.spread(step)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        embedding = sam.image_encoder(to_input(sam, [window.image for window in windows]))
        places = []
        for window in windows:
            pixels = draw_pixels(window.segments, recipe.dense, rng)
            width = window.segments.shape[1]
            places.append(torch.from_numpy(np.stack([pixels % width, pixels // width], axis=1)))
        auxiliary, bilinear = tasks(sam, embedding, [window.segments for window in windows], places, weights)
        total = recipe.auxiliary(step) * auxiliary
        if step < recipe.dense_only:
            return total, Losses(float(total.detach()), float(auxiliary.detach()), bilinear, 0.0, 0.0)
        asked = [_ask(window, recipe, rng) for window in windows]
        whole_loss, whole_iou = _whole(sam, embedding, windows, asked, weights, spread, all_rows=step % 4 == 0)
        piece_loss, piece_iou = _pieces(sam, embedding, windows, asked, weights, spread)
    parts = torch.cat([whole_loss, piece_loss])
    total = total + parts.mean()
    log = Losses(float(total.detach()), float(auxiliary.detach()), bilinear, whole_iou, piece_iou)
    return total, log


def _whole(
    sam: Sam,
    embedding: Tensor,
    windows: list[Window],
    asked: list[_Asked],
    weights: MaskWeights,
    spread: float,
    *,
    all_rows: bool,
) -> tuple[Tensor, float]:
    """Prompts on whole windows: (N,) losses and the best of three masks' mean IoU.

    `all_rows` decodes on the padding below the picture too, as inference does; without it, steps are cheaper.
    """
    encoding = sam.prompt_encoder.get_dense_pe()
    losses, ious = [], []
    for b, (window, ask) in enumerate(zip(windows, asked, strict=True)):
        rows = window.segments.shape[0] // STRIDE
        decoded = GRID if all_rows else rows
        n = len(ask.whole.target)
        logits, predicted = decode(
            sam,
            embedding[b : b + 1, :, :decoded].expand(n, -1, -1, -1),
            encoding[:, :, :decoded].expand(n, -1, -1, -1),
            _tokens(sam, ask.whole),
        )
        numbers = torch.from_numpy(ask.whole.target)
        truth = targets(torch.from_numpy(window.segments).expand(n, -1, -1), numbers)
        logits = logits[:, :, : truth.shape[1], : truth.shape[2]].float()
        loss, iou = prompt_loss(logits, predicted.float(), truth, _is_box(ask.whole), weights, spread)
        losses.append(loss)
        ious.append(iou)
    return torch.cat(losses), float(torch.cat(ious)[:, 1:].amax(1).mean())


def _pieces(
    sam: Sam, embedding: Tensor, windows: list[Window], asked: list[_Asked], weights: MaskWeights, spread: float
) -> tuple[Tensor, float]:
    """Prompts on pieces, those of all windows at once: (N,) losses and the best of three masks' mean IoU."""
    counts = torch.tensor([len(ask.piece.target) for ask in asked])
    if not counts.sum():
        return embedding.new_zeros(0, dtype=torch.float32), 0.0
    window = torch.repeat_interleave(torch.arange(len(asked)), counts)
    row, column = torch.tensor([corner for ask in asked for corner in ask.corners]).T
    encoding = sam.prompt_encoder.get_dense_pe()
    logits, predicted = decode(
        sam,
        pieces(embedding, window, row, column),
        pieces(encoding, torch.zeros_like(window), row, column),
        torch.cat([_tokens(sam, ask.piece) for ask in asked if len(ask.piece.target)]),
    )
    padded = [pad_segments(w.segments) for w in windows]
    side = CROP * STRIDE
    cut = torch.stack(
        [
            padded[w][STRIDE * r : STRIDE * r + side, STRIDE * c : STRIDE * c + side]
            for w, r, c in zip(window.tolist(), row.tolist(), column.tolist(), strict=True)
        ]
    )
    truth = targets(cut, torch.from_numpy(np.concatenate([ask.piece.target for ask in asked])))
    is_box = torch.cat([_is_box(ask.piece) for ask in asked])
    loss, iou = prompt_loss(logits.float(), predicted.float(), truth, is_box, weights, spread)
    return loss, float(iou[:, 1:].amax(1).mean())
