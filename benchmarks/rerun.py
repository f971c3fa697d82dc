"""How long ``precompute`` takes where there is nothing to do: the price of asking a finished cache what it holds.

The cache is synthetic but whole: real image files, and for each a finished image in every artefact of stage one, with
a marker that lists its source and its files as the stage itself writes them. Images differ in name and time only, so
the arrays of all are those of the first, by symbolic link.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pipeline.cli import say_table
from pipeline.config import Config, load_config
from pipeline.manifests import ImageRecord, Manifest, load_manifest
from pipeline.store import Artefact, Cache, Marker
from pipeline.store.freshness import read_source
from pipeline.store.marker import encode_id

IMAGES = 2000
REPEATS = 3

#: A panorama of 400 x 2048 with windows of 512 / 256, in small: eight views with a few planes each.
VIEWS, PLANES_PER_VIEW, PANORAMA_PLANES = 8, 3, 6

TEACHER = Path(__file__).parent.parent / "mmseg_configs" / "teachers" / "cgnet_cityscapes.py"


def run(images: int = IMAGES, repeats: int = REPEATS) -> dict[str, Any]:
    """Builds the cache in a temporary folder, times the command as a user runs it, and returns the median."""
    with tempfile.TemporaryDirectory(prefix="rerun-") as folder:
        began = time.perf_counter()
        arguments = build(Path(folder), images)
        building = time.perf_counter() - began
        seconds = sorted(seconds_of_rerun(arguments, images) for _ in range(repeats))
    median = seconds[len(seconds) // 2]
    say_table(
        "rerun",
        ["finished cache", "images", "build (s)", "fastest (s)", "median (s)", "slowest (s)"],
        [["precompute: sam, masks, teacher", images, building, seconds[0], median, seconds[-1]]],
    )
    return {f"seconds_{images}_images": round(median, 3), "repeats": repeats}


def build(folder: Path, images: int) -> list[str]:
    """A data set of ``images`` tiny panoramas and its finished cache; returns the options that name them."""
    (folder / "images").mkdir()
    first = folder / "images" / "00000.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)).save(first)
    for k in range(1, images):
        shutil.copyfile(first, folder / "images" / f"{k:05d}.png")
    manifest, config = folder / "manifest.yaml", folder / "config.yaml"
    manifest.write_text(yaml.safe_dump({"name": "rerun", "root": "images", "splits": {"train": {"images": ["*.png"]}}}))
    model = {"kind": "mmseg", "config": str(TEACHER), "random_weights": True}
    config.write_text(yaml.safe_dump({"cache": str(folder / "cache"), "teacher": {"model": model}}))
    _fill(load_manifest(manifest), load_config(config))
    return ["--manifest", str(manifest), "--config", str(config)]


def _fill(manifest: Manifest, config: Config) -> None:
    planes = VIEWS * PLANES_PER_VIEW
    contents: dict[str, dict[str, tuple[np.ndarray, tuple[int, ...]]]] = {
        "sam": {
            "planes": (np.ones((planes, 4, 4), np.uint16), (1, 4, 4)),
            "plane_view": (np.arange(planes, dtype=np.uint16), (planes,)),
            "table": (np.ones((9, 11)), (9, 11)),
        },
        "masks": {
            "planes": (np.ones((PANORAMA_PLANES, 4, 4), np.uint16), (1, 4, 4)),
            "plane_view": (np.zeros(PANORAMA_PLANES, np.uint16), (PANORAMA_PLANES,)),
            "table": (np.ones((9, 11)), (9, 11)),
            "boundary": (np.zeros((4, 4), np.uint8), (4, 4)),
        },
        "teacher": {"logits": (np.ones((VIEWS, 19, 4, 4), np.float16), (1, 19, 4, 4))},
    }
    cache, artefacts = Cache(config.cache, manifest.name), config.artefacts(manifest.preparation)
    above: dict[str, str] = {}
    for kind, arrays in contents.items():
        artefact = cache.artefact(kind, artefacts.key(kind))
        artefact.create(artefacts.settings(kind), artefacts.upstream(kind))
        first = manifest.images[0]
        source = None if kind == "masks" else read_source(first.path)
        inputs = {upstream: above[upstream] for upstream in artefacts.upstream(kind)}
        with artefact.write(first.id, source=source, inputs=inputs) as attempt:
            for name, (values, chunks) in arrays.items():
                attempt.array(name, values, chunks=chunks)
        marker = artefact.marker(first.id)
        assert marker is not None
        above[kind] = marker.content
        for record in manifest.images[1:]:
            _copy(artefact, marker, record)


def _copy(artefact: Artefact, first: Marker, record: ImageRecord) -> None:
    """The finished image ``first`` once more, as made from ``record``."""
    marker = replace(first, id=record.id, source=first.source and read_source(record.path))
    root = Path(artefact.storage.url)
    attempt = root / artefact.attempt_path(marker)
    attempt.parent.mkdir()
    attempt.symlink_to(root / artefact.attempt_path(first), target_is_directory=True)
    (root / artefact.path / "done" / f"{encode_id(record.id)}.json").write_bytes(marker.to_json())


def seconds_of_rerun(arguments: list[str], images: int) -> float:
    """Seconds of the real command; raises ``RuntimeError`` unless it found everything finished."""
    command = [sys.executable, "-m", "pipeline", "precompute", *arguments]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False)
    seconds = time.perf_counter() - began
    last = done.stdout.strip().rpartition("\n")[2]
    figures = json.loads(last) if done.returncode == 0 else {}
    if any(figures.get(kind, {}).get("reused") != images for kind in ("sam", "masks", "teacher")):
        raise RuntimeError(f"precompute found no {images} finished images, exit {done.returncode}: {last}{done.stderr}")
    return seconds
