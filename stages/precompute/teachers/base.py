"""What a TA is to this pipeline: a function from views to logits at the model's own output stride."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from pipeline.core.components import Component
from pipeline.core.errors import ImageError, UserError
from pipeline.core.reading import shortened
from pipeline.execution.devices import BatchSize, Precision, autocast

#: A standard deviation of pixels, 0..255.
Deviation = Annotated[float, Field(gt=0)]

#: Views RGB uint8 (N, h, w, 3) -> logits float32 (N, C, h', w').
Infer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Network:
    """A TA's network, float32 NCHW, normalised, to logits at its own stride, and what normalises its input."""

    model: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """on the scale 0..255, in the order of the channels that the model takes"""
    bgr: bool


class Teacher(Component):
    """Any semantic segmentation model."""

    precision: Precision = Field("float32", description="float16 or bfloat16 run under autocast.")
    batch_size: int = Field(4, ge=1, json_schema_extra={"in_key": False}, description="Views a forward pass.")
    scale: float = Field(
        1.0, ge=1 / 16, le=4, description="Enlarge the views by this for the model; logits keep their size."
    )
    flip: bool = Field(False, description="Average the logits with those of the mirrored view.")

    @abstractmethod
    def build(self, device: str) -> Infer:
        """Loads the model, once a worker. Raises `pipeline.core.errors.UserError` if it cannot be."""

    def network(self, device: str) -> Network:
        """The `torch.nn.Module` itself, for adaptation rounds; `pipeline.core.errors.UserError` if it has none."""
        raise UserError(
            f"teacher.model.kind: a TA of kind {self.kind!r} cannot be adapted; expected one with a network"
        )


def inference(settings: Teacher, network: Network, device: str) -> Infer:
    """A network as `Infer`, at the settings' precision, batch size (less where memory runs out), scale and flip.

    Enlarged by `scale`, a view gives logits at the same output stride: they are brought back to the size they would
    have had. The function raises `ImageError` for views that the network cannot run on.
    """
    import torch
    from torch.nn.functional import interpolate

    model, scale, batches = network.model, settings.scale, BatchSize(settings.batch_size)
    offset = torch.tensor(network.mean, device=device).view(1, -1, 1, 1)
    deviation = torch.tensor(network.std, device=device).view(1, -1, 1, 1)

    def logits_of(batch: Any) -> Any:
        height, width = batch.shape[-2:]
        if scale != 1:
            size = max(1, round(height * scale)), max(1, round(width * scale))
            batch = interpolate(batch, size, mode="bilinear")
        with autocast(device, settings.precision):
            logits = model(batch).float()
            if settings.flip:
                logits = (logits + model(batch.flip(-1)).float().flip(-1)) / 2
        if scale != 1:
            stride = round(batch.shape[-1] / logits.shape[-1])
            logits = interpolate(logits, (-(-height // stride), -(-width // stride)), mode="bilinear")
        return logits

    @torch.inference_mode()
    def infer_part(views: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(np.ascontiguousarray(views)).to(device)
        batch = batch.permute(0, 3, 1, 2).float()
        if network.bgr:
            batch = batch.flip(1)
        try:
            logits: np.ndarray = logits_of((batch - offset) / deviation).cpu().numpy()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            height, width = views.shape[1:3]
            reason = shortened(" ".join(str(error).split()))
            raise ImageError(f"the TA cannot run on views of {height} x {width} ({reason})") from None
        return logits

    def infer(views: np.ndarray) -> np.ndarray:
        return np.concatenate([logits for _, logits in batches.run(lambda part: infer_part(views[part]), len(views))])

    return infer
