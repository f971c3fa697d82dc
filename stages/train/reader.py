"""Opening the reader of a training in a loader process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.cache.fused_reader import CacheReader
from pipeline.data.manifests import load_manifest
from stages.config import load_config


def open_cache(
    manifest: str, config: str | None, overrides: Sequence[str] = (), splits: Sequence[str] = ()
) -> CacheReader:
    """A `CacheReader` from plain values, which travel to loader processes.

    Raises `UserError` if nothing is fused with these settings.
    """
    settings = load_config(Path(config) if config is not None else None, overrides)
    reader = CacheReader(load_manifest(Path(manifest)), settings, tuple(splits))
    reader.artefact.attributes()
    reader.check_any()
    return reader
