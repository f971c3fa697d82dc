"""Pools that run functions in the calling thread or in threads; `pipeline.execution.dask_cluster` adds processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")


class WorkerDied(Exception):
    """The process that ran a function died, more than once."""


class Pool(ABC):
    """Runs functions. Its methods are called by one thread."""

    @abstractmethod
    def submit(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        """Starts `function(*arguments)`. Raises `UserError` if the pool is gone."""

    @abstractmethod
    def width(self) -> int:
        """How many functions can run at the same time at this moment, at least 1."""

    def wait(self, futures: Collection[Future[T]]) -> set[Future[T]]:
        """Waits for at least one of `futures`; returns those that are done.

        Raises `UserError` if the pool is gone.
        """
        return wait(futures, return_when=FIRST_COMPLETED).done

    def result(self, future: Future[T]) -> T:
        """What the function returned.

        Raises what the function raised, `WorkerDied` if its process died, and `UserError` if the pool is
        gone.
        """
        return future.result()


class InlinePool(Pool):
    """Runs at once in the calling thread."""

    def submit(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def width(self) -> int:
        return 1


class ThreadPool(Pool):
    """Runs in the threads of `executor`."""

    def __init__(self, executor: ThreadPoolExecutor, threads: int) -> None:
        self._executor, self._threads = executor, threads

    def submit(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        return self._executor.submit(function, *arguments)

    def width(self) -> int:
        return self._threads
