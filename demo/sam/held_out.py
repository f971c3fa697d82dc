"""The held-out curve: IoU of nano SAM's masks at points of windows that it never saw, through `Sam`'s own parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam

from demo.sam.data import Pictures, Window, cut_window, draw_pixels
from demo.sam.losses import mask_iou
from demo.sam.step import Precision, targets, to_input

SMALL = 500
"""Pixels below which a segment counts as small."""


@dataclass(frozen=True)
class HeldOut:
    """Windows with fixed points: `points` (N, 2) int64 XY each, the first half uniform over pixels."""

    windows: list[Window]
    points: list[NDArray[np.int64]]


def held_out_points(pictures: Pictures, windows: int, points: int, seed: int = 77) -> HeldOut:
    """The same windows and points for the same arguments: one window of each of the first `windows` pictures."""
    rng = np.random.default_rng(seed)
    cut = [cut_window(pictures, k, int(rng.integers(pictures.image.shape[2]))) for k in range(windows)]
    places = []
    for window in cut:
        pixels = draw_pixels(window.segments, points, rng)
        width = window.segments.shape[1]
        places.append(np.stack([pixels % width, pixels // width], axis=1).astype(np.int64))
    return HeldOut(cut, places)


@torch.no_grad()
def point_ious(sam: Sam, held_out: HeldOut, precision: Precision) -> dict[str, float]:
    """Mean IoU over the points: of the best of three masks (all, by how the points were drawn, by the segment's size)
    and of the mask with the highest predicted IoU. `sam` must be in evaluation mode."""
    best, chosen, by_pixel, small = [], [], [], []
    encoding = sam.prompt_encoder.get_dense_pe()
    for window, points in zip(held_out.windows, held_out.points, strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            embedding = sam.image_encoder(to_input(sam, [window.image]))
            foreground = torch.ones(len(points), 1, dtype=torch.int)
            sparse, dense = sam.prompt_encoder((torch.from_numpy(points)[:, None].float(), foreground), None, None)
            logits, predicted = sam.mask_decoder(
                image_embeddings=embedding,
                image_pe=encoding,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
        segments = torch.from_numpy(window.segments)
        asked = segments[points[:, 1], points[:, 0]]
        truth = targets(segments.expand(len(points), -1, -1), asked)
        logits = logits[:, :, : truth.shape[1], : truth.shape[2]].float()
        iou = mask_iou(logits, truth[:, None].expand_as(logits))
        best.append(iou.amax(1))
        chosen.append(iou.gather(1, predicted.argmax(1, keepdim=True))[:, 0])
        by_pixel.append(torch.arange(len(points)) < round(len(points) / 2))
        small.append((segments[None] == asked[:, None, None]).sum((1, 2)) < SMALL)
    best_, pixel, tiny = torch.cat(best), torch.cat(by_pixel), torch.cat(small)
    values = {
        "best_of_3": best_,
        "pixel_uniform": best_[pixel],
        "object_uniform": best_[~pixel],
        "small": best_[tiny],
        "large": best_[~tiny],
        "by_predicted_iou": torch.cat(chosen),
    }
    return {name: round(float(value.mean()), 4) for name, value in values.items()}
