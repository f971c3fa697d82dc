"""Measured rows of former runs, and how long artefacts and trainings took; files of plain JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.atomic_files import write_text


@dataclass(frozen=True)
class Measurement:
    """What was measured of one row.

    Attributes:
        figures: means over the images, see `stages.evaluate.score`, and `IoU` by class.
        panoramas: figures of single images by id.
        seconds: time of each stage in the run that measured the row.
        checkpoint: the student's checkpoint; empty for an ensemble.
    """

    figures: dict[str, Any]
    panoramas: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    checkpoint: str = ""


@dataclass(frozen=True)
class Store:
    """The folder of the tables of one data set."""

    folder: Path

    def find(self, name: str) -> Measurement | None:
        """Returns the measurement under `name`, a hash of everything that it depends on."""
        found = _read(self._rows).get(name)
        return None if found is None else Measurement(**found)

    def add(self, name: str, measurement: Measurement) -> None:
        """Keeps a measurement under `name`."""
        write_text(self._rows, json.dumps(_read(self._rows) | {name: asdict(measurement)}, indent=1) + "\n")

    def add_rate(self, kind: str, key: str, count: int, seconds: float) -> None:
        """Adds the time of `count` images, or steps of a training, that were computed under `key`."""
        rates = _read(self._rates)
        before = rates.setdefault(kind, {}).get(key, [0, 0.0])
        rates[kind][key] = [before[0] + count, before[1] + seconds]
        write_text(self._rates, json.dumps(rates, indent=1) + "\n")

    def rate(self, kind: str, key: str) -> float | None:
        """Returns the seconds of one image or step: under `key` or, if that is new, the mean of the kind.

        None if there is no measurement.
        """
        rates = _read(self._rates).get(kind, {})
        counts = [rates[key]] if key in rates else list(rates.values())
        total = sum(count for count, _ in counts)
        return sum(seconds for _, seconds in counts) / total if total else None

    @property
    def _rows(self) -> Path:
        return self.folder / "ablate.json"

    @property
    def _rates(self) -> Path:
        return self.folder / "rates.json"


def _read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return data
