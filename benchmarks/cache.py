"""Size of the cache by array, and the time to read the masks and logits of a panorama.

Panoramas of the demo world at half size and at 400 x 2048, 19 classes, stride 4, half-overlapping windows; the masks
are the demo SAM's, which overlap. Budget at 400 x 2048: 6 MiB, masks and logits in 15 ms.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numcodecs import blosc
from PIL import Image

from benchmarks.generator import WEIGHTS, one_thread
from pipeline.cache import Cache
from pipeline.cache.groups import read_mask_sets
from pipeline.cache.zip_file import unpack
from pipeline.core.cli import print_table
from pipeline.data.manifests import Manifest, load_manifest
from stages.config import Config, load_config
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute

PANORAMAS = 2
REPEATS = 25
RULES = ("paper", "best")
MIB = 2**20
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Size:
    """A size of the demo world, and the width of windows of a quarter of the panorama."""

    name: str
    world: str
    width: int


SIZES = (Size("200 x 1024", "half", 256), Size("400 x 2048", "full", 512))


@dataclass(frozen=True)
class Cost:
    """Size and reading time of a panorama.

    Attributes:
        arrays: bytes by artefact and array.
        wall: milliseconds to read masks and logits.
        cpu: CPU milliseconds to read masks and logits.
        floor: milliseconds to read the same files and decompress their chunks, without checks and assembly.
    """

    arrays: dict[str, float]
    wall: float
    cpu: float
    floor: float

    def mib(self, rule: str) -> float:
        """Returns the MiB of a panorama in all artefacts, with one fusion rule."""
        others = tuple(f"fused ({other})" for other in RULES if other != rule)
        return sum(size for name, size in self.arrays.items() if not name.startswith(others)) / MIB


def run(panoramas: int = PANORAMAS, sizes: Sequence[Size] = SIZES, points_per_side: int = 16) -> dict[str, Any]:
    """Fills a cache in a temporary folder for each size by the real stages, and measures it."""
    costs = {}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="cache-") as folder, one_thread():
            costs[size.name] = measure(size, panoramas, Path(folder), points_per_side)
    names = list(next(iter(costs.values())).arrays)
    rows: list[list[Any]] = [[name, *(round(c.arrays[name] / 1024, 1) for c in costs.values())] for name in names]
    print_table("KiB a panorama", ["array", *costs], rows)
    rows = [[f"all, with rule {rule} (MiB)", *(cost.mib(rule) for cost in costs.values())] for rule in RULES]
    rows += [
        ["masks and logits (ms)", *(c.wall for c in costs.values())],
        ["  of them CPU (ms)", *(c.cpu for c in costs.values())],
        ["files read and chunks decompressed alone (ms)", *(c.floor for c in costs.values())],
    ]
    print_table(f"a panorama, mean of {panoramas}; reading: median of {REPEATS} times", ["", *costs], rows)
    last = costs[sizes[-1].name]
    return {
        "mib_per_image": round(max(last.mib(rule) for rule in RULES), 3),
        **{f"mib_per_image_{rule}": round(last.mib(rule), 3) for rule in RULES},
        "decode_ms": round(last.wall, 2),
        "decode_cpu_ms": round(last.cpu, 2),
        "decode_over_floor": round(last.wall / last.floor, 3),
        **{f"kib_{name}": round(value / 1024, 1) for name, value in last.arrays.items()},
    }


def measure(size: Size, panoramas: int, folder: Path, points_per_side: int) -> Cost:
    """Runs both stages on the first panoramas of `target-test`, and measures their cache."""
    manifest = lay_out(size, panoramas, folder)
    arrays: dict[str, float] = {}
    config = settings(size, folder, points_per_side)
    precompute(manifest, config)
    cache = Cache(config.cache, manifest.name)
    artefacts = config.artefacts(manifest.preprocessing)
    for kind in ("sam", "masks", "teacher"):
        summary = cache.summarise(cache.artefact(kind, artefacts.key(kind)))
        arrays |= {f"{kind} {name}": total / panoramas for name, total in summary.bytes_by_array.items()}
    for rule in RULES:
        config = settings(size, folder, points_per_side, f"fusion.rule={rule}")
        fuse(manifest, config)
        key = config.artefacts(manifest.preprocessing).key("fused")
        summary = cache.summarise(cache.artefact("fused", key))
        arrays |= {f"fused ({rule}) {name}": total / panoramas for name, total in summary.bytes_by_array.items()}
    times = np.array(list(decode(manifest, config, REPEATS)))
    return Cost(arrays, *np.median(times, axis=0).tolist())


def lay_out(size: Size, panoramas: int, folder: Path) -> Manifest:
    """Writes the panoramas and their manifest."""
    from demo.splits import WorldSettings, render_sample

    (folder / "images").mkdir()
    for index in range(panoramas):
        picture = render_sample(WorldSettings(size.world), "target-test", index).image  # type: ignore[arg-type]
        Image.fromarray(picture).save(folder / "images" / f"{index}.png")
    (folder / "manifest.yaml").write_text(
        yaml.safe_dump({"name": "cache", "root": "images", "splits": {"test": {"images": ["*.png"]}}})
    )
    return load_manifest(folder / "manifest.yaml")


def settings(size: Size, folder: Path, points_per_side: int, *overrides: str) -> Config:
    """Returns settings with the demo's SAM and TA, and windows of a quarter of the panorama that overlap by half."""
    views = {"width": size.width, "stride": size.width // 2}
    sam: dict[str, Any] = {"kind": "sam", "builder": "demo.sam.model:build", "checkpoint": str(WEIGHTS)}
    sam |= {"pred_iou_thresh": 0.2, "stability_score_thresh": 0.5, "stability_score_offset": 0.5}
    sam |= {"keep_prompt_component": True, "mask_nms_thresh": 0.4, "points_per_side": points_per_side}
    model = {
        "kind": "mmseg",
        "config": str(ROOT / "mmseg_configs" / "teachers" / "demo_resnet_fpn.py"),
        "checkpoint": str(ROOT / "demo" / "weights" / "ta_resnet_fpn.safetensors"),
    }
    config = {
        "cache": str(folder / "cache"),
        "sam": {"views": views, "generator": sam},
        "masks": {"filter": {"predicted_iou": 0.2, "stability_score": 0.5}},
        "teacher": {"views": views, "model": model},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return load_config(folder / "config.yaml", overrides)


def decode(manifest: Manifest, config: Config, repeats: int) -> Iterator[tuple[float, float, float]]:
    """Yields milliseconds to read the panorama masks and TA logits, `repeats` times: wall clock, CPU, and the floor.

    The floor is measured after all reading, so that neither fills the processor's caches for the other.
    """
    cache, artefacts = Cache(config.cache, manifest.name), config.artefacts(manifest.preprocessing)
    masks, teacher = (cache.artefact(kind, artefacts.key(kind)) for kind in ("masks", "teacher"))
    ids = [manifest.images[repeat % len(manifest.images)].id for repeat in range(repeats + 2)]
    reading, floors = [], []
    for image in ids:
        wall, cpu = time.perf_counter(), time.process_time()
        group = masks.read(image)
        read_mask_sets(group, [tuple(group.attributes["image_size"])])
        teacher.read(image).read_array("logits")
        reading.append((1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)))
    for image in ids:
        paths = [Path(a.storage.url) / a.file_path(a.read(image).marker) for a in (masks, teacher)]
        chunks = [find_chunks(path) for path in paths]
        start = time.perf_counter()
        for path, ranges in zip(paths, chunks, strict=True):
            data = path.read_bytes()
            for first, last in ranges:
                blosc.decompress(data[first:last])
        floors.append(1000 * (time.perf_counter() - start))
    # the first two fill the page cache
    return ((*times, floor) for times, floor in zip(reading[2:], floors[2:], strict=True))


def find_chunks(path: Path) -> list[tuple[int, int]]:
    """Returns the byte ranges of the chunks in an image's zip file."""
    data = path.read_bytes()
    chunks = [bytes(member) for name, member in unpack(data, check=True).items() if "/c/" in name]
    return [(data.index(chunk), data.index(chunk) + len(chunk)) for chunk in chunks]
