"""What a table needs: what exists, what will be computed, and about how long and how much disk that takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import Artefact, Cache
from pipeline.core.errors import UserError
from pipeline.core.progress import clock, mebibytes
from stages.ablate.grid import Combination
from stages.ablate.stage import STUDENT, Measuring, upstream_kinds, with_seed
from stages.commands import stage_function
from stages.config import ARTEFACTS, Config


@dataclass(frozen=True)
class Work:
    """One artefact or student that a table needs.

    Attributes:
        group: what it is one of.
        title: its name.
        total: number of its images, or of the steps of a training; 0 if its config alone knows them.
        missing: number of those that are not there.
        seconds: estimated time for the missing ones; None if nothing of its kind was measured.
        bytes: estimated size of the missing ones in the cache; None likewise.
    """

    group: str
    title: str
    total: int
    missing: int
    seconds: float | None
    bytes: float | None = 0.0


def plan(measuring: Measuring, combinations: Sequence[Combination]) -> list[Work]:
    """Returns what a table needs, each artefact and student once, in the order of their computation.

    Outdated images count as existing. The logits and the ensemble of a TA that is still to be adapted, and the students
    on them, count as missing. Raises `UserError` as `Measuring.check` does.
    """
    measuring.check(combinations)
    works: dict[str, Work] = {}
    sizes: dict[str, Mapping[str, float]] = {}
    for combination in combinations:
        config, manifest = combination.config, measuring.manifest
        if config.cache not in sizes:
            sizes[config.cache] = _bytes_per_image(Cache(config.cache, manifest.name))
        for work in _artefacts(measuring, combination, sizes[config.cache]):
            if work.title not in works or works[work.title].total < work.total:
                works[work.title] = work
        for seed in combination.seeds:
            work = _student(measuring, combination, with_seed(config, seed))
            works.setdefault(f"{work.group}, {work.title}", work)
    return list(works.values())


def _artefacts(measuring: Measuring, combination: Combination, sizes: Mapping[str, float]) -> list[Work]:
    manifest, config = measuring.manifest, combination.config
    images = [record.id for record in manifest.select(measuring.used_splits(combination))]
    artefacts, cache = config.artefacts(manifest.preprocessing), Cache(config.cache, manifest.name)
    works = []
    for kind in [*reversed(upstream_kinds(artefacts)), "fused"]:
        artefact = artefacts.artefact(cache, kind)
        missing = sum(marker is None for marker in artefact.find_markers(images))
        works.append(_work(measuring, artefact, artefact.path, len(images), missing, sizes))
    for number in range(1, (combination.rounds or 0) + 1):
        for kind in ("teacher", "fused"):
            artefact = artefacts.artefact(cache, kind)
            title = f"{artefact.path} after round {number} of adaptation"
            works.append(_work(measuring, artefact, title, len(images), len(images), sizes))
    return works


def _work(
    measuring: Measuring, artefact: Artefact, title: str, total: int, missing: int, sizes: Mapping[str, float]
) -> Work:
    rate, size = measuring.store.rate(artefact.kind, artefact.key), sizes.get(artefact.path, sizes.get(artefact.kind))
    seconds = 0.0 if not missing else None if rate is None else rate * missing
    group = ARTEFACTS[artefact.kind].title + " of adapted TAs" * (title != artefact.path)
    return Work(group, title, total, missing, seconds, 0.0 if not missing else None if size is None else size * missing)


def _bytes_per_image(cache: Cache) -> dict[str, float]:
    """Returns the size of a panorama: of each artefact by its path, and the mean of those of a kind by the kind."""
    sizes: dict[str, float] = {}
    kinds: dict[str, list[float]] = {}
    for artefact in cache.readable_artefacts()[0]:
        if size := cache.summarise(artefact).bytes_per_image:
            sizes[artefact.path] = size
            kinds.setdefault(artefact.kind, []).append(size)
    return sizes | {kind: float(np.mean(values)) for kind, values in kinds.items()}


def _student(measuring: Measuring, combination: Combination, config: Config) -> Work:
    steps, rate = config.train.iterations or 0, measuring.store.rate(STUDENT, config.train.student)
    folder = stage_function("train", "run_folder")
    missing = steps or 1
    if combination.rounds is None:
        try:
            checkpoints = list(folder(measuring.work_dir, measuring.manifest, config).glob("iter_*.pth"))
        except UserError:  # nothing is fused yet
            checkpoints = []
        if any(path.stem == f"iter_{steps}" for path in checkpoints) or (checkpoints and not steps):
            missing = 0
    seconds = 0.0 if not missing else None if rate is None or not steps else rate * missing
    title = f"{combination.name}, seed {config.train.seed}"
    return Work(f"student {Path(config.train.student).stem}", title, steps, missing, seconds)


def plan_table(works: Sequence[Work]) -> tuple[list[str], list[list[Any]]]:
    """Returns titles and cells of a plan: a row for each group, and the sum of what is known."""
    groups: dict[str, list[Work]] = {}
    for work in works:
        groups.setdefault(work.group, []).append(work)
    cells = [
        [
            group,
            len(found),
            sum(1 for work in found if not work.missing),
            sum(work.missing for work in found),
            *_sums(found),
        ]
        for group, found in groups.items()
    ]
    units = "panoramas or steps to compute"
    total = ["sum", len(works), sum(1 for work in works if not work.missing), "", *_sums(works)]
    return ["needed", "different ones", "finished", units, "time, about", "disk, about"], [*cells, total]


def _sums(works: Sequence[Work]) -> tuple[str, str]:
    seconds, sizes = [work.seconds for work in works], [work.bytes for work in works]
    return _sum(seconds, clock, "not measured"), _sum(sizes, mebibytes, "not known")


def _sum(values: Sequence[float | None], text: Callable[[float], str], unknown: str) -> str:
    known = sum(value for value in values if value)
    if None not in values:
        return text(known)
    return f"{text(known)} and what is {unknown}" if known else unknown


def to_json(works: Sequence[Work]) -> list[dict[str, Any]]:
    """Returns a plan as plain JSON values."""
    return [{**work.__dict__} for work in works]
