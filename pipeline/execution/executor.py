"""Runs one task over many images: in this process, on a local dask cluster, or on an existing scheduler.

A task carries settings only; each worker opens it once (that is where models are loaded) and then gets image ids.
An image that fails is an outcome, not the end of the run. At most a few images a worker are in flight, so memory does
not grow with their number.

Work that says where its steps are (read, compute, write) is overlapped, in this process and in each worker of a local
cluster: while the model works on one image, the next is read and the one before is written. In this process with more
`threads`, and on an existing scheduler's workers, as many whole images overlap as there are threads.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import pickle
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any

from pipeline.core.errors import ImageError, UserError
from pipeline.core.progress import Progress, SilentProgress
from pipeline.data.manifests import ImageRecord
from pipeline.execution.dask_cluster import existing_cluster, local_cluster
from pipeline.execution.pools import InlinePool, Pool, ThreadPool, WorkerDied

#: What a task says about an image that it finished.
Summary = dict[str, Any]

#: Work on one image: a plain function, or a generator function that yields twice, after it has read and after it has
#: computed. A process takes only one step of each sort at a time (or as many as it was given threads).
Work = Callable[[ImageRecord], Summary | Generator[None, None, Summary]]

#: The steps of work that yields twice.
STEPS = ("reading", "computing", "writing")

#: Images in flight for each worker: one that runs and one that waits.
IN_FLIGHT_PER_WORKER = 2


class ImageTask(ABC):
    """Work on single images. Instances are small, picklable settings."""

    @abstractmethod
    def open(self) -> Work:
        """Loads what the work needs, once a worker; returns the function from an image to a small summary."""

    @abstractmethod
    def record_failure(self, image_id: str, reason: str) -> None:
        """Keeps the reason why an image failed."""


@dataclass(frozen=True)
class Execution:
    """How work is run; changes no result."""

    workers: int = 1  # processes; more than one starts a local dask cluster
    threads: int = 1  # images at a time in this process, or in each worker process
    scheduler: str | None = None  # address of an existing dask scheduler
    shard: tuple[int, int] | None = None  # (i, n): every n-th image, from the i-th

    @property
    def here_one_by_one(self) -> bool:
        """Whether this process does the work, an image at a time."""
        return self.scheduler is None and self.workers <= 1 and self.threads <= 1

    def select(self, records: Sequence[ImageRecord]) -> list[ImageRecord]:
        """This shard's part of `records`."""
        if self.shard is None:
            return list(records)
        index, count = self.shard
        ordered = sorted(records, key=lambda record: record.id)
        return [record for k, record in enumerate(ordered) if k % count == index]


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """`"i/n"` as `(i, n)`. Raises `UserError` unless 0 <= i < n."""
    if text is None:
        return None
    index, separator, count = text.partition("/")
    if not (separator and index.isdigit() and count.isdigit() and int(index) < int(count)):
        example = "0/3, 1/3, 2/3"
        if count.isdigit() and 0 < int(count) <= 8:
            example = ", ".join(f"{k}/{int(count)}" for k in range(int(count)))
        raise UserError(f"--shard {text}: expected i/n with 0 <= i < n; shards count from 0: {example}")
    return int(index), int(count)


@dataclass(frozen=True)
class Outcome:
    """What became of one image."""

    id: str
    seconds: float
    summary: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    steps: tuple[float, ...] = ()  # seconds of each step, without waiting for its turn


_opened: dict[str, Work] = {}
_opening = threading.Lock()


def _open(task_bytes: bytes) -> tuple[ImageTask, Work]:
    """The task, and its work, which is opened once a process."""
    task: ImageTask = pickle.loads(task_bytes)  # our own task, sent by this very program
    token = hashlib.sha256(task_bytes).hexdigest()
    with _opening:
        if token not in _opened:
            _opened.clear()  # one model at a time
            _opened[token] = task.open()
        return task, _opened[token]


class _Image:
    """One image on its way through the steps of its work; `outcome` is there when it has arrived."""

    def __init__(self, task: ImageTask, work: Work, record: ImageRecord) -> None:
        self.outcome: Outcome | None = None
        self._task, self._id = task, record.id
        self._steps = work(record) if inspect.isgeneratorfunction(work) else _one_step(work, record)
        self._began = time.perf_counter()
        self._seconds: list[float] = []

    def advance(self) -> _Image:
        """Takes the next step. Raises `UserError` if no image could be worked on any more."""
        if self.outcome is not None:
            return self
        began = time.perf_counter()
        try:
            next(self._steps)  # type: ignore[arg-type]
            self._seconds.append(time.perf_counter() - began)
            return self
        except StopIteration as end:
            now = time.perf_counter()
            self.outcome = Outcome(self._id, now - self._began, end.value, steps=(*self._seconds, now - began))
            return self
        except UserError:
            raise
        except ImageError as error:
            reason = str(error)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise UserError(
                    f"{self._id}: the cache cannot be written ({error.strerror}); nothing finished is lost"
                ) from None
            reason = f"{type(error).__name__}: {error}"
        except Exception as error:  # a defect in one image must not end the run; the trace tells where it came from
            reason = f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"
        self._task.record_failure(self._id, reason)
        self.outcome = Outcome(self._id, time.perf_counter() - self._began, failure=reason)
        return self

    def finish(self) -> Outcome:
        """Takes all steps that are left."""
        while self.outcome is None:
            self.advance()
        return self.outcome


def _one_step(work: Work, record: ImageRecord) -> Generator[None, None, Summary]:
    return work(record)  # type: ignore[return-value]
    yield


def _process(task_bytes: bytes, record: ImageRecord, at_a_time: int | None = None) -> Outcome | UserError:
    """All steps of one image; with `at_a_time` no more threads of this process than that take one step of a sort.

    An error that ends the run is returned: dask prints the trace of every error that is raised.
    """
    try:
        task, work = _open(task_bytes)
        image = _Image(task, work, record)
        if at_a_time is None:
            return image.finish()
        semaphores = _step_semaphores(at_a_time)
        for semaphore in semaphores if inspect.isgeneratorfunction(work) else semaphores[1:2]:
            with semaphore:
                image.advance()
        return image.finish()
    except UserError as error:
        return error


@cache
def _step_semaphores(at_a_time: int) -> list[threading.Semaphore]:
    """One semaphore per step, for the threads of this process."""
    return [threading.Semaphore(at_a_time) for _ in STEPS]


def run_images(
    task: ImageTask,
    records: Sequence[ImageRecord],
    execution: Execution = Execution(),
    progress: Progress | None = None,
    description: str = "",
) -> Iterator[Outcome]:
    """Runs `task` on every image, and yields the outcomes in the order of completion. `shard` is not applied here.

    It runs as far as the caller asks for outcomes.
    """
    progress = progress or SilentProgress()
    if not records:
        return
    task_bytes = pickle.dumps(task)
    progress.start(description, len(records))
    try:
        with _outcomes(execution, task_bytes, records, progress) as found:
            for outcome in found:
                if outcome.failure:
                    progress.note(f"{outcome.id}: failed: {outcome.failure.splitlines()[0]}")
                progress.advance(failed=outcome.failure is not None)
                yield outcome
    finally:
        _opened.clear()


@contextmanager
def _outcomes(
    execution: Execution, task_bytes: bytes, records: Sequence[ImageRecord], progress: Progress
) -> Iterator[Iterator[Outcome]]:
    if execution.here_one_by_one and inspect.isgeneratorfunction(_open(task_bytes)[1]):
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            yield _overlapping(reader, writer, task_bytes, records)
        return
    at_a_time = execution.threads if execution.scheduler is None and execution.workers > 1 else None
    with _pool(execution, progress) as pool:
        yield _bounded(pool, task_bytes, records, at_a_time)


def _overlapping(
    reader: Executor, writer: Executor, task_bytes: bytes, records: Sequence[ImageRecord]
) -> Iterator[Outcome]:
    """One image is read, one computed (by the calling thread) and one written at a time: three are in flight."""
    waiting = iter(records)

    def read_next() -> Future[_Image] | None:
        for record in waiting:
            return reader.submit(_Image(*_open(task_bytes), record).advance)
        return None

    reading, writing = read_next(), None
    while reading is not None:
        image = reading.result()
        reading = read_next()
        image.advance()
        if writing is not None:
            yield writing.result()
        writing = writer.submit(image.finish)
    if writing is not None:
        yield writing.result()


def _bounded(pool: Pool, task_bytes: bytes, records: Sequence[ImageRecord], at_a_time: int | None) -> Iterator[Outcome]:
    """Keeps the pool busy, with a few images a worker in flight."""
    waiting = iter(records)
    running: dict[Future[Outcome | UserError], ImageRecord] = {}
    crashed: list[ImageRecord] = []  # a worker that dies takes every image with it that it had in flight
    while True:
        room = pool.width() * IN_FLIGHT_PER_WORKER - len(running)
        for record in islice(waiting, max(0, room)):
            running[pool.submit(_process, task_bytes, record, at_a_time)] = record
        if not running:
            break
        for future in pool.wait(running):
            record = running.pop(future)
            try:
                yield _outcome(pool, future)
            except WorkerDied:
                crashed.append(record)
    for record in crashed:  # alone: whose worker dies now is the cause
        future = pool.submit(_process, task_bytes, record, at_a_time)
        pool.wait([future])
        try:
            yield _outcome(pool, future)
        except WorkerDied:
            yield _crashed_outcome(task_bytes, record.id)


def _outcome(pool: Pool, future: Future[Outcome | UserError]) -> Outcome:
    """What became of an image.

    Raises `UserError` if the run must end, and `WorkerDied` if the worker died.
    """
    result = pool.result(future)
    if isinstance(result, UserError):
        raise result
    return result


def _crashed_outcome(task_bytes: bytes, image_id: str) -> Outcome:
    reason = "the worker process died on this image more than once (out of memory?)"
    pickle.loads(task_bytes).record_failure(image_id, reason)
    return Outcome(image_id, 0.0, failure=reason)


@contextmanager
def _pool(execution: Execution, progress: Progress) -> Iterator[Pool]:
    if execution.scheduler is not None:
        with existing_cluster(execution.scheduler, progress.note) as pool:
            yield pool
    elif execution.workers > 1:
        threads = execution.threads + 2  # one image is read and one written besides: see `_step_semaphores`
        with local_cluster(execution.workers, threads, progress.note) as pool:
            yield pool
    elif execution.threads > 1:
        with ThreadPoolExecutor(execution.threads) as executor:
            yield ThreadPool(executor, execution.threads)
    else:
        yield InlinePool()
