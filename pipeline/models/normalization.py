"""The normalization of a network's input images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from pipeline.core.settings import Settings

if TYPE_CHECKING:
    import torch

#: A standard deviation of pixels, 0..255.
Deviation = Annotated[float, Field(gt=0)]


class Normalization(Settings):
    """`(pixel - mean) / std` for each channel of pixels 0..255."""

    channels: Literal["RGB", "BGR"] = Field("RGB", description="Order of the network's input channels.")
    mean: tuple[float, float, float] = Field((0.0, 0.0, 0.0), description="Mean, in the order of `channels`.")
    std: tuple[Deviation, Deviation, Deviation] = Field((1.0, 1.0, 1.0), description="Standard deviation, likewise.")

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """Returns RGB uint8 images `(..., H, W, 3)` as float32 `(..., 3, H, W)`."""
        ordered = images if self.channels == "RGB" else images[..., ::-1]
        planes = np.ascontiguousarray(np.moveaxis(ordered, -1, -3), dtype=np.float32)
        planes -= np.array(self.mean, np.float32)[:, None, None]
        planes /= np.array(self.std, np.float32)[:, None, None]
        return planes

    def normalize_on(self, device: str, images: np.ndarray) -> torch.Tensor:
        """Returns RGB uint8 images `(N, H, W, 3)` as a float32 tensor `(N, 3, H, W)` on `device`."""
        import torch

        # uint8 is copied to the device, and converted there
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float()
        if self.channels == "BGR":
            batch = batch.flip(1)
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (batch - mean) / std
