"""The base of the stages' tasks: one artefact is written, others are read, image by image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.config import Artefacts, Config
from pipeline.executor import ImageTask
from pipeline.images import Preparation
from pipeline.store import Artefact, Cache

#: Summary of an image that another run on the same cache finished while this one was on its way to it.
DONE_BY_ANOTHER = {"done_by_another": True}


@dataclass(frozen=True)
class CacheTask(ImageTask):
    """A task that writes the artefact ``kind`` of the data set ``dataset``."""

    config: Config
    preparation: Preparation
    dataset: str
    kind: str = ""
    by_content: bool = False
    """Compare image files by digest, not by size and time."""

    @property
    def artefacts(self) -> Artefacts:
        return self.config.artefacts(self.preparation)

    @property
    def cache(self) -> Cache:
        return Cache(self.config.cache, self.dataset)

    def artefact(self, kind: str | None = None) -> Artefact:
        """The task's own artefact, or the one named."""
        kind = kind or self.kind
        return self.cache.artefact(kind, self.artefacts.key(kind))

    def create_artefact(self, **described: Any) -> None:
        """Writes the root group unless it is there and whole; ``described`` become attributes."""
        artefacts = self.artefacts
        self.artefact().create(artefacts.settings(self.kind), artefacts.upstream(self.kind), **described)

    def record_failure(self, image_id: str, reason: str) -> None:
        self.artefact().record_failure(image_id, reason)
