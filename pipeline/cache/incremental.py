"""One artefact brought up to date: what is missing or no longer true is computed, the rest is left alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from pipeline.cache import Artefact, Marker
from pipeline.cache.cache_task import DONE_BY_ANOTHER, CacheTask
from pipeline.cache.freshness import made_from_inputs, marker_of_file
from pipeline.core.progress import Progress
from pipeline.data.manifests import ImageRecord
from pipeline.execution.executor import Execution, run_images


@dataclass
class Report:
    """What a run did with one artefact; `failures` gives the reason by image id.

    `seconds` is the time of all, `steps` the mean seconds of an image in each step of its work (reading, computing
    and writing, where they overlap).
    """

    artefact: Artefact
    wanted: int
    computed: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    steps: tuple[float, ...] = ()

    @property
    def reused(self) -> int:
        return self.wanted - self.computed - len(self.failures)


def stale_images(task: CacheTask, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """The images that are not done, or were made from other image files or other upstream images."""
    upstream = {kind: task.artefact(kind) for kind in task.artefacts.upstream(task.spec.kind)}
    if upstream:
        return stale_by_inputs(task.artefact(), upstream, records)
    return stale_by_file(task.artefact(), records, by_content=task.by_content)


def stale_by_file(artefact: Artefact, records: Sequence[ImageRecord], *, by_content: bool = False) -> list[ImageRecord]:
    """The images that are not done, or were made from another file content.

    Files are compared by size and time first, with `by_content` by their digest in any case. The marker of a file
    that was touched, or copied, takes over its new time, so that it is read once and not by every run.
    """
    stale = []
    markers = artefact.markers_of(record.id for record in records)
    for record, marker in zip(records, markers, strict=True):
        current = marker_of_file(marker, record.path, by_content=by_content)
        if current is None:
            stale.append(record)
        elif current is not marker:
            artefact.renew(current)
    return stale


def stale_by_inputs(
    artefact: Artefact, upstream: dict[str, Artefact], records: Sequence[ImageRecord]
) -> list[ImageRecord]:
    """The images that are not done, or were made from other upstream images (or from some that are gone)."""
    read = [source.markers_of(record.id for record in records) for source in (artefact, *upstream.values())]

    def fresh(marker: Marker | None, above: Sequence[Marker | None]) -> bool:
        inputs = {kind: found for kind, found in zip(upstream, above, strict=True) if found is not None}
        return len(inputs) == len(upstream) and made_from_inputs(marker, inputs)

    return [record for record, marker, *above in zip(records, *read, strict=True) if not fresh(marker, above)]


def bring_up_to_date(
    task: CacheTask,
    records: Sequence[ImageRecord],
    execution: Execution,
    progress: Progress,
) -> Report:
    """Runs `task` on those of `records` that are not done or are stale, see `stale_images`."""
    artefact = task.artefact()
    task.create_artefact()
    report = Report(artefact, len(records))
    began = time.perf_counter()
    totals: tuple[float, ...] = ()
    pending = stale_images(task, records)
    if pending:
        artefact.upgrade()
    for outcome in run_images(task, pending, execution, progress, task.title):
        if outcome.failure is not None:
            report.failures[outcome.id] = outcome.failure
        elif outcome.summary != DONE_BY_ANOTHER:
            report.computed += 1
            totals = tuple(map(sum, zip_longest(totals, outcome.steps, fillvalue=0.0)))
    report.seconds = time.perf_counter() - began
    report.steps = tuple(total / report.computed for total in totals)
    return report
