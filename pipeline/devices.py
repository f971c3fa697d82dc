"""Which device a model runs on, and at which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from pipeline.errors import UserError

Precision = Literal["float32", "float16", "bfloat16"]


def pick_device(device: str) -> str:
    """``auto`` is CUDA where there is one, else the CPU. Raises :class:`UserError` for a device that is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device: found {device!r}, but torch sees no CUDA device; expected cpu or auto")
    try:
        return str(torch.device(device))
    except RuntimeError:
        raise UserError(f"device: found {device!r}, expected auto, cpu or cuda[:index]") from None


def autocast(device: str, precision: Precision) -> AbstractContextManager[Any]:
    """The context in which a model runs: full precision, or torch's autocast."""
    import torch

    if precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=getattr(torch, precision))
