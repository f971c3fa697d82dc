"""A network with the preparation of its input images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.models.normalization import Normalization
from pipeline.models.weights import zero_subnormals


@dataclass(frozen=True)
class Network:
    """A network as a function from `inputs(views, device)` to logits `(N, C, h', w')` at its own output stride.

    Attributes:
        model: The `torch.nn.Module`, in evaluation mode; its subnormal weights become zero.
        scale: Factor by which views are enlarged.
        run: Call of the model, if `model(inputs)` does not return the logits.
    """

    model: Any
    normalization: Normalization
    scale: float = 1.0
    run: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        zero_subnormals(self.model)

    def inputs(self, views: np.ndarray, device: str) -> Any:
        """Returns RGB uint8 views `(N, h, w, 3)` as a float32 tensor `(N, 3, scale h, scale w)` on `device`."""
        from torch.nn.functional import interpolate

        batch = self.normalization.normalize_on(device, views)
        if self.scale == 1:
            return batch
        size = [max(1, round(side * self.scale)) for side in batch.shape[-2:]]
        return interpolate(batch, size, mode="bilinear")

    def __call__(self, inputs: Any) -> Any:
        return (self.run or self.model)(inputs)
