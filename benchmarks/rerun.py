"""Time of `precompute` on a finished cache, where nothing is computed.

The cache is synthetic but complete: real image files, and for each a finished image in every artefact, with the marker
that the stage itself writes. Images differ in name and time only, so their arrays are hard links to a few files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pipeline.cache import Artefact, Cache, ImageWriter, Marker, Source
from pipeline.cache.freshness import read_source
from pipeline.cache.image_group import IDENTITY_ATTRIBUTE
from pipeline.cache.marker import bytes_by_array, encode_id
from pipeline.cache.zip_file import pack
from pipeline.core.cli import print_table
from pipeline.data.manifests import Manifest, load_manifest
from stages.config import Config, load_config

IMAGES = 2000
REPEATS = 3

#: A panorama of 400 x 2048 with windows of 512 / 256, reduced in size: eight views with a few planes each.
VIEWS, PLANES_PER_VIEW, PANORAMA_PLANES = 8, 3, 6

#: Hard links of one file; ext4 allows 65,000, other file systems fewer.
LINKS = 1000

TEACHER = Path(__file__).parent.parent / "mmseg_configs" / "teachers" / "cgnet_cityscapes.py"


def run(images: int = IMAGES, repeats: int = REPEATS) -> dict[str, Any]:
    """Builds the cache in a temporary folder and measures the real command; returns medians."""
    with tempfile.TemporaryDirectory(prefix="rerun-") as folder:
        start = time.perf_counter()
        arguments = build(Path(folder), images)
        building = time.perf_counter() - start
        seconds, floors = [], []
        for _ in range(repeats):
            seconds.append(rerun(arguments, images)[0])
            floors.append(floor(Path(folder)))
    ratio = sorted(s / f for s, f in zip(seconds, floors, strict=True))[repeats // 2]
    seconds.sort()
    median = seconds[len(seconds) // 2]
    print_table(
        "rerun",
        ["finished cache", "images", "build (s)", "fastest (s)", "median (s)", "slowest (s)"],
        [["precompute: sam, masks, teacher", images, building, seconds[0], median, seconds[-1]]],
    )
    return {f"seconds_{images}_images": round(median, 3), "rerun_over_floor": round(ratio, 3), "repeats": repeats}


def floor(folder: Path) -> float:
    """Returns the seconds of the work that every rerun needs, in a plain loop.

    It starts Python with the libraries of the settings, reads the time of every image file, and parses every marker of
    stage one.
    """
    code = (
        "import json, os, sys; from pathlib import Path; import pydantic, typer, yaml\n"
        "for entry in os.scandir(sys.argv[1] + '/images'): entry.stat()\n"
        "for done in Path(sys.argv[1], 'cache', 'rerun').glob('*/*/done'):\n"
        "    if done.parts[-3] != 'fused':\n"
        "        for entry in os.scandir(done):\n"
        "            with open(entry.path, 'rb') as file: json.loads(file.read())\n"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    return time.perf_counter() - start


def build(folder: Path, images: int) -> list[str]:
    """Writes a data set of `images` tiny panoramas and its finished cache; returns the options that name them."""
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
    image = np.zeros((4, 4), np.uint8)
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
            "boundary": (image, (4, 4)),
        },
        "teacher": {"logits": (np.ones((VIEWS, 19, 4, 4), np.float16), (1, 19, 4, 4))},
        "fused": {
            "stitched": (np.ones((19, 1, 1), np.float16), (19, 1, 1)),
            **{name: (image, (4, 4)) for name in ("label", "gate", "weight", "boundary")},
        },
    }
    cache, artefacts = Cache(config.cache, manifest.name), config.artefacts(manifest.preprocessing)
    digest = read_source(manifest.images[0].path).sha256
    digests: dict[str, str] = {}
    for kind, arrays in contents.items():
        artefact = cache.artefact(kind, artefacts.key(kind))
        artefact.create(artefacts.settings(kind), artefacts.upstream(kind))
        writer = ImageWriter("")
        for name, (values, chunks) in arrays.items():
            writer.add_array(name, values, chunks=chunks)
        inputs = {upstream: digests[upstream] for upstream in artefacts.upstream(kind)}
        digests[kind] = writer.content()
        _finish_all(artefact, writer, inputs, digest, manifest)


def _finish_all(
    artefact: Artefact, writer: ImageWriter, inputs: dict[str, str], digest: str, manifest: Manifest
) -> None:
    """Writes every image and its marker without flushing them; the files of all images are hard links to a few.

    The groups therefore lack the attribute that names their image, as those of a foreign program may.
    """
    members = writer.members()
    group = json.loads(members["zarr.json"])
    del group["attributes"][IDENTITY_ATTRIBUTE]
    data = pack({**members, "zarr.json": json.dumps(group).encode()})
    sha256, content = hashlib.sha256(data).hexdigest(), writer.content()
    folder = Path(artefact.storage.url) / artefact.path
    (folder / "images").mkdir()
    (folder / "done").mkdir()
    for number, record in enumerate(manifest.images):
        name = encode_id(record.id)
        path = folder / "images" / f"{name}.{sha256[:16]}.zip"
        if number % LINKS == 0:
            path.write_bytes(data)
            first = path
        else:
            os.link(first, path)
        stat = os.stat(record.path)
        source = None if artefact.kind == "fused" else Source(stat.st_size, stat.st_mtime_ns, digest)
        arrays = bytes_by_array({file: len(data) for file, data in members.items()})
        marker = Marker(record.id, path.name, source, inputs, content, len(data), sha256, arrays)
        (folder / "done" / f"{name}.json").write_bytes(marker.to_json())


def rerun(arguments: list[str], images: int, stage: str = "precompute") -> tuple[float, float]:
    """Returns seconds and peak MiB of the real command. Raises `RuntimeError` unless all images are finished."""
    command = [sys.executable, "-m", "pipeline", stage, *arguments, "--json"]
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=Path(__file__).parent.parent)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().strip()
    last = text.rpartition("\n")[2]
    figures = json.loads(last) if process.returncode == 0 else {}
    reports = [figures] if stage == "fuse" else [figures.get(kind, {}) for kind in ("sam", "masks", "teacher")]
    if any(report.get("reused") != images for report in reports):
        raise RuntimeError(f"{stage} found no {images} finished images, exit {process.returncode}: {text[-2000:]}")
    return seconds, usage.ru_maxrss / 1024
