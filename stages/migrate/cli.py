"""Command line of ``migrate``."""

from __future__ import annotations

import typer

from pipeline.cli import (
    SOME_IMAGES_FAILED,
    CacheOption,
    ConfigOption,
    ManifestOption,
    SetOption,
    read_run,
    say,
    say_json,
)


def command(
    manifest: ManifestOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    cache: CacheOption = None,
) -> None:
    """Converts a cache of format 1 in place: one file a panorama and artefact instead of a folder.

    Nothing is computed, no key and no content changes. Killed at any instant, the same command goes on from there.
    Let no other stage run on the cache meanwhile.
    """
    from pipeline.progress import console_progress
    from pipeline.store import Cache
    from stages.migrate.stage import migrate

    data, settings = read_run(manifest, config, set_, cache)
    opened = Cache(settings.cache, data.name)
    if not opened.artefacts():
        say(f"nothing is cached in {opened.storage.url}")
    _, refused = opened.readable_artefacts()
    with console_progress() as progress:
        result = migrate(opened, progress)
    for reason in result.failures.values():
        say(reason)
    for sentence in refused:
        say(f"passed over: {sentence}")
    say(f"{result.converted} images converted, {result.skipped} were already, {len(result.failures)} are damaged")
    figures = {"converted": result.converted, "skipped": result.skipped, "failed": len(result.failures)}
    say_json({"stage": "migrate", **figures, "passed_over": len(refused)})
    if result.failures:
        raise typer.Exit(SOME_IMAGES_FAILED)
