"""Finished rows of a benchmark, kept in a JSON file so that a stopped run continues."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.core.atomic_files import write_text
from pipeline.core.settings import short_hash


class Rows:
    """Figures of finished rows in a JSON file, by the hash of all that determines them; several runs may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def done(self) -> dict[str, dict[str, Any]]:
        """Returns the entries of the file by hash."""
        return json.loads(self.path.read_text()) if self.path.is_file() else {}

    def get(self, described: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns the figures of a row, floats with 4 digits; measures and stores them if they are missing."""
        name = short_hash(described)
        if (figures := self.done().get(name)) is not None:
            return figures
        figures = {k: round(value, 4) if isinstance(value, float) else value for k, value in measure().items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two runs may end a row at once
            write_text(self.path, json.dumps({**self.done(), name: {**described, **figures}}, indent=1) + "\n")
        return figures
