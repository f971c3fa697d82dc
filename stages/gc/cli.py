"""Command line of `gc`."""

from __future__ import annotations

from typing import Annotated

from pipeline.core.cli import Result, echo
from stages.options import RunOptions, open_cache, option


def command(
    run: RunOptions,
    hours: Annotated[
        float, option("--older-than", "Since the last write; younger files may be in use by a run.", "HOURS", min=0)
    ] = 24.0,
    drop: Annotated[
        list[str] | None,
        option("--drop", "Also remove this artefact, e.g. fused/eb8550874a31. Repeatable.", "ARTEFACT"),
    ] = None,
    dry_run: Annotated[bool, option("--dry-run", "Remove nothing, only list it.")] = False,
) -> Result:
    """Removes what killed runs left and, on demand, artefacts.

    Follows no link and leaves artefacts of another format alone.
    """
    from pipeline.core.errors import UserError

    cache = open_cache(*run.read())
    readable, refused = cache.readable_artefacts()
    names = {artefact.path for artefact in cache.artefacts() if not artefact.has_unknown_format()}
    if unknown := set(drop or ()) - names:
        raise UserError(f"--drop {sorted(unknown)[0]}: no such artefact; found {', '.join(sorted(names)) or 'none'}")
    for sentence in refused:
        echo(f"skipped: {sentence}")
    removed, size = 0, 0
    for path in cache.find_orphans(readable, hours * 3600):
        bytes_ = cache.storage.size(path)
        if dry_run or cache.remove_orphan(path, hours * 3600):
            removed, size = removed + 1, size + bytes_
            echo(path)
    for path in sorted(drop or ()):
        removed, size = removed + 1, size + cache.storage.size(path)
        echo(path)
        if not dry_run:
            cache.drop(cache.artefact(*path.split("/")))
    echo(f"{'would remove' if dry_run else 'removed'} {removed} files and folders, {size / 2**20:.2f} MiB")
    counts = {"removed": 0 if dry_run else removed, "found": removed, "bytes": size, "passed_over": len(refused)}
    return Result({"stage": "gc", **counts})
