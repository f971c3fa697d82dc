"""Updates one artefact: computes the images that are missing or stale, and leaves the others alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from pipeline.cache.artefact import Artefact
from pipeline.cache.cache_task import DONE_BY_OTHER_RUN, CacheTask
from pipeline.cache.freshness import inputs_match, refresh_marker
from pipeline.cache.marker import Marker
from pipeline.core.progress import Progress
from pipeline.data.manifests import ImageRecord
from pipeline.execution.executor import Execution, run_images


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

    def is_stale(marker: Marker | None, sources: Sequence[Marker | None]) -> bool:
        inputs = {kind: source for kind, source in zip(upstream, sources, strict=True) if source is not None}
        return len(inputs) < len(upstream) or not inputs_match(marker, inputs)

    markers = [source.find_markers(record.id for record in records) for source in (artefact, *upstream.values())]
    rows = zip(records, *markers, strict=True)
    return [record for record, marker, *sources in rows if is_stale(marker, sources)]


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
