"""Nano SAM: segment_anything's `Sam`, prompt encoder and mask decoder behind a small convolutional image encoder.

Its input fits the demo's half-size windows (200 x 256, which `Sam.preprocess` pads to 256 x 256). Any other image is
resized first, as with every SAM.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SIZE = 256
STRIDE = 8
GRID = IMAGE_SIZE // STRIDE
#: Channels of the image embedding; the mask features of the decoder have an eighth of them.
DIM = 96
#: Image pixels per mask pixel (masks are 128 x 128).
MASK_STRIDE = STRIDE // 4
_CHANNELS = (24, 48, 96, 144, 176)  # of the encoder at stride 2, 4, 8, 16, 32


def _conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class ResidualBlock(nn.Module):
    """A depthwise 5 x 5 convolution and two pointwise ones with an expansion of 2, plus identity; (B, C, h, w)."""

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
        return x + self.body(x)


def _blocks(channels: int, count: int) -> list[ResidualBlock]:
    return [ResidualBlock(channels) for _ in range(count)]


class NanoEncoder(nn.Module):
    """Image encoder: a feature pyramid down to stride 32 and back up to 8.

    Strides 2 and 4 enter the embedding by `pixel_unshuffle`, which preserves edges inside a cell of the grid. Two
    channels of pixel coordinates are appended to the image.
    """

    coordinates: Tensor

    def __init__(self, img_size: int = IMAGE_SIZE, dim: int = DIM) -> None:
        super().__init__()
        self.img_size = img_size
        c2, c4, c8, c16, c32 = _CHANNELS
        self.stage2 = nn.Sequential(_conv_bn_relu(5, c2, 2), _conv_bn_relu(c2, c2))
        self.stage4 = nn.Sequential(_conv_bn_relu(c2, c4, 2), *_blocks(c4, 2))
        self.stage8 = nn.Sequential(_conv_bn_relu(c4, c8, 2), *_blocks(c8, 2))
        self.stage16 = nn.Sequential(_conv_bn_relu(c8, c16, 2), *_blocks(c16, 3))
        self.stage32 = nn.Sequential(_conv_bn_relu(c16, c32, 2), *_blocks(c32, 3))
        self.scene = nn.Conv2d(c32, c32, 1)
        self.from32 = nn.Conv2d(c32, dim, 1)
        self.from16 = nn.Conv2d(c16, dim, 1)
        self.merge16 = nn.Sequential(*_blocks(dim, 2))
        self.from8 = nn.Conv2d(c8, dim, 1)
        self.fold4 = nn.Conv2d(c4, 24, 1)
        self.fold2 = nn.Conv2d(c2, 6, 1)
        self.from_fine = nn.Conv2d(24 * 4 + 6 * 16, dim, 1)
        self.merge8 = nn.Sequential(*_blocks(dim, 1), _conv_bn_relu(dim, dim), *_blocks(dim, 2))
        self.out = nn.Conv2d(dim, dim, 1)
        self.norm = nn.GroupNorm(1, dim)
        nn.init.constant_(self.norm.weight, 0.5)
        line = torch.linspace(-1, 1, img_size)
        y, x = torch.meshgrid(line, line, indexing="ij")
        self.register_buffer("coordinates", torch.stack([x, y])[None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Encodes normalized images (B, 3, 256, 256) as embeddings (B, dim, 32, 32)."""
        x = torch.cat([image, self.coordinates.expand(len(image), -1, -1, -1)], dim=1)
        x = x.contiguous(memory_format=torch.channels_last)
        x2 = self.stage2(x)
        x4 = self.stage4(x2)
        x8 = self.stage8(x4)
        x16 = self.stage16(x8)
        x32 = self.stage32(x16)
        x32 = x32 + self.scene(x32.mean((2, 3), keepdim=True))
        fine = torch.cat([F.pixel_unshuffle(self.fold4(x4), 2), F.pixel_unshuffle(self.fold2(x2), 4)], dim=1)
        y = self.merge16(self.from16(x16) + _upsample2x(self.from32(x32)))
        y = self.merge8(self.from8(x8) + _upsample2x(y) + self.from_fine(fine))
        embedding: Tensor = self.norm(self.out(y))
        return embedding


def _upsample2x(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def build() -> Sam:
    """Returns nano SAM with initial weights: points and boxes, three masks, IoU head."""
    sam = Sam(
        image_encoder=NanoEncoder(),
        prompt_encoder=PromptEncoder(
            embed_dim=DIM, image_embedding_size=(GRID, GRID), input_image_size=(IMAGE_SIZE, IMAGE_SIZE), mask_in_chans=8
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
    _initialize_prompt_attention(sam)
    return sam


def _initialize_prompt_attention(sam: Sam) -> None:
    """Sets initial weights by which the prompt token attends to the prompt's location from the first step.

    The location reaches the image only by a match of positional encodings. With independent random query and key
    projections, a small decoder must learn the match first, which takes longer than all other training. Both
    projections of every cross attention are therefore initialized equal and orthogonal, the encoding gets three times
    the spatial frequency, and the embeddings that are added to it are scaled down.
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
            _tie_query_and_key(layer.cross_attn_token_to_image, 1.8)
            _tie_query_and_key(layer.cross_attn_image_to_token, 1.1)
            nn.init.constant_(layer.norm1.weight, 0.5)
        _tie_query_and_key(transformer.final_attn_token_to_image, 1.8)


def _tie_query_and_key(attention: nn.Module, scale: float) -> None:
    weight = torch.empty_like(attention.q_proj.weight)
    nn.init.orthogonal_(weight, scale)
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight.copy_(weight)
        nn.init.zeros_(projection.bias)
