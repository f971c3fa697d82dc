"""Runs one task over many images: in this process, on a local dask cluster, or on an existing dask scheduler.

A task holds settings only. Each process sets it up once (this is where models are loaded) and then gets image ids. A
failed image is an outcome and does not end the run. Each worker has a few images in flight at most, so memory does not
grow with their number.

Work in steps (`STEPS`) overlaps, in this process and in each worker of a local cluster: while one image is computed,
the next is read and the one before is written. In this process with several threads, and on the workers of an existing
scheduler, whole images run at the same time, one in each thread.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, SilentProgress
from pipeline.data.manifests import ImageRecord
from pipeline.execution.dask_cluster import Pool, WorkerDied, existing_cluster, local_cluster
from pipeline.execution.steps import load_task, overlap_steps, process_image, release_task
from pipeline.execution.task import ImageTask, Outcome

#: Images in flight for each thread of a pool: one that runs and one that waits.
IN_FLIGHT_PER_THREAD = 2


@dataclass(frozen=True)
class Execution:
    """How work is run; changes no result.

    Attributes:
        workers: number of processes; more than one start a local dask cluster.
        threads: images at a time in this process, or in each worker process.
        scheduler: address of an existing dask scheduler.
        shard: `(i, n)` selects every n-th image, from the i-th.
    """

    workers: int = 1
    threads: int = 1
    scheduler: str | None = None
    shard: tuple[int, int] | None = None

    def select(self, records: Sequence[ImageRecord]) -> list[ImageRecord]:
        """Returns the images of the shard."""
        if self.shard is None:
            return list(records)
        index, count = self.shard
        return sorted(records, key=lambda record: record.id)[index::count]


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Parses `"i/n"`. Raises `UserError` unless 0 <= i < n."""
    if text is None:
        return None
    index, separator, count = text.partition("/")
    if not (separator and index.isdigit() and count.isdigit() and int(index) < int(count)):
        shards = int(count) if count.isdigit() and 0 < int(count) <= 8 else 3
        example = ", ".join(f"{index}/{shards}" for index in range(shards))
        raise UserError(f"--shard {text}: expected i/n with 0 <= i < n; shards count from 0: {example}")
    return int(index), int(count)


def run_images(
    task: ImageTask,
    records: Sequence[ImageRecord],
    execution: Execution = Execution(),
    progress: Progress = SilentProgress(),
    description: str = "",
) -> Iterator[Outcome]:
    """Runs `task` on every image, as far as the caller consumes the outcomes; `execution.shard` is not applied.

    Yields the outcomes in the order of completion. Raises `UserError` if no image can be processed any more, or the
    dask scheduler is lost.
    """
    if not records:
        return
    task_bytes = pickle.dumps(task)
    progress.start(description, len(records))
    try:
        with _outcomes(execution, task_bytes, records, progress) as outcomes:
            for outcome in outcomes:
                if outcome.failure:
                    progress.note(f"{outcome.id}: failed: {outcome.failure.splitlines()[0]}")
                progress.advance(failed=outcome.failure is not None)
                yield outcome
    finally:
        release_task()


@contextmanager
def _outcomes(
    execution: Execution, task_bytes: bytes, records: Sequence[ImageRecord], progress: Progress
) -> Iterator[Iterator[Outcome]]:
    if execution.scheduler is None and execution.workers <= 1 and execution.threads <= 1:
        if inspect.isgeneratorfunction(load_task(task_bytes)[1]):
            with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
                yield overlap_steps(reader, writer, task_bytes, records)
        else:
            yield (_check(process_image(task_bytes, record)) for record in records)
    elif execution.scheduler is not None:
        with existing_cluster(execution.scheduler, progress.note) as pool:
            yield _run_in_pool(pool, task_bytes, records)
    elif execution.workers > 1:
        threads = execution.threads + 2  # one more image is read and one written, see `process_image`
        with local_cluster(execution.workers, threads, progress.note) as pool:
            yield _run_in_pool(pool, task_bytes, records, execution.threads)
    else:
        with ThreadPoolExecutor(execution.threads) as executor:
            yield _run_in_pool(Pool(executor, execution.threads), task_bytes, records)


def _run_in_pool(
    pool: Pool, task_bytes: bytes, records: Sequence[ImageRecord], concurrency: int | None = None
) -> Iterator[Outcome]:
    """Keeps the pool busy with a bounded number of images in flight."""
    pending = iter(records)
    running: dict[Future[Outcome | UserError], ImageRecord] = {}
    crashed: list[ImageRecord] = []  # a worker that dies takes all its images in flight with it
    while True:
        free = pool.width() * IN_FLIGHT_PER_THREAD - len(running)
        for record in islice(pending, max(0, free)):
            running[pool.submit(process_image, task_bytes, record, concurrency)] = record
        if not running:
            break
        for future in pool.wait(running):
            record = running.pop(future)
            try:
                yield _check(pool.result(future))
            except WorkerDied:
                crashed.append(record)
    for record in crashed:  # one at a time: a worker that dies again identifies the image
        future = pool.submit(process_image, task_bytes, record, concurrency)
        pool.wait([future])
        try:
            yield _check(pool.result(future))
        except WorkerDied:
            reason = "the worker process died on this image more than once (out of memory?)"
            pickle.loads(task_bytes).record_failure(record.id, reason)
            yield Outcome(record.id, 0.0, failure=reason)


def _check(result: Outcome | UserError) -> Outcome:
    """Returns an image's outcome, or raises the error that ends the run."""
    if isinstance(result, UserError):
        raise result
    return result
