"""Base of the stages' tasks, which read and write artefacts image by image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.cache.artefact import Artefact
from pipeline.cache.artefact_spec import ArtefactKeys, ArtefactSpec
from pipeline.cache.cache import Cache
from pipeline.data.images import ImagePreprocessing
from pipeline.execution.task import ImageTask

#: Summary of an image that another run on the same cache has finished in the meantime.
DONE_BY_OTHER_RUN = {"done_by_other_run": True}


@dataclass(frozen=True)
class CacheTask(ImageTask):
    """A task that writes the artefact `spec` of the data set `dataset`.

    Attributes:
        config: the settings of the run.
        preprocessing: crop and size of the images.
        dataset: name of the data set, its folder in the cache.
        by_content: compare image files by digest, not by size and time.
    """

    spec: ClassVar[ArtefactSpec]

    config: Any
    preprocessing: ImagePreprocessing
    dataset: str
    by_content: bool = False

    @property
    def title(self) -> str:
        """Title of the run's progress."""
        return self.spec.title

    @property
    def artefacts(self) -> ArtefactKeys:
        """The keys of all artefacts under the settings of the run."""
        keys: ArtefactKeys = self.config.artefacts(self.preprocessing)
        return keys

    @property
    def cache(self) -> Cache:
        """The cache of the data set."""
        return Cache(self.config.cache, self.dataset)

    def artefact(self, kind: str | None = None) -> Artefact:
        """Returns the artefact `kind`, by default the one that the task writes."""
        return self.artefacts.artefact(self.cache, kind or self.spec.kind)

    def create_artefact(self) -> None:
        """Writes the artefact's root group unless it exists undamaged."""
        self.artefacts.create(self.cache, self.spec.kind)

    def record_failure(self, image_id: str, reason: str) -> None:
        self.artefact().record_failure(image_id, reason)
