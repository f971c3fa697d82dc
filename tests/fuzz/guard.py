"""Checks of every input: at most one clear sentence, bounded time and memory, nothing written, fetched or started."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.errors import ImageError, UserError

#: Bounds of one error: its lines (a heading, 20 problems, and how many more there are) and their characters.
MOST_LINES, LONGEST_LINE = 22, 1500

#: Processor seconds for one input.
MOST_SECONDS = 20.0

#: Growth of the process over all inputs of a test, in MiB.
MOST_MEMORY = 600

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
_STARTS = ("socket.connect", "socket.getaddrinfo", "urllib.Request", "subprocess.Popen", "os.system", "os.exec")

_watching: list[list[str]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    name = str(arguments[0]) if arguments else ""
    if event == "open" and isinstance(arguments[2], int):
        if arguments[2] & _WRITES and "__pycache__" not in name and name != os.devnull:
            _watching[-1].append(f"open {name}")
    elif (event in _CHANGES and "__pycache__" not in name) or event in _STARTS:
        _watching[-1].append(f"{event} {name}")


sys.addaudithook(_audit)  # cannot be removed; does nothing outside of `Inputs.run`


@dataclass
class Inputs:
    """Counts the inputs of one test and checks the bounds of each.

    Attributes:
        name: name of the test.
        allowed: folders below which an input may write.
        tried: number of inputs.
        accepted: number of inputs without an error.
        memory: peak memory of the process before the inputs, in KiB.
    """

    name: str
    allowed: tuple[Path, ...] = ()
    tried: int = 0
    accepted: int = 0
    memory: int = field(default_factory=lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    def run(self, function: Callable[[], object]) -> None:
        """Runs one input. Exceptions other than the two errors for users escape."""
        events: list[str] = []
        began = time.process_time()
        self.tried += 1
        _watching.append(events)
        try:
            with suppress(UserError, ImageError):
                try:
                    function()
                    self.accepted += 1
                except (UserError, ImageError) as error:
                    _check_sentence(str(error))
                    raise
        finally:
            _watching.pop()
        took = time.process_time() - began
        assert took < MOST_SECONDS, f"took {took:.1f} s"
        places = [event.partition(" ")[2] for event in events]
        outside = [e for e, p in zip(events, places, strict=True) if not p.startswith(tuple(map(str, self.allowed)))]
        assert not outside, outside
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if self.tried <= 10:  # imports are not counted
            self.memory = most
        grown = (most - self.memory) / 1024
        assert grown < MOST_MEMORY, f"grew by {grown:.0f} MiB"

    def report(self) -> None:
        """Prints the counts."""
        print(f"\nfuzz {self.name}: {self.tried:,} inputs, {self.accepted:,} accepted, no traceback")


def _check_sentence(text: str) -> None:
    lines = text.splitlines() or [""]
    assert text.strip(), "an error without a sentence"
    assert len(lines) <= MOST_LINES, f"{len(lines)} lines"
    assert max(map(len, lines)) <= LONGEST_LINE, max(lines, key=len)[:200]
    text.encode(errors="backslashreplace")
