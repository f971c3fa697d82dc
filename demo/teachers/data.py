"""The rendered folders that a TA is trained and measured on, and manifests that name exactly their first images."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from demo.splits import Split, WorldSettings
from demo.world import WorldError, missing_samples, sample_paths, write_world
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress
from pipeline.data.manifests import Manifest, load_manifest

TRAINING: dict[Split, int] = {"source-train": 1500}
"""Labelled photos to train on."""
MEASURING: dict[Split, int] = {"source-val": 60, "target-test": 24}
"""Photos and panoramas to measure on."""


def complete_world(world: Path, counts: Mapping[Split, int], progress: Progress, workers: int = 0) -> WorldSettings:
    """Render what is missing of the first `counts[split]` samples in folder `world`; returns its settings.

    A new folder becomes the default world at half size; of another one the shift and seed are kept. `workers` are
    processes, 0 takes one per core. Raises `UserError` if the folder is no half-size demo world of this
    renderer.
    """
    settings = _settings(world)
    missing = len(missing_samples(world, counts))
    progress.start(f"rendering into {world}", missing)
    try:
        write_world(world, settings, counts, workers or len(os.sched_getaffinity(0)), lambda split: progress.advance())
    except WorldError as error:
        raise UserError(str(error)) from None
    return settings


def _settings(world: Path) -> WorldSettings:
    path = world / "world.json"
    if not path.exists():
        return WorldSettings()
    try:
        found = json.loads(path.read_text())
        settings = WorldSettings(size=found["size"], shift=found["shift"], seed=found["seed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a record of a demo world ({error!r})") from None
    if settings.size != "half":
        raise UserError(f"{path}: size: found {settings.size!r}; expected half, the size that the TAs are trained at")
    return settings


def write_manifest(path: Path, world: Path, counts: Mapping[Split, int]) -> Manifest:
    """A manifest at `path` of the first `counts[split]` samples of `world`, with their labels."""
    splits = {}
    for split, count in counts.items():
        images = [str(sample_paths(world, split, k).image.relative_to(world)) for k in range(count)]
        splits[split] = {
            "images": images,
            "labels": {"replace": [["images/", "labels/"], [".png", "_labelTrainIds.png"]]},
        }
    pinhole = {split.startswith("source") for split in counts}
    if len(pinhole) != 1:
        raise ValueError(f"photos and panoramas need a manifest each, found {', '.join(counts)}")
    content = {
        "name": path.stem,
        "root": str(world.absolute()),
        "projection": "pinhole" if pinhole.pop() else "erp",
        "label_space": "cityscapes19",
        "splits": splits,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_manifest(path)
