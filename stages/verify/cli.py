"""Command line of `verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.core.cli import SOME_IMAGES_FAILED, echo, print_json
from stages.options import CacheOption, ConfigOption, ManifestOption, SetOption, SplitOption, read_run


def command(
    manifest: ManifestOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    cache: CacheOption = None,
    split: SplitOption = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Forget what is damaged and what was made from it; the stages compute it again."),
    ] = False,
) -> None:
    """Re-hashes images and reads every cached array, names what is damaged."""
    from pipeline.cache import Cache
    from pipeline.core.progress import console_progress
    from stages.verify.check import Checked, check_cache, learned_from
    from stages.verify.check import repair as repair_problem

    data, settings = read_run(manifest, config, set_, cache)
    opened = Cache(settings.cache, data.name)
    if not opened.artefacts():
        echo(f"nothing is cached in {opened.storage.url}")
    _, refused = opened.readable_artefacts()
    checked, damaged = Checked(), 0
    forgotten: list[str] = []
    unchecked: set[str] = set()  # artefacts of format 1, which earlier programs read without a check
    with console_progress() as progress:
        for problem in check_cache(opened, data.select(split or ()), progress, checked, all_images=not split):
            damaged += 1
            progress.note(f"{problem.artefact.path}: {problem.reason}")
            changed = repair_problem(opened, problem) if repair else []
            forgotten += changed
            if problem.marker is not None and not problem.marker.is_zip:
                unchecked |= {problem.artefact.path, *changed}
    for sentence in refused:
        echo(f"passed over: {sentence}")
    for path in sorted(path for path in unchecked if path.startswith("fused/")):
        learned = ", ".join(["students", *learned_from(opened, path)])
        echo(f"{learned}: may have learned from damaged labels of {path}; train again with --fresh")
    if damaged:
        again = f"{len(forgotten)} images are forgotten; precompute and fuse compute them again"
        echo(again if repair else "run it again with --repair to have them computed again")
    figures = {"stage": "verify", "checked": checked.images, "damaged": damaged, "forgotten": len(forgotten)}
    print_json({**figures, "passed_over": len(refused)})
    if damaged and not repair:
        raise typer.Exit(SOME_IMAGES_FAILED)
