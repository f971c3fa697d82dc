"""One artefact brought up to date: what is missing or no longer true is computed, the rest is left alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.executor import Execution, run_images
from pipeline.manifests import ImageRecord
from pipeline.progress import Progress
from pipeline.store import Artefact, Marker
from pipeline.store.freshness import made_from_file, made_from_inputs
from pipeline.tasks import DONE_BY_ANOTHER, CacheTask


@dataclass
class Report:
    """What a run did with one artefact; ``failures`` gives the reason by image id.

    ``seconds`` is the time of all, ``steps`` the mean seconds of an image in each step of its work (reading, computing
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


def stale_by_file(artefact: Artefact, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """The images that are not done, or were made from another file content."""
    done = artefact.done()
    return [record for record in records if not made_from_file(done.get(record.id), record.path)]


def stale_by_inputs(
    artefact: Artefact, upstream: dict[str, Artefact], records: Sequence[ImageRecord]
) -> list[ImageRecord]:
    """The images that are not done, or were made from other upstream images (or from some that are gone)."""
    done = artefact.done()
    above: dict[str, dict[str, Marker]] = {kind: other.done() for kind, other in upstream.items()}

    def fresh(record: ImageRecord) -> bool:
        inputs = {kind: markers[record.id] for kind, markers in above.items() if record.id in markers}
        return len(inputs) == len(above) and made_from_inputs(done.get(record.id), inputs)

    return [record for record in records if not fresh(record)]


def bring_up_to_date(
    task: CacheTask,
    stale: Callable[[Artefact], list[ImageRecord]],
    records: Sequence[ImageRecord],
    execution: Execution,
    progress: Progress,
    description: str,
    **described: Any,
) -> Report:
    """Runs ``task`` on the images that ``stale`` names; ``described`` become attributes of a new artefact."""
    artefact = task.artefact()
    artefacts = task.artefacts
    artefact.create(artefacts.settings(task.kind), artefacts.upstream(task.kind), **described)
    report = Report(artefact, len(records))
    began, steps = time.perf_counter(), []
    for outcome in run_images(task, stale(artefact), execution, progress, description):
        if outcome.failure is not None:
            report.failures[outcome.id] = outcome.failure
        elif outcome.summary != DONE_BY_ANOTHER:
            report.computed += 1
            steps.append(outcome.steps)
    report.seconds = time.perf_counter() - began
    report.steps = tuple(sum(own) / len(steps) for own in zip(*steps, strict=True))
    return report
