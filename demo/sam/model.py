"""Nano SAM: segment_anything's own `Sam`, prompt encoder and mask decoder behind a small convolutional encoder.

Made for the demo's half-size windows (200 x 256, padded to 256 x 256 by `Sam.preprocess`); any other image is
resized to them, as with every SAM. Knows nothing of data or training.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SIZE = 256
STRIDE = 8
GRID = IMAGE_SIZE // STRIDE
DIM = 96
"""Channels of the image embedding; the decoder's mask features have an eighth of them."""
MASK_STRIDE = STRIDE // 4
"""Pixels per pixel of the decoder's masks (128 x 128)."""
_CHANNELS = (24, 48, 96, 144, 176)
"""Of the encoder at stride 2, 4, 8, 16, 32."""


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Block(nn.Module):
    """Residual: depthwise 5 x 5, then two pointwise layers with twice the channels between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, 2 * channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        return x + self.body(x)


class NanoEncoder(nn.Module):
    """Image (B, 3, 256, 256), normalised, to embedding (B, `DIM`, 32, 32).

    A pyramid down to stride 32 and back up to 8. The finer levels enter the embedding by folding their pixels into
    channels, so that edges between the cells of the grid survive. Two channels of pixel coordinates are appended to
    the image inside, which leaves the interface as it is.
    """

    coordinates: Tensor

    def __init__(self, img_size: int = IMAGE_SIZE, dim: int = DIM) -> None:
        super().__init__()
        self.img_size = img_size
        c2, c4, c8, c16, c32 = _CHANNELS
        self.stage2 = nn.Sequential(_conv(5, c2, 2), _conv(c2, c2))
        self.stage4 = nn.Sequential(_conv(c2, c4, 2), Block(c4), Block(c4))
        self.stage8 = nn.Sequential(_conv(c4, c8, 2), Block(c8), Block(c8))
        self.stage16 = nn.Sequential(_conv(c8, c16, 2), Block(c16), Block(c16), Block(c16))
        self.stage32 = nn.Sequential(_conv(c16, c32, 2), Block(c32), Block(c32), Block(c32))
        self.scene = nn.Conv2d(c32, c32, 1)
        self.from32 = nn.Conv2d(c32, dim, 1)
        self.from16 = nn.Conv2d(c16, dim, 1)
        self.merge16 = nn.Sequential(Block(dim), Block(dim))
        self.from8 = nn.Conv2d(c8, dim, 1)
        self.fold4 = nn.Conv2d(c4, 24, 1)
        self.fold2 = nn.Conv2d(c2, 6, 1)
        self.from_fine = nn.Conv2d(24 * 4 + 6 * 16, dim, 1)
        self.merge8 = nn.Sequential(Block(dim), _conv(dim, dim), Block(dim), Block(dim))
        self.out = nn.Conv2d(dim, dim, 1)
        self.norm = nn.GroupNorm(1, dim)
        nn.init.constant_(self.norm.weight, 0.5)
        line = torch.linspace(-1, 1, img_size)
        y, x = torch.meshgrid(line, line, indexing="ij")
        self.register_buffer("coordinates", torch.stack([x, y])[None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, 256, 256) float to (B, dim, 32, 32)."""
        x = torch.cat([image, self.coordinates.expand(len(image), -1, -1, -1)], dim=1)
        x = x.contiguous(memory_format=torch.channels_last)
        x2 = self.stage2(x)
        x4 = self.stage4(x2)
        x8 = self.stage8(x4)
        x16 = self.stage16(x8)
        x32 = self.stage32(x16)
        x32 = x32 + self.scene(x32.mean((2, 3), keepdim=True))
        fine = torch.cat([F.pixel_unshuffle(self.fold4(x4), 2), F.pixel_unshuffle(self.fold2(x2), 4)], dim=1)
        y = self.merge16(self.from16(x16) + _twice(self.from32(x32)))
        y = self.merge8(self.from8(x8) + _twice(y) + self.from_fine(fine))
        embedding: Tensor = self.norm(self.out(y))
        return embedding


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def build() -> Sam:
    """Nano SAM with fresh weights: points and boxes, three masks, IoU head."""
    sam = Sam(
        image_encoder=NanoEncoder(),
        prompt_encoder=PromptEncoder(
            embed_dim=DIM,
            image_embedding_size=(GRID, GRID),
            input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
            mask_in_chans=8,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=DIM,
            transformer=TwoWayTransformer(depth=2, embedding_dim=DIM, mlp_dim=256, num_heads=2),
            num_multimask_outputs=3,
            activation=nn.ReLU,
            iou_head_depth=3,
            iou_head_hidden_dim=128,
        ),
    )
    _look_where_the_prompt_is(sam)
    return sam


def _look_where_the_prompt_is(sam: Sam) -> None:
    """Initial weights by which the prompt's token attends to its own place in the image from the first step.

    A prompt's place reaches the image through the match of positional encodings only. With independent random query
    and key projections the match has to be learned first, which takes a small decoder longer than all the rest. So
    both projections of every cross attention begin equal and orthogonal, the encoding has three times the spatial
    frequency, and what is added to it begins small.
    """
    with torch.no_grad():
        sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(3.0)
        for embedding in (
            *sam.prompt_encoder.point_embeddings,
            sam.prompt_encoder.not_a_point_embed,
            sam.prompt_encoder.no_mask_embed,
        ):
            embedding.weight.mul_(0.2)
        transformer = sam.mask_decoder.transformer
        for layer in transformer.layers:
            _tie(layer.cross_attn_token_to_image, 1.8)
            _tie(layer.cross_attn_image_to_token, 1.1)
            nn.init.constant_(layer.norm1.weight, 0.5)
        _tie(transformer.final_attn_token_to_image, 1.8)


def _tie(attention: nn.Module, scale: float) -> None:
    weight = torch.empty_like(attention.q_proj.weight)
    nn.init.orthogonal_(weight, scale)
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight.copy_(weight)
        nn.init.zeros_(projection.bias)
