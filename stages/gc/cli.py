"""Command line of `gc`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.core.cli import echo, print_json
from stages.options import CacheOption, ConfigOption, ManifestOption, SetOption, read_run


def command(
    manifest: ManifestOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    cache: CacheOption = None,
    hours: Annotated[
        float, typer.Option("--older-than", min=0, help="Hours since the last write; a run may still be writing.")
    ] = 24.0,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", help="Also remove this artefact, e.g. fused/eb8550874a31. Repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Sweeps what killed runs left and, if asked, whole artefacts.

    Follows no link and leaves artefacts of another format alone.
    """
    from pipeline.cache import Cache
    from pipeline.core.errors import UserError

    data, settings = read_run(manifest, config, set_, cache)
    opened = Cache(settings.cache, data.name)
    if not opened.artefacts():
        echo(f"nothing is cached in {opened.storage.url}")
    readable, refused = opened.readable_artefacts()
    known = {artefact.path for artefact in opened.artefacts() if not artefact.is_of_another_format()}
    if unknown := set(drop or ()) - known:
        raise UserError(f"--drop {sorted(unknown)[0]}: no such artefact; found {', '.join(sorted(known)) or 'none'}")
    for sentence in refused:
        echo(f"passed over: {sentence}")
    found = size = 0
    for path in opened.orphans(readable, hours * 3600):
        bytes_ = opened.storage.size(path)
        if dry_run or opened.sweep(path, hours * 3600):
            found += 1
            size += bytes_
            echo(path)
    for path in sorted(drop or ()):
        found += 1
        size += opened.storage.size(path)
        echo(path)
        if not dry_run:
            opened.drop(opened.artefact(*path.split("/")))
    echo(f"{'would remove' if dry_run else 'removed'} {found} files and folders, {size / 2**20:.2f} MiB")
    removed = 0 if dry_run else found
    print_json({"stage": "gc", "removed": removed, "found": found, "bytes": size, "passed_over": len(refused)})
