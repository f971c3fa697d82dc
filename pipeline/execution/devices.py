"""Which device a model runs on, and at which precision."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar

from pipeline.core.errors import ImageError, UserError

Precision = Literal["float32", "float16", "bfloat16"]
Result = TypeVar("Result")


def pick_device(device: str) -> str:
    """`auto` is CUDA where there is one (in the workers of a dask cluster a GPU each), else the CPU.

    Raises `UserError` for a device that is not there."""
    import torch

    if device == "auto":
        if not torch.cuda.is_available():
            return "cpu"
        number = _worker_number()
        return "cuda" if number is None else f"cuda:{number % torch.cuda.device_count()}"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device: found {device!r}, but torch sees no CUDA device; expected cpu or auto")
    try:
        return str(torch.device(device))
    except RuntimeError:
        raise UserError(f"device: found {device!r}, expected auto, cpu or cuda[:index]") from None


def _worker_number() -> int | None:
    """The number of this dask worker in its cluster (a local cluster names them 0, 1, ...); None outside of one."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return int(get_worker().name)
    except (ValueError, TypeError):
        return None


def autocast(device: str, precision: Precision) -> AbstractContextManager[Any]:
    """The context in which a model runs: full precision, or torch's autocast."""
    import torch

    if precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=getattr(torch, precision))


class BatchSize:
    """How many items a model gets at a time; halved, for good, whenever the device runs out of memory."""

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, infer: Callable[[slice], Result], count: int) -> Iterator[tuple[slice, Result]]:
        """Calls `infer` with consecutive slices of `range(count)`; yields each with its result, in order.

        A slice that did not fit is tried again in halves. Raises `ImageError` if a single item does not fit.
        """
        import torch

        first = 0
        while first < count:
            part = slice(first, min(first + self.size, count))
            try:
                result = infer(part)
            except torch.OutOfMemoryError:
                if part.stop - first == 1:
                    raise ImageError("the device has too little memory, even for a batch of one") from None
                self.size = (part.stop - first) // 2
            else:
                yield part, result
                first = part.stop
                continue
            # only here, where the exception is gone, and with it the frames that hold the tensors
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
