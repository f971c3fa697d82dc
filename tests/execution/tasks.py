"""Tasks that record their work as files, for all ways of running them."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import ImageError, PipelineWarning
from pipeline.data.manifests import ImageRecord
from pipeline.execution.executor import run_images
from pipeline.execution.task import ImageTask, Outcome

#: Longest wait for another step, on a machine that is busy.
PATIENCE = 60.0


@dataclass(frozen=True)
class Count(ImageTask):
    """Creates a file for every setup and every image; some images fail."""

    folder: Path

    def setup(self) -> Callable[[ImageRecord], Any]:
        (self.folder / f"setup-{os.getpid()}-{time.monotonic_ns()}").touch()

        def work(record: ImageRecord) -> dict[str, Any]:
            if record.id == "bad":
                raise ImageError("bad picture")
            if record.id == "bug":
                raise ZeroDivisionError("one by nought")
            if record.id == "full":
                raise OSError(errno.ENOSPC, "No space left on device")
            if record.id == "deadly":
                os.kill(os.getpid(), signal.SIGKILL)
            (self.folder / f"done-{record.id}").touch()
            return {"pid": os.getpid()}

        return work

    def record_failure(self, image_id: str, reason: str) -> None:
        (self.folder / f"failed-{image_id}").write_text(reason)


@dataclass(frozen=True)
class Event:
    """The begin or the end of a step of an image, from the name of the file that records it."""

    time: int
    step: str
    name: str
    image: str
    thread: str


@dataclass(frozen=True)
class Steps(Count):
    """Reads, computes and writes, each for `seconds`; images named after a step fail in it."""

    seconds: float = 0.0

    def setup(self) -> Callable[[ImageRecord], Any]:
        def take(record: ImageRecord, step: str) -> None:
            self.add_event(step, "begins", record)
            self.run_step(step, record)
            if record.id == f"bad {step}":
                raise ImageError(f"no {step}")
            if (record.id, step) == ("full", "write"):
                raise OSError(errno.ENOSPC, "No space left on device")
            self.add_event(step, "ends", record)

        def steps(record: ImageRecord) -> Generator[None, None, dict[str, Any]]:
            take(record, "read")
            if record.id == "done already":
                return {"done": True}
            yield
            take(record, "compute")
            yield
            take(record, "write")
            return {"id": record.id, "pid": os.getpid()}

        return steps

    def run_step(self, step: str, record: ImageRecord) -> None:
        time.sleep(self.seconds)

    def add_event(self, step: str, name: str, record: ImageRecord) -> None:
        (self.folder / f"{time.monotonic_ns()} {step} {name} {record.id} {threading.get_ident()}").touch()

    def events(self) -> list[Event]:
        """Returns all events in order."""
        names = [path.name.split(" ", 3) for path in self.folder.iterdir() if path.name[0].isdigit()]
        events = [Event(int(time), step, name, *rest.rsplit(" ", 1)) for time, step, name, rest in names]
        return sorted(events, key=lambda event: event.time)


@dataclass(frozen=True)
class Meeting(Steps):
    """Images 0, 1, 2, ... whose writing, computing and reading wait for each other: without overlap none would end.

    Computing waits until the next image is read and the one before is written.
    """

    images: int = 0

    def run_step(self, step: str, record: ImageRecord) -> None:
        if step != "compute":
            return
        k = int(record.id)
        self.wait_for("read", k + 1)
        self.wait_for("write", k - 1)

    def wait_for(self, step: str, image: int) -> None:
        """Waits for the end of a step of another image, if there is such an image."""
        deadline = time.monotonic() + PATIENCE
        while 0 <= image < self.images and not list(self.folder.glob(f"* {step} ends {image} *")):
            if time.monotonic() > deadline:
                raise ImageError(f"{step} of image {image} did not overlap")
            time.sleep(0.001)


@dataclass(frozen=True)
class Environment(Count):
    """Returns some variables of its process's environment."""

    def setup(self) -> Callable[[ImageRecord], Any]:
        names = ("MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS")
        return lambda record: {name: os.environ.get(name) for name in names}


def warn_twice() -> None:
    warnings.warn("an odd image", PipelineWarning, stacklevel=1)
    warnings.warn("an odd image", PipelineWarning, stacklevel=1)


def run_all(*arguments: Any) -> list[Outcome]:
    return list(run_images(*arguments))


def records(*ids: str) -> list[ImageRecord]:
    return [ImageRecord(i, "train", Path(i), None) for i in ids]
