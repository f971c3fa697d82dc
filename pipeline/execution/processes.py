"""Processes that train one model together: each takes a part of every batch, and all step by the sum of gradients."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError

if TYPE_CHECKING:
    from torch.nn import Parameter


@dataclass(frozen=True)
class Member:
    """One of `count` processes."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def add_up(self, parameters: Sequence[Parameter], figures: Mapping[str, float]) -> dict[str, float]:
        """Replaces the gradients of `parameters` by their sums over all processes; returns the sums of `figures`."""
        if self.count == 1:
            return dict(figures)
        import torch

        sums = torch.tensor(list(figures.values()), dtype=torch.float64, device=parameters[0].device)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for values in (*(parameter.grad for parameter in parameters), sums):
            torch.distributed.all_reduce(values)
        return dict(zip(figures, sums.tolist(), strict=True))


def run_together(work: Callable[..., None], count: int, device: str, *arguments: Any) -> None:
    """Runs `work(member, device, *arguments)` in `count` new processes, and waits for all of them.

    On CUDA each process gets a GPU of its own. `work` and its arguments are pickled. Raises `UserError` if there are
    fewer GPUs, or one process raised it.
    """
    import torch

    if device != "cpu" and torch.cuda.device_count() < count:
        raise UserError(f"--processes: found {torch.cuda.device_count()} GPUs; expected {count} or more")
    context = torch.multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        settings = count, device.partition(":")[0], meeting, os.getpid(), errors, work, arguments
        try:
            torch.multiprocessing.spawn(_join, settings, nprocs=count)
        except torch.multiprocessing.ProcessExitedException:
            if errors.empty():
                raise
            raise UserError(errors.get()) from None


def _join(
    rank: int,
    count: int,
    device: str,
    meeting: str,
    parent: int,
    errors: Any,
    work: Callable[..., None],
    arguments: Sequence[Any],
) -> None:
    import torch

    if os.getppid() != parent:  # it was killed, and nobody waits for this process
        sys.exit(1)
    torch.distributed.init_process_group(
        "gloo" if device == "cpu" else "nccl", init_method=meeting, rank=rank, world_size=count
    )
    try:
        work(Member(rank, count), device if device == "cpu" else f"{device}:{rank}", *arguments)
        torch.distributed.barrier()
    except UserError as error:
        if rank == 0:
            errors.put(str(error))
        sys.exit(1)
    finally:
        torch.distributed.destroy_process_group()
