"""The time of stage two: the vote against loops over masks, and all of DAR against reading and writing alone.

The data are synthetic and of real sizes: smooth logits of 19 classes at stride 4 in windows of 512 / 256, and ellipses
that overlap as masks. Every figure of a case is of the same masks and logits, and the fastest of a few repeats. Files
are in the page cache on both sides of a comparison.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from pipeline.cache import Cache
from pipeline.cache.freshness import read_source
from pipeline.cache.groups import views_to_attributes, write_mask_sets
from pipeline.core.cli import echo, print_table
from pipeline.core.settings import parse_settings
from pipeline.data.manifests import Manifest, load_manifest
from pipeline.geometry.masks import MaskSet, from_masks
from pipeline.geometry.views import make_views
from pipeline.geometry.windows import Window
from stages.config import Config
from stages.fuse.rules.base import FusionInput

CLASSES, STRIDE = 19, 4
#: Height, width and number of masks.
CASES = ((400, 2048, 60), (400, 2048, 150), (1024, 2048, 150))
#: Rules whose run is timed: the paper's per window, and ours on panorama masks.
RULES = ("paper", "best")
#: Panoramas of the throughput run, and the number that it is extrapolated to.
SMALL, MANY = 200, 2000


def run(cases: tuple[tuple[int, int, int], ...] = CASES, small: int = SMALL, repeats: int = 5) -> dict[str, Any]:
    """Times every case and the run over `small` images; prints tables and returns the worst ratios."""
    votes: list[list[Any]] = []
    runs: list[list[Any]] = []
    for height, width, count in cases:
        masks, logits = synthetic(height, width, count)
        case = f"{height} x {width}, {count} masks"
        votes.append([case, len(masks.planes), *vote_times(masks, stitched_labels(logits, height), repeats)])
        for rule in RULES:
            runs.append([case, rule, *dar_times(masks, logits, (height, width), rule, repeats)])
    ways = ["SSA", "SSA, in numpy", "SEPL"]
    columns = [
        "vote alone (ms)",
        "planes",
        "one pass",
        *(f"loop, {way}" for way in ways),
        *(f"x {way}" for way in ways),
    ]
    print_table("vote", columns, [[*row, *(loop / row[2] for loop in row[3:])] for row in votes])
    columns = ["store to store, page cache warm (ms)", "rule", "DAR", "read and write", "ratio"]
    print_table("DAR", columns, [[*row, row[2] / row[3]] for row in runs])
    seconds, growth, again = many(small)
    echo(f"{small} small panoramas: {seconds:.1f} s, memory grew by {growth:.1f} MiB over the second half")
    echo(f"the same with another theta: {again:.1f} s")
    echo(f"{MANY} such panoramas: {seconds * MANY / small:.0f} s, extrapolated")
    ssa, in_numpy, sepl = (min(row[way] / row[2] for row in votes) for way in (3, 4, 5))
    return {
        "vote_speedup": round(min(ssa, sepl), 1),
        "vote_speedup_ssa": round(ssa, 1),
        "vote_speedup_ssa_in_numpy": round(in_numpy, 1),
        "vote_speedup_sepl": round(sepl, 1),
        "dar_over_floor": round(max(row[2] / row[3] for row in runs), 2),
        **{f"dar_over_floor_{rule}": round(max(r[2] / r[3] for r in runs if r[1] == rule), 2) for rule in RULES},
        f"seconds_{MANY}_small_extrapolated": round(seconds * MANY / small, 1),
        "memory_growth_mib": round(growth, 1),
        "another_theta_over_first": round(again / seconds, 3),
    }


def synthetic(height: int, width: int, count: int) -> tuple[MaskSet, np.ndarray]:
    """Returns `count` ellipses that cover most of the panorama, and logits float16 `(C, h, w)` of blobs as large."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(count + height)
    y, x = np.mgrid[:height, :width]
    dense = []
    for area in np.sort(rng.lognormal(np.log(height * width / count), 1, count))[::-1]:
        stretch, cy, cx = rng.uniform(0.5, 2), rng.uniform(0, height), rng.uniform(0, width)
        dx = (x - cx + width / 2) % width - width / 2
        dense.append(((y - cy) * stretch) ** 2 + (dx / stretch) ** 2 <= area / np.pi)
    h, w = -(-height // STRIDE), width // STRIDE
    fields = [gaussian_filter(rng.normal(size=(h, w)), 6, mode=("reflect", "wrap")) * 60 for _ in range(CLASSES)]
    return from_masks(dense, height, width, cyclic=True), np.stack(fields).astype(np.float16)


def stitched_labels(logits: np.ndarray, height: int) -> np.ndarray:
    """Returns the argmax of native logits at pixels: uint8 `(H, W)`."""
    return FusionInput.of_stitched(logits.astype(np.float32), STRIDE, height).labels


def vote_times(masks: MaskSet, labels: np.ndarray, repeats: int) -> list[float]:
    """Returns the milliseconds of all votes: in one pass, by SSA's loop in torch and in numpy, and by SEPL's loop."""
    dense = np.stack(list(masks))
    ids, tensors = torch.from_numpy(labels.astype(np.int64)), [torch.from_numpy(mask) for mask in dense]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        counts = masks.histograms(labels, CLASSES)
        winners = np.array([int(winner) for winner in loop_ssa(tensors, ids)])
        assert (counts[np.arange(len(counts)), winners] == counts.max(axis=1)).all()
        assert (counts == loop_ssa_in_numpy(dense, labels)).all()
        assert (counts == loop_sepl(dense, labels)).all()
        return [
            1e3 * fastest(way, repeats)
            for way in (
                lambda: masks.histograms(labels, CLASSES).argmax(axis=1),
                lambda: loop_ssa(tensors, ids),
                lambda: loop_ssa_in_numpy(dense, labels),
                lambda: loop_sepl(dense, labels),
            )
        ]
    finally:
        torch.set_num_threads(threads)


def loop_ssa(dense: list[torch.Tensor], ids: torch.Tensor) -> list[torch.Tensor]:
    """The loop of Semantic-Segment-Anything: the labels (int64) in each mask, and the most frequent of them."""
    winners = []
    for mask in dense:
        mask_ids = ids[mask]
        if len(torch.unique(mask_ids)) == 1:
            winners.append(mask_ids[0])
        else:
            winners.append(torch.bincount(mask_ids).topk(1).indices[0])
    return winners


def loop_ssa_in_numpy(dense: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The same loop with labels of one byte, and without `unique`."""
    counts = np.zeros((len(dense), CLASSES), dtype=np.int64)
    for k, mask in enumerate(dense):
        counts[k] = np.bincount(labels[mask], minlength=CLASSES)
    return counts


def loop_sepl(dense: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The loop of SAM-enhanced pseudo-labels: counts the common pixels of each class and each mask."""
    counts = np.zeros((len(dense), CLASSES), dtype=np.int64)
    for c in range(CLASSES):
        class_pixels = labels == c
        for k, mask in enumerate(dense):
            counts[k, c] = np.count_nonzero(class_pixels & mask)
    return counts


def fastest(work: Callable[[], Any], repeats: int) -> float:
    """Returns the seconds of the fastest of `repeats` runs."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def dar_times(masks: MaskSet, logits: np.ndarray, size: tuple[int, int], rule: str, repeats: int) -> list[float]:
    """Returns the milliseconds of fusing one panorama, and of reading its inputs and writing its outputs alone."""
    from stages.fuse.tasks import FuseTask

    with tempfile.TemporaryDirectory(prefix="fuse-") as folder:
        manifest, config = data_set(Path(folder), 1, size, rule)
        write_inputs(manifest, config, masks, logits, size)
        task = FuseTask(config, manifest.preprocessing, manifest.name)
        artefacts = task.artefacts
        artefact = task.artefact()
        artefact.create(artefacts.settings("fused"), artefacts.upstream("fused"))
        work, record = task.setup(), manifest.images[0]
        dar = fastest(lambda: work(record), repeats)
        upstream = [task.artefact(kind) for kind in config.fusion.rule.needs]  # type: ignore[attr-defined]
        outputs = artefact.read(record.id)
        values = {name: outputs.read_array(name) for name in outputs.array_names()}

        def floor() -> None:
            for source in upstream:
                group = source.read(record.id)
                for name in group.array_names():
                    group.read_array(name)
            with artefact.write(record.id) as writer:
                writer.attributes |= outputs.attributes
                for name, array in values.items():
                    writer.add_array(name, array)

        return [1e3 * dar, 1e3 * fastest(floor, repeats)]


def data_set(folder: Path, images: int, size: tuple[int, int], rule: str) -> tuple[Manifest, Config]:
    """Returns a manifest of `images` black panoramas, and settings that name artefacts of `write_inputs`."""
    (folder / "images").mkdir()
    for k in range(images):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / "images" / f"{k:05d}.png")
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump({"name": "fuse", "root": "images", "splits": {"train": {"images": ["*.png"]}}}))
    views = {"width": size[1] // 4, "stride": size[1] // 8}
    settings = {
        "cache": str(folder / "cache"),
        "sam": {"artefact": "bench", "views": views},
        "masks": {"artefact": "bench", "filter": {"min_area": 0}},
        "teacher": {"artefact": "bench", "views": views},
        "fusion": {"rule": rule},
    }
    return load_manifest(path), parse_settings(Config, settings, "benchmark fuse")


def write_inputs(manifest: Manifest, config: Config, masks: MaskSet, logits: np.ndarray, size: tuple[int, int]) -> None:
    """Writes stage one's artefacts of every image from the same `masks` and `logits`."""
    from pipeline.geometry.boundaries import label_boundary

    views = [v for v in make_views(config.teacher.views, *size) if isinstance(v, Window)]
    rng = np.random.default_rng(0)
    view_logits = [view.scaled(STRIDE).extract(logits) for view in views]
    noisy = np.stack([part + rng.normal(0, 0.3, part.shape) for part in view_logits]).astype(np.float16)
    view_masks = [
        from_masks([part for part in (view.extract(mask) for mask in masks) if part.any()], view.height, view.width)
        for view in views
    ]
    boundary = np.any(label_boundary(masks.planes), axis=0).astype(np.uint8)
    cache = Cache(config.cache, manifest.name)
    artefacts = {kind: cache.artefact(kind, "bench") for kind in ("sam", "masks", "teacher")}
    for artefact in artefacts.values():
        artefact.create({}, {})
    for record in manifest.images:
        source = read_source(record.path)
        attributes = views_to_attributes(views, size)
        with artefacts["sam"].write(record.id, source=source) as writer:
            writer.attributes |= attributes
            write_mask_sets(writer, view_masks)
        with artefacts["masks"].write(record.id, source=source) as writer:
            writer.attributes |= {"image_size": list(size)}
            write_mask_sets(writer, [masks])
            writer.add_array("boundary", boundary)
        with artefacts["teacher"].write(record.id, source=source) as writer:
            writer.attributes |= attributes | {"output_stride": STRIDE}
            writer.add_array("logits", noisy, chunks=(1, *noisy.shape[1:]))


def many(images: int, size: tuple[int, int] = (64, 256)) -> tuple[float, float, float]:
    """Fuses `images` small panoramas by rule `best`, and again with another `theta`.

    Returns the seconds, the MiB by which the second half raised the peak memory, and the seconds of the second run.
    """
    from stages.fuse.stage import fuse

    masks, logits = synthetic(*size, 20)
    with tempfile.TemporaryDirectory(prefix="fuse-") as folder:
        manifest, config = data_set(Path(folder), images, size, "best")
        write_inputs(manifest, config, masks, logits, size)
        seconds, peaks = 0.0, []
        for half in (manifest.images[: images // 2], manifest.images[images // 2 :]):
            began = time.perf_counter()
            report = fuse(replace(manifest, images=half), config)
            seconds += time.perf_counter() - began
            assert report.computed == len(half), report.failures
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        rule = config.fusion.rule.model_copy(update={"theta": 0.8})
        fusion = config.fusion.model_copy(update={"rule": rule})
        began = time.perf_counter()
        report = fuse(manifest, config.model_copy(update={"fusion": fusion}))
        again = time.perf_counter() - began
        assert report.computed == images, report.failures
    return seconds, peaks[1] - peaks[0], again
