"""Our mask generator against segment_anything's: the same weights, points and thresholds, in one run.

Windows are cut from panoramas of the demo world, the SAM is the demo's small one. Times are CPU seconds of one thread,
which other programs on the machine do not change much; those inside the networks are taken by hooks on the modules of
both generators. Peak memory is that of a separate process, above its memory after the model has run once. A figure is
that of the worst case.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.cli import echo, print_table
from pipeline.core.errors import UserError
from pipeline.geometry.masks import MaskSet
from stages.precompute.generators.sam import CPU_POINTS, Sam
from stages.precompute.generators.sam_reference import SamReference
from stages.precompute.sam.settings import AutomaticMasks

NETWORKS = ("image_encoder", "prompt_encoder", "mask_decoder")
MATCHED = 0.95
WIDTH = 512
WEIGHTS = Path(__file__).parent.parent / "demo" / "weights" / "nano_sam.safetensors"

#: Chosen for this SAM with suppression by boxes (demo/weights/nano_sam.md), the window's own grid of points.
SETTINGS: dict[str, Any] = {
    "builder": "demo.sam.model:build",
    "checkpoint": WEIGHTS,
    "points_per_side": 16,
    "pred_iou_thresh": 0.25,
    "stability_score_thresh": 0.7,
    "stability_score_offset": 0.5,
}


@dataclass(frozen=True)
class Case:
    """Windows of panoramas of `height` x 2048, and settings besides `SETTINGS`."""

    name: str
    height: int
    windows: int
    settings: tuple[tuple[str, Any], ...] = ()

    def generator(self, kind: type[AutomaticMasks], **more: Any) -> AutomaticMasks:
        return kind(**SETTINGS | dict(self.settings) | more)


CASES = (
    Case("400 x 2048", 400, 3),
    Case("1024 x 2048", 1024, 3),
    Case("400 x 2048, crops", 400, 1, (("crop_n_layers", 1),)),
)


def run(cases: Sequence[Case] = CASES, vit: str | None = "vit_b") -> dict[str, Any]:
    """Measures times, memory and agreement on every case, and the time of SAM's own `vit` with random weights."""
    with one_thread():
        compared = {case.name: compare(case, windows_of(case)) for case in cases}
    _print_times(compared)
    memory = {case.name: peaks(case) for case in cases}
    _print_memory(memory)
    for name, comparison in compared.items():
        for reason in comparison.unmatched:
            echo(f"not matched, {name}: {reason}")
    figures = {
        "speedup_outside_networks": min(c.reference.rest / c.batched.rest for c in compared.values()),
        "speedup_total": min(c.reference.total / c.batched.total for c in compared.values()),
        "peak_memory_ratio": max(m["batched"] / m["reference"] for m in memory.values()),
        "peak_memory_ratio_same_batch": max(m["batched"] / m["reference, batch of ours"] for m in memory.values()),
        "parity": min(c.parity for c in compared.values()),
        "masks_same_to_the_pixel": min(c.exact for c in compared.values()),
    }
    if vit is not None:
        with one_thread():
            figures |= {f"{vit}_{name}_seconds": seconds for name, seconds in run_vit(vit).items()}
    return {name: round(value, 3) for name, value in figures.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the context torch uses one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def windows_of(case: Case) -> list[np.ndarray]:
    """Returns a window of each of `case.windows` panoramas of the demo world, RGB uint8 `(height, 512, 3)`."""
    from demo.camera import Equirect
    from demo.render import render
    from demo.splits import WorldSettings, draw_sample

    windows = []
    for index in range(case.windows):
        drawn = draw_sample(WorldSettings("full"), "target-test", index)
        # The first row of the full sphere that is rendered: that of the 70-degree band, or 0.
        first = 312 if case.height == 400 else (1024 - case.height) // 2
        camera = Equirect(2048, first, case.height, drawn.camera.yaw_deg)
        image = render(drawn.scene, camera, drawn.sensor, drawn.noise).image
        windows.append(np.ascontiguousarray(image[:, index * WIDTH : (index + 1) * WIDTH]))
    return windows


# -- time and agreement


@dataclass(frozen=True)
class Times:
    """CPU seconds per window: in total, and in each network."""

    total: float
    networks: dict[str, float]

    @property
    def rest(self) -> float:
        return self.total - sum(self.networks.values())


@dataclass(frozen=True)
class Compared:
    """Both generators on one case; `unmatched` describes each reference mask without a match among ours."""

    reference: Times
    batched: Times
    masks: tuple[int, int]
    parity: float
    exact: float
    unmatched: list[str]


class Stopwatch:
    """Measures the CPU seconds inside a model's networks, by hooks."""

    def __init__(self, model: Any) -> None:
        self.seconds = dict.fromkeys(NETWORKS, 0.0)
        self.calls = dict.fromkeys(NETWORKS, 0)
        for name in NETWORKS:
            module, began = getattr(model, name), [0.0]

            def before(*_: Any, began: list[float] = began) -> None:
                began[0] = time.process_time()

            def after(*_: Any, name: str = name, began: list[float] = began) -> None:
                self.seconds[name] += time.process_time() - began[0]
                self.calls[name] += 1

            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)


def timed(settings: AutomaticMasks, windows: Sequence[np.ndarray]) -> tuple[list[MaskSet], Times, Stopwatch]:
    """Returns the masks of `windows` and the times per window, after a run on the first one that does not count."""
    model = settings.load_model("cpu")
    generate = settings.with_model(model, "cpu")
    generate(windows[:1])
    watch = Stopwatch(model)
    began = time.process_time()
    masks = generate(windows)
    total = time.process_time() - began
    count = len(windows)
    return masks, Times(total / count, {name: s / count for name, s in watch.seconds.items()}), watch


def compare(case: Case, windows: Sequence[np.ndarray]) -> Compared:
    """Runs both generators on the same windows."""
    expected, reference, _ = timed(case.generator(SamReference), windows)
    actual, batched, _ = timed(case.generator(Sam), windows)
    best, unmatched = [], []
    for theirs, ours in zip(expected, actual, strict=True):
        masks = list(ours)
        for mask, row in zip(theirs, theirs.table, strict=True):
            best.append(max((_iou(mask, other) for other in masks), default=0.0))
            if best[-1] < MATCHED:
                unmatched.append(
                    f"area {row['area']}, predicted IoU {row['predicted_iou']:.3f}, stability "
                    f"{row['stability_score']:.3f} (threshold {SETTINGS['stability_score_thresh']}), best IoU "
                    f"{best[-1]:.2f}"
                )
    counts = sum(map(len, expected)), sum(map(len, actual))
    matched = np.array(best)
    return Compared(
        reference, batched, counts, float((matched >= MATCHED).mean()), float((matched == 1).mean()), unmatched
    )


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return int((a & b).sum()) / max(int((a | b).sum()), 1)


# -- memory


def peaks(case: Case) -> dict[str, float]:
    """Returns the peak MiB above the loaded model of both generators, with their batches and with each other's."""
    generators = {
        "reference": case.generator(SamReference),
        "reference, batch of ours": case.generator(SamReference, points_per_batch=CPU_POINTS),
        "batched": case.generator(Sam),
        "batched, batch of theirs": case.generator(Sam, points_per_batch=64),
    }
    window = windows_of(Case(case.name, case.height, 1))[0]
    return {name: in_new_process(_peak, settings, window) for name, settings in generators.items()}


def in_new_process(function: Callable[..., float], *arguments: Any) -> float:
    """Calls `function(*arguments)` in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _peak(settings: AutomaticMasks, window: np.ndarray) -> float:
    import torch

    torch.set_num_threads(1)
    # A first run on a small image loads what libraries load at their first use.
    first = settings.model_copy(update={"points_per_side": 1, "crop_n_layers": 0})
    model = settings.load_model("cpu")
    first.with_model(model, "cpu")([np.zeros((8, 8, 3), np.uint8)])
    generate = settings.with_model(model, "cpu")
    return peak_above(lambda: generate([window]))


def peak_above(work: Callable[[], Any]) -> float:
    """Returns the MiB of resident memory at the peak of `work` above that before it. Linux only."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _status("VmRSS")
        work()
        return (_status("VmHWM") - before) / 1024
    except OSError as error:
        raise UserError(f"benchmark: this system does not report a process's peak memory ({error})") from None


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1])


# -- SAM's own size


def run_vit(model_type: str) -> dict[str, float]:
    """Returns the CPU seconds of one call of the encoder and of the decoder (4 points) of a SAM with random weights."""
    settings = Sam(
        model_type=model_type,
        random_weights=True,
        points_per_side=2,
        pred_iou_thresh=0,
        stability_score_thresh=0,
    )
    window = windows_of(CASES[0])[0]
    masks, _, watch = timed(settings, [window])
    seconds = {name: watch.seconds[name] / watch.calls[name] for name in ("image_encoder", "mask_decoder")}
    print_table(
        f"SAM {model_type}, random weights, one window of 400 x 512, 4 points",
        ["network", "seconds a call", "calls"],
        [[name, value, watch.calls[name]] for name, value in seconds.items()],
    )
    echo(f"{len(masks[0])} masks")
    return seconds


# -- tables


def _print_times(compared: dict[str, Compared]) -> None:
    rows = []
    for name, comparison in compared.items():
        for kind, times, masks in (
            ("reference", comparison.reference, comparison.masks[0]),
            ("batched", comparison.batched, comparison.masks[1]),
        ):
            networks = [times.networks["image_encoder"], times.networks["mask_decoder"]]
            rows.append(
                [name, kind, times.total, *networks, times.rest, masks, comparison.parity if kind == "batched" else 1.0]
            )
    print_table(
        "CPU seconds a window, one thread",
        ["windows of", "generator", "total", "encoder", "decoder", "rest", "masks", f"matched (IoU {MATCHED})"],
        rows,
    )


def _print_memory(memory: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(memory.values())))
    rows = [[case, *(peaks[name] for name in names)] for case, peaks in memory.items()]
    print_table("MiB above the loaded model at the peak, one window", ["windows of", *names], rows)
