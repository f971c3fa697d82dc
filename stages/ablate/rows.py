"""Rows of figures that are measured once, in a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.core.atomic_files import write_text


class Rows:
    """Measured rows by name; the file is written after each, so a run that was stopped goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, name: str, row: dict[str, Any]) -> None:
        self.rows[name] = row
        write_text(self.path, json.dumps(self.rows, indent=1))
