"""Command line of `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.core.cli import echo, print_json, print_table
from pipeline.core.errors import UserError
from stages.config import load_config
from stages.options import CacheOption, ConfigOption, ManifestOption, SetOption


def command(
    manifest: ManifestOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    cache: CacheOption = None,
    failed: Annotated[bool, typer.Option("--failed", help="List every failed panorama and its reason.")] = False,
    settings: Annotated[bool, typer.Option("--settings", help="Print what determines each artefact.")] = False,
) -> None:
    """What the cache holds: artefacts, panoramas, sizes, failures."""
    import json

    from pipeline.cache import Cache
    from pipeline.core.progress import mebibytes
    from pipeline.core.reading import read_yaml

    url = cache or load_config(config, set_ or ()).cache
    if manifest is not None:
        names = [str(read_yaml(manifest).get("name", ""))]
    elif "://" in url:
        raise UserError("--manifest is missing; expected one for a cache that is not a local folder")
    else:
        folders = Path(url).iterdir() if Path(url).is_dir() else ()
        names = sorted(folder.name for folder in folders if folder.is_dir())
    figures: dict[str, Any] = {}
    for name in names:
        opened = Cache(url, name)
        rows, failures = [], []
        readable, refused = opened.readable_artefacts()
        for sentence in refused:
            echo(f"passed over: {sentence}")
        for artefact in readable:
            attributes = artefact.attributes()
            summary = opened.summarise(artefact)
            per_image = max(1, summary.images)
            arrays = {array: round(size / per_image) for array, size in summary.bytes_by_array.items()}
            what = artefact.path
            rows.append([what, summary.images, summary.failed, mebibytes(summary.bytes_per_image), ""])
            rows += [["", "", "", mebibytes(size), array] for array, size in arrays.items()]
            figures[f"{name}/{what}"] = {
                "images": summary.images,
                "failed": summary.failed,
                "damaged_records": summary.damaged,
                "bytes_per_image": round(summary.bytes_per_image),
                "arrays": arrays,
            }
            if summary.damaged:
                echo(f"{what}: {summary.damaged} markers or records are damaged; run `verify --repair`")
            if failed:
                failures += [[what, failure.id, failure.reason] for failure in artefact.failures()]
            if settings:
                echo(f"{what}: {json.dumps(attributes.get('settings'), ensure_ascii=False)}")
        print_table(f"{url}/{name}", ["artefact", "panoramas", "failed", "a panorama", "array"], rows)
        if failed:
            print_table("failed panoramas", ["artefact", "panorama", "reason"], failures)
    if not figures:
        echo(f"nothing is cached in {url}")
    print_json(figures)
