"""Pools that run functions: in threads, in processes of a local dask cluster, or on an existing dask scheduler.

The only module that starts or uses dask clusters. It retries nothing: a function that was lost raises `WorkerDied`. All
processes that it starts listen on 127.0.0.1 only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TypeVar

from pipeline.core.errors import UserError, print_warnings_once

T = TypeVar("T")

#: Timeout of a connection to an existing scheduler.
CONNECT_SECONDS = 20.0

#: Time without workers after which the run ends.
WORKERS_SECONDS = 300.0

#: Interval at which the workers are counted.
COUNT_SECONDS = 2.0

#: The only address on which a local cluster listens.
LOCALHOST = "127.0.0.1"

#: Loggers that repeat errors which this module raises.
_LOGGERS = ("distributed", "distributed.client", "distributed.gc", "tornado", "tornado.application", "asyncio")


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


class DaskPool(Pool):
    """The workers of a dask scheduler, whose number may change. `note` informs the user about a wait."""

    def __init__(self, client: Any, executor: Executor, scheduler: str, note: Callable[[str], None]) -> None:
        super().__init__(executor, width=0)
        self._client, self._scheduler, self._note = client, scheduler, note
        self._counted = -COUNT_SECONDS
        self._no_workers_since: float | None = None

    def submit(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        from distributed.client import ClosedClientError

        try:
            return super().submit(_run_in_worker, function, *arguments)
        except ClosedClientError:
            raise self._lost() from None

    def width(self) -> int:
        if time.monotonic() - self._counted >= COUNT_SECONDS:
            self._count_workers()
        return max(1, self._width)

    def wait(self, futures: Collection[Future[T]]) -> set[Future[T]]:
        while not (done := wait(futures, timeout=COUNT_SECONDS, return_when=FIRST_COMPLETED).done):
            self._count_workers()
        return done

    def result(self, future: Future[T]) -> T:
        try:
            return super().result(future)
        except CancelledError:
            raise self._lost() from None
        except Exception as error:
            if is_worker_death(error):
                raise WorkerDied(str(error)) from None
            raise

    def _count_workers(self) -> None:
        """Counts the workers' threads. Raises `UserError` if the scheduler is lost, or too long without workers."""
        try:
            workers = self._client.nthreads(callback_timeout=CONNECT_SECONDS)
        except (OSError, CancelledError, RuntimeError, AttributeError):  # AttributeError: a closed client
            raise self._lost() from None
        now = self._counted = time.monotonic()
        self._width = sum(workers.values())
        if self._width:
            self._no_workers_since = None
        elif self._no_workers_since is None:
            self._no_workers_since = now
            self._note(f"the dask scheduler {self._scheduler} has no workers: waiting for the first")
        elif now - self._no_workers_since >= WORKERS_SECONDS:
            raise UserError(
                f"--scheduler {self._scheduler}: no worker came within {WORKERS_SECONDS:.0f} seconds; what was "
                "finished is kept, the same command goes on from there"
            )

    def _lost(self) -> UserError:
        return UserError(
            f"the dask scheduler {self._scheduler} has ended or was restarted; what was finished is kept, the same "
            "command goes on from there"
        )


def _run_in_worker(function: Callable[..., T], *arguments: Any) -> T:
    """Runs a function in a worker process, whose warnings are printed as those of the command."""
    _print_warnings_once()
    return function(*arguments)


_print_warnings_once = cache(print_warnings_once)  # of several calls in a process only the first counts


def is_worker_death(error: BaseException) -> bool:
    """Returns whether dask gave up a function because each worker that ran it died."""
    from distributed.scheduler import KilledWorker

    return isinstance(error, KilledWorker)


@contextmanager
def existing_cluster(scheduler: str, note: Callable[[str], None]) -> Iterator[DaskPool]:
    """Yields the workers of the scheduler at an address such as `tcp://10.0.0.1:8786`.

    Raises `UserError` if no scheduler answers there.
    """
    from dask.distributed import Client

    with _quiet():
        try:
            with ThreadPoolExecutor(1) as thread:  # the calling thread may run an event loop
                thread.submit(asyncio.run, _connect(scheduler)).result()
            client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:  # TypeError: tls:// without certificates
            raise UserError(
                f"--scheduler {scheduler}: no dask scheduler answers there ({error}); expected an address such as "
                "tcp://10.0.0.1:8786"
            ) from None
        with client, _executor(client) as executor:
            yield DaskPool(client, executor, scheduler, note)


async def _connect(scheduler: str) -> None:
    """Connects once. A `Client` that cannot connect prints errors, and needs a minute to give up."""
    from distributed.comm import connect
    from distributed.security import Security

    comm = await connect(scheduler, timeout=CONNECT_SECONDS, **Security().get_connection_args("client"))
    await comm.close()


@contextmanager
def local_cluster(workers: int, threads: int, note: Callable[[str], None]) -> Iterator[DaskPool]:
    """Yields `workers` new processes on this machine, with `threads` threads each."""
    import dask
    from dask.distributed import Client, LocalCluster

    settings = {
        "distributed.nanny.pre-spawn-environ": _environment(workers),
        "distributed.scheduler.http.routes": [],  # the HTTP servers have no users
        "distributed.worker.http.routes": [],
    }
    with _quiet():
        with _ignore_sigint(), dask.config.set(settings):
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=threads,
                processes=True,
                host=LOCALHOST,
                dashboard_address=f"{LOCALHOST}:0",  # dask always starts an HTTP server
                scheduler_kwargs={"dashboard": False},
                memory_limit=0,
                silence_logs="CRITICAL",
            )
        with cluster, Client(cluster, set_as_default=False) as client, _executor(client) as executor:
            yield DaskPool(client, executor, cluster.scheduler_address, note)


@contextmanager
def _executor(client: Any) -> Iterator[Executor]:
    """Yields dask's executor. After an error it does not wait for pending functions: there may be no worker."""
    executor: Executor = client.get_executor(pure=False)
    try:
        yield executor
    except BaseException:
        with suppress(Exception):  # the scheduler may be lost
            executor.shutdown(wait=False)
        raise
    executor.shutdown()


def _environment(workers: int) -> dict[str, str]:
    """Returns the environment of a local cluster's processes, in place of dask's.

    Dask's gives each process one thread, and makes glibc return every freed tensor to the system: a model on a CPU then
    spends half its time on page faults.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, cores // workers))
    return {name: os.environ.get(name, threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


@contextmanager
def _ignore_sigint() -> Iterator[None]:
    """Makes processes started inside ignore Ctrl-C, which a terminal sends to all; this process ends the run."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences dask's log in this process; problems are raised or noted."""
    import distributed  # noqa: F401  (its import sets the levels of its loggers)

    levels = {logger: logger.level for logger in map(logging.getLogger, _LOGGERS)}
    try:
        for logger in levels:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
