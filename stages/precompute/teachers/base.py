"""What a TA is to this pipeline: a function from views to logits at the model's own output stride."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import Field

from pipeline.components import Component
from pipeline.devices import Precision, autocast

#: Views RGB uint8 (N, h, w, 3) -> logits float32 (N, C, h', w').
Infer = Callable[[np.ndarray], np.ndarray]


class Teacher(Component):
    """Any semantic segmentation model."""

    precision: Precision = Field("float32", description="float16 or bfloat16 run under autocast.")
    batch_size: int = Field(4, ge=1, json_schema_extra={"in_key": False}, description="Views a forward pass.")

    @abstractmethod
    def build(self, device: str) -> Infer:
        """Loads the model, once a worker. Raises :class:`pipeline.errors.UserError` if it cannot be."""


def normalised_inference(
    model: Callable[[Any], Any],
    device: str,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    bgr: bool,
    precision: Precision,
    batch_size: int,
) -> Infer:
    """``model`` (float32 NCHW, normalised -> logits NCHW at its own stride) as :data:`Infer`.

    ``mean`` and ``std`` are on the 0..255 scale, in the order of the channels that the model takes.
    """
    import torch

    offset = torch.tensor(mean, device=device).view(1, -1, 1, 1)
    scale = torch.tensor(std, device=device).view(1, -1, 1, 1)

    @torch.inference_mode()
    def infer(views: np.ndarray) -> np.ndarray:
        results = []
        for first in range(0, len(views), batch_size):
            batch = torch.from_numpy(np.ascontiguousarray(views[first : first + batch_size])).to(device)
            batch = batch.permute(0, 3, 1, 2).float()
            if bgr:
                batch = batch.flip(1)
            with autocast(device, precision):
                logits = model((batch - offset) / scale)
            results.append(logits.float().cpu().numpy())
        return np.concatenate(results)

    return infer
