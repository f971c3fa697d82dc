"""Command line of `migrate`."""

from __future__ import annotations

from pipeline.core.cli import Result, echo
from stages.options import RunOptions, open_cache


def command(run: RunOptions) -> Result:
    """Converts a cache of format 1 in place.

    It then has one file per panorama and artefact instead of a folder. Nothing is computed; keys and contents stay
    the same. After a kill, the same command continues from there. Run no other stage on the cache at the same time.
    """
    from pipeline.core.progress import console_progress
    from stages.migrate.stage import migrate

    cache = open_cache(*run.read())
    _, refused = cache.readable_artefacts()
    with console_progress() as progress:
        result = migrate(cache, progress)
    for reason in result.failures.values():
        echo(reason)
    for sentence in refused:
        echo(f"skipped: {sentence}")
    echo(f"{result.converted} images converted, {result.skipped} were already, {len(result.failures)} are damaged")
    counts = {"converted": result.converted, "skipped": result.skipped, "failed": len(result.failures)}
    return Result({"stage": "migrate", **counts, "passed_over": len(refused)}, failed=bool(result.failures))
