"""Runs the steps of work on images, so that reading, computing and writing of different images overlap."""

from __future__ import annotations

import errno
import hashlib
import inspect
import pickle
import threading
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future
from functools import cache

from pipeline.core.errors import ImageError, UserError
from pipeline.data.manifests import ImageRecord
from pipeline.execution.task import STEPS, ImageTask, Outcome, Summary, Work

_works: dict[str, Work] = {}
_setup_lock = threading.Lock()


def load_task(task_bytes: bytes) -> tuple[ImageTask, Work]:
    """Unpickles a task and sets it up, once in each process; the work of another task is released."""
    task: ImageTask = pickle.loads(task_bytes)  # sent by this program
    token = hashlib.sha256(task_bytes).hexdigest()
    with _setup_lock:
        if token not in _works:
            _works.clear()  # memory may hold one model only
            _works[token] = task.setup()
        return task, _works[token]


def release_task() -> None:
    """Releases the models of the last task."""
    _works.clear()


class ImageRun:
    """One image on its way through the steps of its work; `outcome` is `None` until the last step has ended."""

    def __init__(self, task: ImageTask, work: Work, record: ImageRecord) -> None:
        self.outcome: Outcome | None = None
        self._task, self._id = task, record.id
        self._steps = work(record) if inspect.isgeneratorfunction(work) else _single_step(work, record)
        self._start = time.perf_counter()
        self._seconds: list[float] = []

    def advance(self) -> ImageRun:
        """Takes the next step and returns the run. Raises `UserError` if no image can be processed any more."""
        if self.outcome is not None:
            return self
        start = time.perf_counter()
        try:
            next(self._steps)  # type: ignore[arg-type]
            self._seconds.append(time.perf_counter() - start)
            return self
        except StopIteration as end:
            now = time.perf_counter()
            self.outcome = Outcome(self._id, now - self._start, end.value, steps=(*self._seconds, now - start))
            return self
        except UserError:
            raise
        except ImageError as error:
            reason = str(error)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                problem = f"the cache cannot be written ({error.strerror})"
                raise UserError(f"{self._id}: {problem}; nothing finished is lost") from None
            reason = f"{type(error).__name__}: {error}"
        except Exception as error:  # a defect that one image exposes must not end the run; the trace locates it
            reason = f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"
        self._task.record_failure(self._id, reason)
        self.outcome = Outcome(self._id, time.perf_counter() - self._start, failure=reason)
        return self

    def finish(self) -> Outcome:
        """Takes all remaining steps and returns the outcome."""
        while self.outcome is None:
            self.advance()
        return self.outcome


def _single_step(work: Work, record: ImageRecord) -> Generator[None, None, Summary]:
    yield from ()
    return work(record)  # type: ignore[return-value]


def process_image(task_bytes: bytes, record: ImageRecord, concurrency: int | None = None) -> Outcome | UserError:
    """Takes all steps of one image.

    At most `concurrency` threads of this process take the same step at a time; any number by default. The error that
    ends the run is returned: dask prints the trace of every error that is raised.
    """
    try:
        task, work = load_task(task_bytes)
        run = ImageRun(task, work, record)
        if concurrency is not None:
            semaphores = _step_semaphores(concurrency)
            for semaphore in semaphores if inspect.isgeneratorfunction(work) else semaphores[1:2]:
                with semaphore:
                    run.advance()
        return run.finish()
    except UserError as error:
        return error


@cache
def _step_semaphores(concurrency: int) -> list[threading.Semaphore]:
    """One semaphore per step, for the threads of this process."""
    return [threading.Semaphore(concurrency) for _ in STEPS]


def overlap_steps(
    reader: Executor, writer: Executor, task_bytes: bytes, records: Sequence[ImageRecord]
) -> Iterator[Outcome]:
    """Yields the outcomes of images in order; the calling thread computes.

    While it computes one image, `reader` reads the next one and `writer` writes the one before.
    """
    pending = iter(records)

    def read_next() -> Future[ImageRun] | None:
        for record in pending:
            return reader.submit(ImageRun(*load_task(task_bytes), record).advance)
        return None

    reading, writing = read_next(), None
    while reading is not None:
        run = reading.result()
        reading = read_next()
        run.advance()
        if writing is not None:
            yield writing.result()
        writing = writer.submit(run.finish)
    if writing is not None:
        yield writing.result()
