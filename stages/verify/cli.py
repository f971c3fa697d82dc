"""Command line of `verify`."""

from __future__ import annotations

from typing import Annotated

from pipeline.core.cli import Result, echo
from stages.options import RunOptions, SplitOption, open_cache, option


def command(
    run: RunOptions,
    split: SplitOption = None,
    repair: Annotated[
        bool, option("--repair", "Remove damaged images and what was made from them; the stages compute them again.")
    ] = False,
) -> Result:
    """Compares the cache with its digests; names what is damaged.

    Reads every cached array and every image file.
    """
    from pipeline.core.progress import console_progress
    from stages.verify.check import CacheCheck, find_adapted_teachers
    from stages.verify.check import repair as repair_problem

    data, settings = run.read()
    cache = open_cache(data, settings)
    _, refused = cache.readable_artefacts()
    check, damaged = CacheCheck(cache, data.select(split or ()), all_images=not split), 0
    removed: list[str] = []
    unchecked: set[str] = set()  # artefacts of format 1, which earlier versions read without a check
    with console_progress() as progress:
        for problem in check.problems(progress):
            damaged += 1
            progress.note(f"{problem.artefact.path}: {problem.reason}")
            changed = repair_problem(cache, problem) if repair else []
            removed += changed
            if problem.marker is not None and not problem.marker.is_zip:
                unchecked |= {problem.artefact.path, *changed}
    for sentence in refused:
        echo(f"skipped: {sentence}")
    for path in sorted(path for path in unchecked if path.startswith("fused/")):
        learned = ", ".join(["students", *find_adapted_teachers(cache, path)])
        echo(f"{learned}: may be trained on damaged labels of {path}; train again with --fresh")
    if damaged:
        again = f"{len(removed)} images are removed; precompute and fuse compute them again"
        echo(again if repair else "run it again with --repair, then precompute and fuse compute them again")
    counts = {"checked": check.checked_images, "damaged": damaged, "forgotten": len(removed)}
    figures = {"stage": "verify", **counts, "passed_over": len(refused)}
    return Result(figures, failed=bool(damaged) and not repair)
