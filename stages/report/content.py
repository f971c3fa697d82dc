"""What the page shows, as plain objects: nothing here reads or draws."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.cache.cache import ArtefactSummary
from pipeline.data.labels import LabelSpace
from stages.report.curves import Chart
from stages.report.gallery import Choice
from stages.report.layers import Panorama, Source
from stages.report.sources import Table


@dataclass(frozen=True)
class Gallery:
    """The pictures of one data set."""

    source: Source
    choice: Choice
    panoramas: dict[str, Panorama]
    spaces: dict[str, LabelSpace]


@dataclass(frozen=True)
class Content:
    """What the page shows. `notes` say what is missing on it, and why."""

    tables: list[Table]
    against: str | None
    galleries: list[Gallery] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    trainings: list[str] = field(default_factory=list)
    caches: dict[str, list[ArtefactSummary]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
