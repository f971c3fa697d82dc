"""A pool that runs functions in threads; `dask_cluster` adds processes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, TypeVar

T = TypeVar("T")


class WorkerDied(Exception):
    """The process that ran a function died, more than once."""


class Pool:
    """Runs functions in the threads of `executor`, `width` at the same time. Its methods are called by one thread.

    Every method raises `UserError` if a pool of another machine is lost.
    """

    def __init__(self, executor: Executor, width: int) -> None:
        self._executor, self._width = executor, width

    def submit(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        """Starts `function(*arguments)`."""
        return self._executor.submit(function, *arguments)

    def width(self) -> int:
        """Returns how many functions can run at the same time now, at least 1."""
        return self._width

    def wait(self, futures: Collection[Future[T]]) -> set[Future[T]]:
        """Waits for at least one of `futures`, and returns those that are done."""
        return wait(futures, return_when=FIRST_COMPLETED).done

    def result(self, future: Future[T]) -> T:
        """Returns the function's result or raises its error; raises `WorkerDied` if its process died."""
        return future.result()
