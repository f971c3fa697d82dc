"""The cache with many panoramas, and with damaged ones.

* A rerun over synthetic finished caches of two sizes: seconds, peak memory of the process, and an extrapolation to a
  million panoramas.
* Files, bytes and decoding of real panoramas at 400 x 2048, and the bytes of format 1 for the same arrays.
* Random bits flipped in every kind of file: the number of wrong values that a reader gets without an error.
* Real runs of precompute and fuse over tiny panoramas: memory and rate in the first and in the last quarter.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from benchmarks.cache import SIZES, Size, measure, settings
from benchmarks.generator import one_thread
from benchmarks.rerun import build, rerun
from pipeline.cache import Artefact, Cache
from pipeline.core.cli import print_table
from pipeline.core.errors import ImageError, UserError
from pipeline.data.manifests import Manifest, load_manifest
from stages.config import Config

ROOT = Path(__file__).parent.parent
MIB = 2**20


def run(
    images: int = 100_000,
    fewer: int = 20_000,
    flips: int = 1000,
    tiny: int = 2000,
    size: Size = SIZES[-1],
    points_per_side: int = 16,
) -> dict[str, Any]:
    """Runs all four parts; the last one computes `tiny` panoramas (20,000 take about half an hour)."""
    figures = {**reruns(images, fewer), **one_panorama(size, flips, points_per_side)}
    if tiny:
        figures |= steady(tiny)
    return figures


# -- reruns of finished caches


def reruns(images: int, fewer: int) -> dict[str, Any]:
    """Measures seconds and MiB of a rerun of `images`; extrapolates to a million from the slope since `fewer`."""
    rows, measured = [], {}
    for count in (fewer, images):
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            arguments = build(Path(folder), count)
            for stage in ("precompute", "fuse"):
                best = min(rerun(arguments, count, stage) for _ in range(2))
                measured[count, stage] = best
                rows.append([f"{stage}, finished", count, *best])
    print_table("a rerun of a finished cache", ["stage", "panoramas", "seconds", "peak MiB"], rows)
    seconds, mib = measured[images, "precompute"]
    slope = (mib - measured[fewer, "precompute"][1]) / (images - fewer)
    return {
        f"rerun_seconds_{images}": round(seconds, 2),
        f"rerun_mib_{images}": round(mib, 1),
        "rerun_mib_1000000_extrapolated": round(mib + max(0, slope) * (1_000_000 - images), 1),
        f"rerun_fuse_seconds_{images}": round(measured[images, "fuse"][0], 2),
    }


# -- one panorama


def one_panorama(size: Size, flips: int, points_per_side: int) -> dict[str, Any]:
    """Measures files, bytes and milliseconds of a panorama, and counts the outcomes of flipped bits."""
    with tempfile.TemporaryDirectory(prefix="scale-") as name, one_thread():
        folder = Path(name)
        cost = measure(size, 2, folder, points_per_side)
        manifest = load_manifest(folder / "manifest.yaml")
        config = settings(size, folder, points_per_side, "fusion.rule=best")
        artefacts = [
            Cache(config.cache, manifest.name).artefact(kind, config.artefacts(manifest.preprocessing).key(kind))
            for kind in ("sam", "masks", "teacher", "fused")
        ]
        files, stored = files_and_bytes(artefacts)
        stored_1 = sum(bytes_in_format_1(artefact) for artefact in artefacts)
        count = len(manifest.images)
        outcomes = flip_bits(manifest, config, flips)
    print_table(
        "a panorama, all four artefacts with rule best",
        ["", "files and folders", "MiB with markers", "masks and logits (ms)"],
        [["format 2", files / count, stored / count / MIB, cost.wall], ["format 1", "-", stored_1 / count / MIB, "-"]],
    )
    print_table("flipped bits", ["outcome", "flips"], [list(row) for row in outcomes.items()])
    return {
        "inodes_per_image": round(files / count, 2),
        "mib_per_image": round(stored / count / MIB, 4),
        "mib_per_image_format_1": round(stored_1 / count / MIB, 4),
        "decode_ms": round(cost.wall, 2),
        "flips": flips,
        "silent_wrong_reads": outcomes["wrong"],
        "flips_reported": outcomes["reported"],
        "flips_without_effect": outcomes["same"],
        "flips_tracebacks": outcomes["traceback"],
    }


def files_and_bytes(artefacts: list[Artefact]) -> tuple[int, int]:
    """Returns the number of files and folders of panoramas and their bytes, markers included."""
    files = stored = 0
    for artefact in artefacts:
        for folder in ("images", "done", "failed"):
            for path in (Path(artefact.storage.url) / artefact.path / folder).rglob("*"):
                files += 1
                stored += path.stat().st_size if path.is_file() else 0
    return files, stored


def bytes_in_format_1(artefact: Artefact) -> int:
    """Returns the bytes of the same arrays in folders of files, with the table of the files in the markers."""
    total = 0
    for marker in artefact.markers():
        members = artefact.read_group(marker).members()
        document = json.loads(members["zarr.json"])
        del document["attributes"]["image"]
        members["zarr.json"] = json.dumps(document, indent=2).encode()
        for name in members:
            if name.endswith("/zarr.json"):  # zarr-python indents metadata
                members[name] = json.dumps(json.loads(members[name]), indent=2).encode()
        table = {name: [len(data), "0" * 64] for name, data in members.items()}
        source = marker.source and asdict(marker.source)
        text = {"id": marker.id, "attempt": "0" * 28, "source": source, "inputs": marker.inputs, "files": table}
        total += sum(len(data) for data in members.values()) + len(json.dumps(text, indent=1))
    return total


def flip_bits(manifest: Manifest, config: Config, flips: int) -> dict[str, int]:
    """Flips single random bits, one at a time, in random files of all artefacts; counts the outcomes for a reader.

    `reported`: an error, or an image that counts as missing; `same`: the right values; `wrong`: other values without
    an error; `traceback`: any other exception.
    """
    cache, rng = Cache(config.cache, manifest.name), random.Random(0)
    ids = [record.id for record in manifest.images]
    cache.artefacts()[0].record_failure("no such image", "a reason")  # one of every kind of file
    ids.append("no such image")
    intact = {artefact.path: contents(artefact, ids) for artefact in cache.artefacts()}
    root = Path(cache.storage.url)
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    outcomes = dict.fromkeys(("wrong", "reported", "same", "traceback"), 0)
    for _ in range(flips):
        path = rng.choice(paths)
        before = path.read_bytes()
        data = bytearray(before)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        kind, key = path.relative_to(root).parts[:2]
        artefact = cache.artefact(kind, key)
        expected = intact[artefact.path]
        try:
            actual = contents(artefact, ids)
        except Exception as error:
            print(f"{path}: {type(error).__name__}: {error}", file=sys.stderr)
            outcomes["traceback"] += 1
        else:
            wrong = [name for name in actual if actual[name] != expected.get(name)]
            if wrong:
                print(f"{path}: wrong values without an error: {', '.join(wrong)}", file=sys.stderr)
            outcomes["wrong" if wrong else "same" if actual == expected else "reported"] += 1
        path.write_bytes(before)
    return outcomes


def contents(artefact: Artefact, ids: list[str]) -> dict[str, Any]:
    """Returns everything that a reader gets from an artefact without an error."""
    result: dict[str, Any] = {}
    with contextlib.suppress(UserError):
        result["root"] = artefact.attributes()
    for image_id in ids:
        marker = artefact.find_marker(image_id)
        try:
            group = artefact.read(image_id)
        except ImageError:
            continue
        assert marker is not None
        result[f"{image_id} marker"] = (marker.source, marker.inputs, marker.content)
        result[f"{image_id} attributes"] = group.attributes
        for name in group.array_names():
            with contextlib.suppress(ImageError):
                result[f"{image_id} {name}"] = group.read_array(name).tobytes()
    failures = {failure.id: failure.reason for failure in artefact.failures()}
    return result | {f"{image_id} failed": reason for image_id, reason in failures.items()}


# -- many computed panoramas


def tiny_teacher() -> Any:
    """Returns a TA of one convolution at stride 4, which takes almost no time."""
    import torch

    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 19, kernel_size=4, stride=4)


@dataclass(frozen=True)
class Sample:
    """A process at one moment: finished images, seconds since its start, MiB of memory."""

    finished: int
    seconds: float
    mib: float


def steady(images: int) -> dict[str, Any]:
    """Measures rate and memory of precompute and fuse in the first and the last quarter of each artefact."""
    rows: list[list[Any]] = []
    figures: dict[str, Any] = {"steady_images": images}
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        arguments = lay_out_tiny(Path(name), images)
        for stage, kinds in (("precompute", ("sam", "masks", "teacher")), ("fuse", ("fused",))):
            for kind, samples in run_sampled(stage, arguments, Path(name) / "cache", kinds).items():
                quarter = max(2, len(samples) // 4)
                parts = samples[:quarter], samples[-quarter:]
                rates = [(p[-1].finished - p[0].finished) / (p[-1].seconds - p[0].seconds) for p in parts]
                memory = [max(sample.mib for sample in part) for part in parts]
                rows.append([kind, *rates, *memory])
                figures |= {f"steady_rate_ratio_{kind}": round(rates[1] / rates[0], 3)}
                figures |= {f"steady_growth_mib_{kind}": round(memory[1] - memory[0], 1)}
    columns = ["artefact", "images/s, first quarter", "last", "MiB, first quarter", "last"]
    print_table(f"{images} tiny panoramas, computed", columns, rows)
    return figures


def lay_out_tiny(folder: Path, images: int) -> list[str]:
    """Writes panoramas of 32 x 64; returns the options that name manifest and settings."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    pictures = [np.kron(rng.integers(0, 256, (4, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(50)]
    for number in range(images):
        picture = np.roll(pictures[number % 50], number // 50, axis=1)
        Image.fromarray(picture).save(folder / "images" / f"{number:06}.png")
    manifest, config = folder / "manifest.yaml", folder / "config.yaml"
    manifest.write_text(yaml.safe_dump({"name": "tiny", "root": "images", "splits": {"train": {"images": ["*.png"]}}}))
    views = {"width": 32, "stride": 16}
    values = {
        "cache": str(folder / "cache"),
        "device": "cpu",
        "sam": {"views": views, "generator": {"kind": "felzenszwalb", "min_size": 10}},
        "teacher": {"views": views, "model": {"kind": "module", "builder": "benchmarks.scale:tiny_teacher"}},
        "fusion": {"rule": "best"},
    }
    config.write_text(yaml.safe_dump(values))
    return ["--manifest", str(manifest), "--config", str(config)]


def run_sampled(stage: str, arguments: list[str], cache: Path, kinds: tuple[str, ...]) -> dict[str, list[Sample]]:
    """Runs a stage; samples finished images and memory twice a second, by artefact."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline", stage, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    threading.Thread(target=process.communicate, daemon=True).start()
    start = time.perf_counter()
    samples: dict[str, list[Sample]] = {kind: [] for kind in kinds}
    while process.poll() is None:
        for kind in kinds:
            finished = sum(1 for done in cache.glob(f"*/{kind}/*/done") for _ in os.scandir(done))
            if finished and (not samples[kind] or finished > samples[kind][-1].finished):
                samples[kind].append(Sample(finished, time.perf_counter() - start, memory_mib(process.pid)))
        time.sleep(0.5)
    if process.returncode:
        raise RuntimeError(f"{stage} ended with exit status {process.returncode}")
    return samples


def memory_mib(pid: int) -> float:
    """Returns the resident memory of a process; 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS")), 0.0)
