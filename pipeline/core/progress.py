"""Progress of long work: a bar in a terminal, a line now and then in a log file. Passed in, never global."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LOG_EVERY_SECONDS = 15.0


class Progress(Protocol):
    """What long work reports to."""

    def start(self, description: str, total: int) -> None: ...

    def advance(self, failed: bool = False) -> None: ...

    def note(self, text: str) -> None: ...


class SilentProgress:
    """Reports nothing (library use and tests)."""

    def start(self, description: str, total: int) -> None:
        return

    def advance(self, failed: bool = False) -> None:
        return

    def note(self, text: str) -> None:
        return


class LogProgress:
    """A line every `LOG_EVERY_SECONDS`, and one at the end."""

    def __init__(self) -> None:
        self._description, self._total, self._done, self._failed = "", 0, 0, 0
        self._began = self._last = time.monotonic()

    def start(self, description: str, total: int) -> None:
        self._description, self._total, self._done, self._failed = description, total, 0, 0
        self._began = self._last = time.monotonic()

    def advance(self, failed: bool = False) -> None:
        self._done += 1
        self._failed += failed
        now = time.monotonic()
        if now - self._last >= LOG_EVERY_SECONDS or self._done == self._total:
            self._last = now
            seconds = max(now - self._began, 1e-9)
            left = (self._total - self._done) * seconds / self._done
            failed_text = f", {self._failed} failed" if self._failed else ""
            self.note(
                f"{self._description}: {self._done}/{self._total}{failed_text}, "
                f"{self._done / seconds:.2f} images/s, {clock(left)} left"
            )

    def note(self, text: str) -> None:
        print(text, flush=True)


class BarProgress:
    """A rich bar with rate and time left."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[red]{task.fields[failed]}"),
        )
        self._began, self._done, self._failed = time.monotonic(), 0, 0
        self._task: object = None

    def start(self, description: str, total: int) -> None:
        self._began, self._done, self._failed = time.monotonic(), 0, 0
        self._bar.start()
        self._task = self._bar.add_task(description, total=total, rate="", failed="")

    def advance(self, failed: bool = False) -> None:
        self._done += 1
        self._failed += failed
        rate = f"{self._done / max(time.monotonic() - self._began, 1e-9):.2f} images/s"
        text = f"{self._failed} failed" if self._failed else ""
        self._bar.update(self._task, advance=1, rate=rate, failed=text)  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        self._bar.console.print(text, highlight=False)

    def stop(self) -> None:
        self._bar.stop()


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


def clock(seconds: float) -> str:
    """`seconds` as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def mebibytes(size: float) -> str:
    """`size` in bytes as MiB with two digits."""
    return f"{size / 2**20:.2f} MiB"
