"""Command line of `migrate`."""

from __future__ import annotations

import typer

from pipeline.core.cli import SOME_IMAGES_FAILED, echo, print_json
from stages.options import CacheOption, ConfigOption, ManifestOption, SetOption, read_run


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
    from pipeline.cache import Cache
    from pipeline.core.progress import console_progress
    from stages.migrate.stage import migrate

    data, settings = read_run(manifest, config, set_, cache)
    opened = Cache(settings.cache, data.name)
    if not opened.artefacts():
        echo(f"nothing is cached in {opened.storage.url}")
    _, refused = opened.readable_artefacts()
    with console_progress() as progress:
        result = migrate(opened, progress)
    for reason in result.failures.values():
        echo(reason)
    for sentence in refused:
        echo(f"passed over: {sentence}")
    echo(f"{result.converted} images converted, {result.skipped} were already, {len(result.failures)} are damaged")
    figures = {"converted": result.converted, "skipped": result.skipped, "failed": len(result.failures)}
    print_json({"stage": "migrate", **figures, "passed_over": len(refused)})
    if result.failures:
        raise typer.Exit(SOME_IMAGES_FAILED)
