"""The device that a model runs on, its precision, its batch size, and the memory of this process."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

from pipeline.core.errors import ImageError, UserError

Precision = Literal["float32", "float16", "bfloat16"]
Result = TypeVar("Result")

#: Parameters of glibc's `mallopt`, see malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def pick_device(device: str) -> str:
    """Returns the torch device of the setting `auto`, `cpu` or `cuda[:index]`. Raises `UserError` if there is none.

    `auto` is CUDA if available (a GPU for each worker of a dask cluster), otherwise the CPU.
    """
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
    """Returns the number of this dask worker (a local cluster names them 0, 1, ...); None outside a worker."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return int(get_worker().name)
    except (ValueError, TypeError):
        return None


@contextmanager
def inference_context(device: str, precision: Precision = "float32") -> Iterator[None]:
    """Runs a model at a precision, `float16` and `bfloat16` under torch's autocast.

    On a CPU, subnormal activations (below 1.2e-38 in float32) count as zero within the context: they change no logit,
    and arithmetic on them takes up to a hundred times as long. The mode belongs to the calling thread. Threads that
    torch starts within the context keep it.
    """
    import torch

    kind = torch.device(device).type
    flushed_before = sys.float_info.min / 2 == 0
    if kind == "cpu":
        torch.set_flush_denormal(True)
    try:
        with torch.autocast(kind, getattr(torch, precision), enabled=precision != "float32"):
            yield
    finally:
        if kind == "cpu":
            torch.set_flush_denormal(flushed_before)


class BatchSize:
    """The number of items in a forward pass; halved permanently when the device runs out of memory."""

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, infer: Callable[[slice], Result], count: int) -> Iterator[tuple[slice, Result]]:
        """Calls `infer` with consecutive slices of `range(count)`; yields each slice with its result, in order.

        A slice that does not fit is tried again in halves. Raises `ImageError` if a single item does not fit.
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
            # outside the handler: the exception's frames no longer hold the tensors
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def keep_freed_memory() -> bool:
    """Makes this process keep large freed blocks for later use, instead of returning them to the kernel.

    By default, glibc maps every large tensor anew, and the kernel zeroes its pages each time. A training on a CPU
    allocates tensors of the same sizes in every step and would spend a large part of its time so. Returns whether it is
    done; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018 (other C libraries have a mallopt of another meaning)
    except AttributeError:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
