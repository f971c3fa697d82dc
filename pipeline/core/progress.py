"""Progress of long work: a bar in a terminal, a line now and then in a log file. Passed in, never global."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from pipeline.core.errors import ImageError

LOG_EVERY_SECONDS = 15.0


class Progress(Protocol):
    """Receives the progress of long work: `start` comes before `advance`. These methods report nothing."""

    def start(self, description: str, total: int, unit: str = "image") -> None:
        return

    def advance(self, failed: bool = False, figures: str = "") -> None:
        return

    def note(self, text: str) -> None:
        return


class SilentProgress(Progress):
    """Reports nothing (library use and tests)."""


class _Counter:
    """Counts what is done since `start`, and describes how fast."""

    def start(self, description: str, total: int, unit: str = "image") -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = self.failed = 0
        self.figures = ""
        self.began = time.monotonic()

    def advance(self, failed: bool = False, figures: str = "") -> None:
        self.done += 1
        self.failed += failed
        self.figures = figures or self.figures

    def failures(self) -> str:
        return f"{self.failed} failed" if self.failed else ""

    def speed(self) -> str:
        seconds = time.monotonic() - self.began
        left = clock((self.total - self.done) * seconds / self.done)
        return ", ".join(filter(None, [describe_rate(self.done, seconds, self.unit), f"{left} left", self.figures]))


class LogProgress(_Counter):
    """Prints a line every `LOG_EVERY_SECONDS`, and one at the end."""

    def start(self, description: str, total: int, unit: str = "image") -> None:
        super().start(description, total, unit)
        self._printed = self.began

    def advance(self, failed: bool = False, figures: str = "") -> None:
        super().advance(failed, figures)
        now = time.monotonic()
        if now - self._printed >= LOG_EVERY_SECONDS or self.done == self.total:
            self._printed = now
            parts = [f"{self.description}: {self.done}/{self.total}", self.failures(), self.speed()]
            self.note(", ".join(filter(None, parts)))

    def note(self, text: str) -> None:
        print(text, flush=True)


class BarProgress(_Counter):
    """Draws a rich bar with rate and time left."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        counts = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._bar = RichProgress("{task.description}", *counts, "{task.fields[speed]}", "[red]{task.fields[failures]}")

    def start(self, description: str, total: int, unit: str = "image") -> None:
        super().start(description, total, unit)
        self._bar.start()
        self._task = self._bar.add_task(description, total=total, speed="", failures="")

    def advance(self, failed: bool = False, figures: str = "") -> None:
        super().advance(failed, figures)
        self._bar.update(self._task, advance=1, speed=self.speed(), failures=self.failures())

    def note(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False)

    def stop(self) -> None:
        self._bar.stop()


@contextmanager
def note_failure(image_id: str, failures: dict[str, str], progress: Progress) -> Iterator[None]:
    """Processes one image within it: an `ImageError` is noted, and its text added to `failures` by id."""
    try:
        yield
    except ImageError as error:
        failures[image_id] = str(error)
        progress.note(f"{image_id}: failed: {error}".encode(errors="backslashreplace").decode())
    progress.advance(failed=image_id in failures)


@contextmanager
def console_progress() -> Iterator[Progress]:
    """A bar if the output is a terminal, else log lines."""
    if not sys.stdout.isatty():
        yield LogProgress()
        return
    bar = BarProgress()
    try:
        yield bar
    finally:
        bar.stop()


def describe_rate(done: int, seconds: float, unit: str = "image") -> str:
    """`12.34 images/s`; below one unit per second `3.2 s/image`."""
    each = max(seconds, 1e-9) / done
    return f"{1 / each:.2f} {unit}s/s" if each <= 1 else f"{each:.1f} s/{unit}"


def clock(seconds: float) -> str:
    """`seconds` as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def mebibytes(size: float) -> str:
    """`size` in bytes as MiB with two digits."""
    return f"{size / 2**20:.2f} MiB"
