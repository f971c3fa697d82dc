"""The rendered images on which a TA is trained and measured, and manifests of exactly these images."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from demo.splits import Split, WorldSettings
from demo.world import missing_samples, sample_paths, write_world
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress
from pipeline.data.manifests import Manifest, load_manifest

#: Labelled photos for training.
TRAINING: dict[Split, int] = {"source-train": 1500}
#: Photos and panoramas for testing.
TESTING: dict[Split, int] = {"source-val": 60, "target-test": 24}


def render_missing(world: Path, counts: Mapping[Split, int], progress: Progress, workers: int = 0) -> WorldSettings:
    """Renders the missing ones of the first `counts[split]` samples in the folder `world`.

    A new folder becomes the default world at half size; an existing one keeps its shift and seed.

    Args:
        world: the folder.
        counts: samples of each split.
        progress: is informed of every sample.
        workers: processes; 0 starts one per core.

    Returns:
        The settings of the world.

    Raises:
        UserError: the folder is no half-size demo world of this renderer.
    """
    settings = _read_settings(world)
    missing = len(missing_samples(world, counts))
    progress.start(f"rendering into {world}", missing)
    write_world(world, settings, counts, workers or len(os.sched_getaffinity(0)), lambda split: progress.advance())
    return settings


def _read_settings(world: Path) -> WorldSettings:
    path = world / "world.json"
    if not path.exists():
        return WorldSettings()
    try:
        record = json.loads(path.read_text())
        settings = WorldSettings(size=record["size"], shift=record["shift"], seed=record["seed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a record of a demo world ({error!r})") from None
    if settings.size != "half":
        raise UserError(f"{path}: size: found {settings.size!r}; expected half, the training size of the TAs")
    return settings


def write_manifest(path: Path, world: Path, counts: Mapping[Split, int]) -> Manifest:
    """Writes a manifest of the first `counts[split]` samples of `world`, with their labels, to `path`.

    Raises:
        ValueError: `counts` names photos and panoramas, or nothing.
    """
    pinhole = {split.startswith("source") for split in counts}
    if len(pinhole) != 1:
        raise ValueError(f"counts: found {', '.join(counts) or 'no split'}; expected photos or panoramas alone")
    labels = {"replace": [["images/", "labels/"], [".png", "_labelTrainIds.png"]]}
    splits = {}
    for split, count in counts.items():
        images = [str(sample_paths(world, split, k).image.relative_to(world)) for k in range(count)]
        splits[split] = {"images": images, "labels": labels}
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
