"""Command line of ``gc``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli import CacheOption, ConfigOption, ManifestOption, SetOption, read_run, say, say_json


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
    """Sweeps what killed runs left and, if asked, whole artefacts."""
    from pipeline.errors import UserError
    from pipeline.store import Cache

    data, settings = read_run(manifest, config, set_, cache)
    opened = Cache(settings.cache, data.name)
    known = {artefact.path for artefact in opened.artefacts()}
    if unknown := set(drop or ()) - known:
        raise UserError(f"--drop {sorted(unknown)[0]}: no such artefact; found {', '.join(sorted(known)) or 'none'}")
    found = opened.orphans(hours * 3600) + sorted(drop or ())
    size = sum(sum(opened.storage.sizes(path).values()) for path in found)
    for path in found:
        say(path)
    if not dry_run:
        opened.sweep(found)
    say(f"{'would remove' if dry_run else 'removed'} {len(found)} folders, {size / 2**20:.2f} MiB")
    say_json({"stage": "gc", "removed": 0 if dry_run else len(found), "found": len(found), "bytes": size})
