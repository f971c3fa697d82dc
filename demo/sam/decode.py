"""Mask decoding of many prompts of several windows at once, each on a crop of its window's embedding.

segment_anything's `MaskDecoder.predict_masks` takes one image and repeats it for each prompt. Here every prompt has
its own crop of the embedding: a small segment is decoded on the cells around it at a fraction of the cost. On the
whole grid both give the same result.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import MaskDecoder, Sam
from torch import Tensor
from torch.nn import functional as F

from demo.sam.model import STRIDE

#: Side of a crop in cells of the embedding.
CROP = 12
#: Longest side, in pixels, of a segment that fits into a crop at any position.
MAX_SIDE = (CROP - 2) * STRIDE


def embed_prompts(sam: Sam, points: Tensor, boxes: Tensor) -> Tensor:
    """Returns the sparse embeddings (P + B, 2, C) of `points` (P, 2) XY and `boxes` (B, 4) XYXY in pixels."""
    tokens = []
    if len(points):
        foreground = torch.ones(len(points), 1, dtype=torch.int)
        tokens.append(sam.prompt_encoder((points[:, None], foreground), None, None)[0])
    if len(boxes):
        tokens.append(sam.prompt_encoder(None, boxes, None)[0])
    return torch.cat(tokens)


def decode_masks(sam: Sam, embedding: Tensor, encoding: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Decodes all four masks of each prompt.

    Args:
        sam: provides the mask decoder and the "no mask" embedding.
        embedding: (N, C, h, w), one crop per prompt.
        encoding: (N, C, h, w), the positional encoding of the same cells.
        tokens: (N, T, C), from `embed_prompts`.

    Returns:
        Logits (N, 4, 4h, 4w) and predicted IoU (N, 4); mask 0 is the single-mask output.
    """
    decoder = sam.mask_decoder
    n, _, h, w = embedding.shape
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([output_tokens.expand(n, -1, -1), tokens], dim=1)
    source = embedding + sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    tokens, source = decoder.transformer(source, encoding, tokens)
    filters = torch.stack([mlp(tokens[:, 1 + k]) for k, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1)
    logits = (filters @ _upscale(decoder, source).transpose(1, 2)).view(n, -1, h, w, 2, 2, 2, 2)
    # each cell has 2 x 2 pixels of 2 x 2 pixels
    logits = logits.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(n, -1, 4 * h, 4 * w)
    return logits, decoder.iou_prediction_head(tokens[:, 0])


def _upscale(decoder: MaskDecoder, source: Tensor) -> Tensor:
    """Applies `output_upscaling` to cells (N, h * w, C); returns (N, h * w * 16, C / 8), ordered by cell.

    A transposed convolution whose kernel equals its stride is a matrix product per cell, which a CPU computes faster.
    """
    first, norm, act, second, last = decoder.output_upscaling
    x = F.linear(source, first.weight.permute(2, 3, 1, 0).flatten(0, 2), first.bias.repeat(4))
    x = x.view(*source.shape[:2], 4, -1)
    x = act(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    x = last(F.linear(x, second.weight.permute(2, 3, 1, 0).flatten(0, 2), second.bias.repeat(4)))
    return x.reshape(len(source), -1, second.out_channels)


def crop_embeddings(embedding: Tensor, window: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Returns crops (N, C, CROP, CROP) of `embedding` (B, C, H, W).

    Args:
        embedding: the embeddings of the windows.
        window: (N,) index of the window.
        row, column: (N,) upper left cell of the crop.
    """
    cells = torch.arange(CROP)
    rows, columns = (row[:, None] + cells)[:, :, None], (column[:, None] + cells)[:, None, :]
    return embedding.permute(0, 2, 3, 1)[window[:, None, None], rows, columns].permute(0, 3, 1, 2)


def draw_crop(
    low: NDArray[np.intp], high: NDArray[np.intp], cells: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int]:
    """Draws a random crop that contains the pixels `low` to `high` of a segment.

    Args:
        low, high: (2,) first and last (row, column), inclusive, at most `MAX_SIDE` pixels apart.
        cells: rows and columns of the grid.
        rng: source of random numbers.

    Returns:
        Upper row and left column of the crop, in cells.
    """
    corner = []
    for first, last, count in zip(low, high, cells, strict=True):
        lowest = max(0, -(-(int(last) + 1) // STRIDE) - CROP)
        highest = min(int(first) // STRIDE, count - CROP)
        corner.append(int(rng.integers(lowest, highest + 1)))
    return corner[0], corner[1]
