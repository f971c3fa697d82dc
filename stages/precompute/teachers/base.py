"""The interface of a TA: a function from views to logits at the model's own output stride."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from pipeline.core.components import Component
from pipeline.core.errors import ImageError, UserError
from pipeline.core.reading import error_text
from pipeline.execution.devices import BatchSize, Precision, inference_context
from pipeline.models.network import Network
from pipeline.models.normalization import Deviation
from pipeline.models.weights import load_into

#: Views RGB uint8 (N, h, w, 3) -> logits float32 (N, C, h', w').
Infer = Callable[[np.ndarray], np.ndarray]


class Teacher(Component):
    """Any semantic segmentation model."""

    precision: Precision = Field("float32", description="float16 or bfloat16 run under autocast.")
    batch_size: int = Field(4, ge=1, json_schema_extra={"in_key": False}, description="Views a forward pass.")
    scale: float = Field(
        1.0, ge=1 / 16, le=4, description="Enlarge the views by this for the model; logits keep their size."
    )
    flip: bool = Field(False, description="Average the logits with those of the mirrored view.")

    def build(self, device: str) -> Infer:
        """Loads the model, once a worker. Raises `UserError` if it cannot be loaded."""
        return inference(self, self.network(device), device)

    def network(self, device: str) -> Network:
        """Loads the network alone, for TA adaptation. Raises `UserError` if it cannot be loaded, or there is none."""
        raise UserError(f"teacher.model.kind: {self.kind!r} cannot be adapted; expected a TA with a network")


class NormalizedTeacher(Teacher):
    """A TA whose settings give mean and standard deviation of RGB pixels; the defaults are those of ImageNet."""

    mean: tuple[float, float, float] = Field((123.675, 116.28, 103.53), description="RGB mean, 0..255.")
    std: tuple[Deviation, Deviation, Deviation] = Field(
        (58.395, 57.12, 57.375), description="RGB standard deviation, 0..255."
    )


def load_checkpoint(model: Any, checkpoint: Path | None, random_weights: bool, what: str) -> None:
    """Loads a TA's weights strictly. Raises `UserError` if there are none and the settings ask for no random ones."""
    if checkpoint is not None:
        load_into(model, checkpoint, what)
    elif not random_weights:
        raise UserError("teacher.model.checkpoint: is missing; expected the weights of the TA")


def inference(settings: Teacher, network: Network, device: str) -> Infer:
    """Returns a network as `Infer`, at the precision, flip and batch size (halved where memory runs out) of `settings`.

    Enlarged views give logits at the same output stride: these are resized to the size for views of scale 1. `Infer`
    raises `ImageError` for views that the network cannot run on.
    """
    import torch

    batches = BatchSize(settings.batch_size)

    def infer_batch(views: np.ndarray) -> np.ndarray:
        inputs = network.inputs(views, device)
        with inference_context(device, settings.precision):
            logits = network(inputs).float()
            if settings.flip:
                logits = (logits + network(inputs.flip(-1)).float().flip(-1)) / 2
        if network.scale != 1:
            stride = round(inputs.shape[-1] / logits.shape[-1])
            size = [-(-side // stride) for side in views.shape[1:3]]
            logits = torch.nn.functional.interpolate(logits, size, mode="bilinear")
        return logits.cpu().numpy()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def infer(views: np.ndarray) -> np.ndarray:
        try:
            parts = [logits for _, logits in batches.run(lambda part: infer_batch(views[part]), len(views))]
        except RuntimeError as error:
            height, width = views.shape[1:3]
            raise ImageError(f"the TA cannot run on views of {height} x {width} ({error_text(error)})") from None
        return np.concatenate(parts)

    return infer
