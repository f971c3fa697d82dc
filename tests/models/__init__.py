"""Small real models for tests, named in settings as `tests.models:name`."""

from __future__ import annotations

import numpy as np
import torch


def tiny_teacher(classes: int = 19, stride: int = 4, seed: int = 0) -> torch.nn.Module:
    """A real convolutional TA with fixed random weights and the given output stride."""
    generator = torch.Generator().manual_seed(seed)
    layer = torch.nn.Conv2d(3, classes, kernel_size=stride, stride=stride)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.5)
        layer.bias.zero_()
    return layer


def batch_norm_teacher() -> torch.nn.Module:
    """The TA `tiny_teacher` with batch norm of its input."""
    return torch.nn.Sequential(torch.nn.BatchNorm2d(3), tiny_teacher())


def nan_teacher() -> torch.nn.Module:
    """A TA whose logits are NaN on bright images (mean above 0 after normalisation)."""

    class Nan(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = tiny_teacher()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = self.layer(images)
            return torch.where(images.mean() > 1.0, torch.full_like(logits, float("nan")), logits)

    return Nan()


def hungry_teacher(most: int = 2) -> torch.nn.Module:
    """`tiny_teacher` on a device whose memory is full beyond a batch of `most`."""

    class Hungry(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = tiny_teacher()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            logits: torch.Tensor = self.layer(images)
            return logits

    return Hungry()


def street(height: int = 64, width: int = 256, seed: int = 0) -> np.ndarray:
    """A random picture of coloured blocks, RGB uint8 `(height, width, 3)`, cyclic in x."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    image = np.repeat(np.repeat(blocks, 16, axis=0), 16, axis=1)
    noise = rng.integers(-12, 13, image.shape)
    return np.clip(np.roll(image, 5, axis=1) + noise, 0, 255).astype(np.uint8)


def tiny_sam(image_size: int = 64) -> torch.nn.Module:
    """segment_anything's own Sam with a ViT of 2 blocks and 32 channels, random weights from a fixed seed."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)
    grid = image_size // 16
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=image_size, embed_dim=32, depth=2, num_heads=2, out_chans=32, window_size=0, use_rel_pos=True
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=32, image_embedding_size=(grid, grid), input_image_size=(image_size, image_size), mask_in_chans=8
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=32,
            transformer=TwoWayTransformer(depth=1, embedding_dim=32, num_heads=2, mlp_dim=32),
            num_multimask_outputs=3,
            iou_head_hidden_dim=32,
        ),
    )


def blob_sam(image_size: int = 256) -> torch.nn.Module:
    """A Sam without weights whose masks are blobs round their points, with ragged edges, islands and holes.

    Its three modules have the interfaces of segment_anything's. What they answer depends on the picture and the point
    alone, in closed form: quick, and the same in any batch.
    """
    from segment_anything.modeling import Sam
    from torch.nn.functional import avg_pool2d, interpolate

    grid = image_size // 16

    class Encoder(torch.nn.Module):
        img_size = image_size

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return avg_pool2d(images, 16)

    class Prompts(torch.nn.Module):
        image_embedding_size = (grid, grid)

        def get_dense_pe(self) -> torch.Tensor:
            return torch.zeros(1, 1, grid, grid)

        def forward(self, points: tuple, boxes: None, masks: None) -> tuple[torch.Tensor, torch.Tensor]:
            return points[0].float(), torch.zeros(len(points[0]), 1, grid, grid)

    class Decoder(torch.nn.Module):
        def forward(
            self,
            image_embeddings: torch.Tensor,
            image_pe: torch.Tensor,
            sparse_prompt_embeddings: torch.Tensor,
            dense_prompt_embeddings: torch.Tensor,
            multimask_output: bool,
        ) -> tuple[torch.Tensor, torch.Tensor]:
            side = 4 * grid
            x, y = sparse_prompt_embeddings[:, 0, :, None].unbind(1)
            kinds = torch.arange(3.0)
            chance = torch.sin(x * 12.9898 + y * 78.233 + kinds * 37.719).mul(43758.5453).frac().abs()
            place = (torch.arange(side) + 0.5) * image_size / side
            distance = torch.hypot(place - x[..., None, None], place[:, None] - y[..., None, None])
            texture = interpolate(image_embeddings[:, :1], size=side, mode="bicubic")
            speckle = torch.sin(place * 1.7) * torch.sin(place[:, None] * 1.3)
            radius = image_size * (0.04 + 0.25 * chance[..., None, None] ** 2)
            return (radius - distance) / 8 + texture + 1.5 * speckle, 0.2 + 0.75 * chance

    return Sam(Encoder(), Prompts(), Decoder())
