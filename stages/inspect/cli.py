"""Command line of `inspect`."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pipeline.core.cli import Result, echo, print_table
from stages.options import RunOptions, option


def command(
    run: RunOptions,
    failed: Annotated[bool, option("--failed", "List every failed panorama and its reason.")] = False,
    settings: Annotated[bool, option("--settings", "Print what determines each artefact.")] = False,
) -> Result:
    """Lists the artefacts in the cache: panoramas, sizes, failures.

    Without --manifest those of all data sets.
    """
    from pipeline.core.progress import mebibytes

    figures: dict[str, Any] = {}
    for name, cache in run.caches().items():
        rows, failures = [], []
        readable, refused = cache.readable_artefacts()
        for sentence in refused:
            echo(f"skipped: {sentence}")
        for artefact in readable:
            summary = cache.summarise(artefact)
            arrays = {array: round(size / max(1, summary.images)) for array, size in summary.bytes_by_array.items()}
            rows.append([artefact.path, summary.images, summary.failed, mebibytes(summary.bytes_per_image), ""])
            rows += [["", "", "", mebibytes(size), array] for array, size in arrays.items()]
            counts = {"images": summary.images, "failed": summary.failed, "damaged_records": summary.damaged}
            sizes = {"bytes_per_image": round(summary.bytes_per_image), "arrays": arrays}
            figures[f"{name}/{artefact.path}"] = counts | sizes
            if summary.damaged:
                echo(f"{artefact.path}: {summary.damaged} markers or records are damaged; run `verify --repair`")
            if failed:
                failures += [[artefact.path, failure.id, failure.reason] for failure in artefact.failures()]
            if settings:
                echo(f"{artefact.path}: {json.dumps(artefact.attributes().get('settings'), ensure_ascii=False)}")
        print_table(cache.storage.url, ["artefact", "panoramas", "failed", "a panorama", "array"], rows)
        if failed:
            print_table("failed panoramas", ["artefact", "panorama", "reason"], failures)
    if not figures:
        echo(f"nothing is cached in {run.read_settings(keep_unset=True).cache}")
    return Result(figures)
