"""The validation curve: IoU of nano SAM's masks at fixed points of held-out windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam

from demo.sam.data import LabelledImages, Window, crop_window, draw_pixels, pixels_to_xy
from demo.sam.losses import mask_iou
from demo.sam.measure import SMALL
from demo.sam.step import Precision, preprocess_images, target_masks


@dataclass(frozen=True)
class HeldOut:
    """Windows, each with points (N, 2) int64 XY, the first half uniform over pixels, the others over segments."""

    windows: list[Window]
    points: list[NDArray[np.int64]]


def draw_held_out(images: LabelledImages, windows: int, points: int, seed: int = 77) -> HeldOut:
    """Draws one window of each of the first `windows` images, and `points` per window, reproducibly."""
    rng = np.random.default_rng(seed)
    crops = [crop_window(images, k, int(rng.integers(images.image.shape[2]))) for k in range(windows)]
    pixels = [draw_pixels(window.segments, points, rng) for window in crops]
    widths = [window.segments.shape[1] for window in crops]
    return HeldOut(crops, [pixels_to_xy(p, w).astype(np.int64) for p, w in zip(pixels, widths, strict=True)])


@torch.no_grad()
def measure_point_ious(sam: Sam, held_out: HeldOut, precision: Precision) -> dict[str, float]:
    """Measures the mean IoU of the masks at the points.

    Args:
        sam: the model, in evaluation mode.
        held_out: windows and points.
        precision: of the network.

    Returns:
        IoU of the best of three masks over all points, by how the points were drawn and by the size of the segment,
        and of the mask with the highest predicted IoU.
    """
    best, chosen, by_pixel, small = [], [], [], []
    encoding = sam.prompt_encoder.get_dense_pe()
    for window, points in zip(held_out.windows, held_out.points, strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            embedding = sam.image_encoder(preprocess_images(sam, [window.image]))
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
        numbers = segments[points[:, 1], points[:, 0]]
        truth = target_masks(segments.expand(len(points), -1, -1), numbers)
        logits = logits[:, :, : truth.shape[1], : truth.shape[2]].float()
        iou = mask_iou(logits, truth[:, None].expand_as(logits))
        best.append(iou.amax(1))
        chosen.append(iou.gather(1, predicted.argmax(1, keepdim=True))[:, 0])
        by_pixel.append(torch.arange(len(points)) < round(len(points) / 2))
        small.append((segments[None] == numbers[:, None, None]).sum((1, 2)) < SMALL)
    best_iou, is_pixel, is_small = torch.cat(best), torch.cat(by_pixel), torch.cat(small)
    values = {
        "best_of_3": best_iou,
        "pixel_uniform": best_iou[is_pixel],
        "object_uniform": best_iou[~is_pixel],
        "small": best_iou[is_small],
        "large": best_iou[~is_small],
        "by_predicted_iou": torch.cat(chosen),
    }
    return {name: round(float(value.mean()), 4) for name, value in values.items()}
