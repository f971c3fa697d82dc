"""Updates one artefact by a task: computes the images that are missing or stale, and leaves the others alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, ClassVar

from pipeline.cache.artefact import Artefact
from pipeline.cache.artefact_spec import ArtefactKeys, ArtefactSpec
from pipeline.cache.cache import Cache
from pipeline.cache.freshness import refresh_marker
from pipeline.core.progress import Progress
from pipeline.data.images import ImagePreprocessing
from pipeline.data.manifests import ImageRecord
from pipeline.execution.executor import Execution, run_images
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


@dataclass
class Report:
    """What a run did with one artefact.

    Attributes:
        artefact: the artefact.
        total: number of images of the run.
        computed: number of images that it computed.
        failures: the reason of each failure by image id.
        seconds: time of all images.
        steps: mean seconds of a computed image in each step of its work, see `pipeline.execution.task.STEPS`.
    """

    artefact: Artefact
    total: int
    computed: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    steps: tuple[float, ...] = ()

    @property
    def reused(self) -> int:
        """Number of images that were neither computed nor failed."""
        return self.total - self.computed - len(self.failures)


def find_stale_images(task: CacheTask, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Returns the images that are missing, or were computed from other image files or other upstream images."""
    upstream = {kind: task.artefact(kind) for kind in task.artefacts.upstream(task.spec.kind)}
    if upstream:
        return _find_stale_by_inputs(task.artefact(), upstream, records)
    return _find_stale_by_file(task.artefact(), records, task.by_content)


def _find_stale_by_file(artefact: Artefact, records: Sequence[ImageRecord], by_content: bool) -> list[ImageRecord]:
    """Compares image files. A file that was only touched is hashed once: its marker takes over the new time."""
    stale = []
    markers = artefact.find_markers(record.id for record in records)
    for record, marker in zip(records, markers, strict=True):
        current = refresh_marker(marker, record.path, by_content=by_content)
        if current is None:
            stale.append(record)
        elif current is not marker:
            artefact.rewrite_marker(current)
    return stale


def _find_stale_by_inputs(
    artefact: Artefact, upstream: dict[str, Artefact], records: Sequence[ImageRecord]
) -> list[ImageRecord]:
    """Compares upstream images; an image is stale too if one of them is missing."""
    stale = []
    markers = [source.find_markers(record.id for record in records) for source in (artefact, *upstream.values())]
    for record, marker, *sources in zip(records, *markers, strict=True):
        inputs = {kind: source.content for kind, source in zip(upstream, sources, strict=True) if source is not None}
        if marker is None or marker.inputs != inputs or len(inputs) < len(upstream):
            stale.append(record)
    return stale


def update_artefact(
    task: CacheTask, records: Sequence[ImageRecord], execution: Execution, progress: Progress
) -> Report:
    """Runs `task` on the missing and stale images of `records`."""
    artefact = task.artefact()
    task.create_artefact()
    report = Report(artefact, len(records))
    start = time.perf_counter()
    totals: tuple[float, ...] = ()
    stale = find_stale_images(task, records)
    if stale:
        artefact.upgrade_format()
    for outcome in run_images(task, stale, execution, progress, task.title):
        if outcome.failure is not None:
            report.failures[outcome.id] = outcome.failure
        elif outcome.summary != DONE_BY_OTHER_RUN:
            report.computed += 1
            totals = tuple(map(sum, zip_longest(totals, outcome.steps, fillvalue=0.0)))
    report.seconds = time.perf_counter() - start
    report.steps = tuple(total / report.computed for total in totals)
    return report
