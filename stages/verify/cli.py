"""Command line of ``verify``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli import (
    SOME_IMAGES_FAILED,
    CacheOption,
    ConfigOption,
    ManifestOption,
    SetOption,
    SplitOption,
    read_run,
    say,
    say_json,
)


def command(
    manifest: ManifestOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    cache: CacheOption = None,
    split: SplitOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Forget what is damaged, so that the stages compute it again.")
    ] = False,
) -> None:
    """Re-hashes images and cached arrays, names what differs."""
    from pipeline.progress import console_progress
    from pipeline.store import Cache
    from stages.verify.check import check_cache

    data, settings = read_run(manifest, config, set_, cache)
    with console_progress() as progress:
        problems, checked = check_cache(Cache(settings.cache, data.name), data.select(split or ()), progress)
    for problem in problems:
        say(f"{problem.artefact.path}: {problem.reason}")
        if repair:
            problem.artefact.forget(problem.image_id)
    if problems:
        say("they will be computed again" if repair else "run it again with --repair to have them computed again")
    say_json({"stage": "verify", "checked": checked, "damaged": len(problems)})
    if problems and not repair:
        raise typer.Exit(SOME_IMAGES_FAILED)
