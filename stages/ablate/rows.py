"""Measured rows of figures in a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.core.atomic_files import write_text


class RowStore:
    """Rows of figures by name. The file is written after each row, so that a stopped run can be continued."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Adds or replaces a row and writes the file."""
        self.rows[name] = row
        write_text(self.path, json.dumps(self.rows, indent=1))
