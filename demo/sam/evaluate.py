"""Masks of nano SAM beside felzenszwalb's, on windows of the demo's own panoramas.

`python -m demo.sam.evaluate`: thresholds are chosen on `target-tune`, figures are of `target-test`. All masks
come from the mask generators of stage one with the chosen settings, as the pipeline runs them.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from demo.sam.card import figures_table, model_card, read_history
from demo.sam.data import Pictures, Window, cut_window
from demo.sam.measure import best_ious, match, summary
from demo.splits import Split, WorldSettings, render_sample
from pipeline.geometry.masks import MaskSet, from_masks
from stages.precompute.generators.base import MaskGenerator
from stages.precompute.generators.felzenszwalb import Felzenszwalb
from stages.precompute.generators.sam import Sam
from stages.precompute.generators.sam_reference import SamReference
from stages.precompute.sam.binary import mask_nms, prompt_component
from stages.precompute.sam.settings import AutomaticMasks

WEIGHTS = Path(__file__).parents[1] / "weights" / "nano_sam.safetensors"
STABILITY_OFFSET = 0.5
_LOWEST_IOU = 0.15
_COST_OF_A_MASK = 0.001
"""What one more mask per window must bring, when settings are chosen: best IoU alone never punishes a mask."""
IOU_THRESHOLDS = (0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7)
STABILITY_THRESHOLDS = (0.0, 0.5, 0.7, 0.85)
MASK_NMS = (0.3, 0.4, 0.6, 0.8)
FELZENSZWALB = tuple(itertools.product((50.0, 100.0, 200.0, 300.0), (0.5, 0.8), (20, 40, 80)))


def windows_of(split: Split, count: int, seed: int = 5) -> list[Window]:
    """One window at a random place of each of the first `count` panoramas of a split of the default world."""
    rng = np.random.default_rng(seed)
    cut = []
    for index in range(count):
        frame = render_sample(WorldSettings(), split, index)
        picture = Pictures(frame.image[None], frame.labels.instance[None], cyclic=True)
        cut.append(cut_window(picture, 0, int(rng.integers(frame.image.shape[1]))))
    return cut


def nano_sam(
    weights: Path, points: int, layers: int, generator: type[AutomaticMasks] = Sam, **settings: Any
) -> AutomaticMasks:
    """A mask generator of stage one with nano SAM's weights.

    `points` per side on the window, and on each of the four enlarged crops if `layers` is 1: small segments are
    found there.
    """
    return generator(
        builder="demo.sam.model:build",
        checkpoint=weights,
        points_per_side=points,
        crop_n_layers=layers,
        stability_score_offset=STABILITY_OFFSET,
        **settings,
    )


@dataclass(frozen=True)
class Chosen:
    """A generator whose settings were chosen on `target-tune`, by `score`; `settings` are the chosen ones."""

    name: str
    generator: MaskGenerator
    settings: dict[str, Any]
    score: float


def score(masks: list[MaskSet], windows: list[Window]) -> float:
    """Mean best IoU plus its area-weighted mean, less a little for every mask per window."""
    pairs = [best_ious(found, window.segments) for found, window in zip(masks, windows, strict=True)]
    iou, area = (np.concatenate(values) for values in zip(*pairs, strict=True))
    count = float(np.mean([len(found) for found in masks]))
    return float(iou.mean() + (iou * area).sum() / area.sum()) - _COST_OF_A_MASK * count


def suppress_boxes(masks: MaskSet, threshold: float) -> MaskSet:
    """segment_anything's suppression: by the IoU of boxes, best predicted IoU first."""
    from torchvision.ops import nms

    x, y, w, h = (masks.table[f"box_{side}"].astype(np.float32) for side in "xywh")
    boxes = np.stack([x, y, x + w - 1, y + h - 1], axis=1)
    kept = nms(torch.from_numpy(boxes), torch.from_numpy(masks.table["predicted_iou"].copy()), threshold)
    return masks.select(kept.numpy())


def suppress_masks(masks: MaskSet, threshold: float) -> MaskSet:
    """The generator's `mask_nms_thresh`."""
    return masks.select(np.array(mask_nms(list(masks), masks.table["predicted_iou"].tolist(), threshold), np.intp))


def prompt_components(masks: MaskSet) -> MaskSet:
    """The generator's `keep_prompt_component`."""
    table = masks.table
    cut = [prompt_component(mask, row["point_x"], row["point_y"]) for mask, row in zip(masks, table, strict=True)]
    points = [(float(row["point_x"]), float(row["point_y"])) for row in table]
    quality = {name: table[name].tolist() for name in ("predicted_iou", "stability_score")}
    return from_masks(cut, *masks.shape, points=points, **quality)


def _best(candidates: Iterable[tuple[Any, list[MaskSet]]], windows: list[Window]) -> tuple[Any, float]:
    scored = [(settings, score(masks, windows)) for settings, masks in candidates]
    return max(scored, key=lambda pair: pair[1])


def generate_all(generator: MaskGenerator, windows: list[Window], processes: int = 1) -> tuple[list[MaskSet], float]:
    """Masks of all windows, in order, and CPU seconds per window; `processes` with one thread each share them."""
    shares = [windows[k::processes] for k in range(processes)]
    if processes == 1:
        results = [_generate(generator, shares[0])]
    else:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            results = list(pool.map(_generate, [generator] * processes, shares))
    found = [results[k % processes][0][k // processes] for k in range(len(windows))]
    return found, sum(seconds for _, seconds in results) / len(windows)


def _generate(generator: MaskGenerator, windows: list[Window]) -> tuple[list[MaskSet], float]:
    torch.set_num_threads(1)
    generate = generator.build("cpu")
    began = time.process_time()
    found = generate([window.image for window in windows])
    return found, time.process_time() - began


def choose_sam(weights: Path, points: int, layers: int, windows: list[Window], processes: int) -> tuple[Chosen, Chosen]:
    """segment_anything's own generator, and the one that cuts down to components and compares masks.

    SAM runs once per window at permissive thresholds; all settings are tried on what it found.
    """
    loose: dict[str, Any] = {"pred_iou_thresh": _LOWEST_IOU, "stability_score_thresh": 0}
    loose |= {"box_nms_thresh": 1, "crop_nms_thresh": 1}
    every, _ = generate_all(nano_sam(weights, points, layers, **loose), windows, processes)
    # near-duplicates go first: thousands of masks would make every later step slow
    cut = [suppress_masks(prompt_components(found), 0.95) for found in every]
    thresholds = list(itertools.product(IOU_THRESHOLDS, STABILITY_THRESHOLDS))

    def passing(found: list[MaskSet], iou: float, stability: float) -> list[MaskSet]:
        return [masks.filtered(predicted_iou=iou, stability_score=stability) for masks in found]

    (iou, stability), value = _best(
        (((i, s), [suppress_boxes(m, 0.7) for m in passing(every, i, s)]) for i, s in thresholds), windows
    )
    own = {"pred_iou_thresh": iou, "stability_score_thresh": stability, "box_nms_thresh": 0.7}
    reference = nano_sam(weights, points, layers, SamReference, **own)
    native = Chosen("nano SAM, segment_anything's generator", reference, own, value)
    (iou, stability, nms), value = _best(
        (
            ((i, s, n), [suppress_masks(m, n) for m in passing(cut, i, s)])
            for (i, s), n in itertools.product(thresholds, MASK_NMS)
        ),
        windows,
    )
    ours = {
        "pred_iou_thresh": iou,
        "stability_score_thresh": stability,
        "keep_prompt_component": True,
        "mask_nms_thresh": nms,
    }
    processed = Chosen("nano SAM, components and mask NMS", nano_sam(weights, points, layers, **ours), ours, value)
    return native, processed


def choose_felzenszwalb(windows: list[Window]) -> Chosen:
    """felzenszwalb with the best of `FELZENSZWALB`."""

    def candidates() -> Iterable[tuple[dict[str, Any], list[MaskSet]]]:
        for scale, sigma, min_size in FELZENSZWALB:
            settings = {"scale": scale, "sigma": sigma, "min_size": min_size}
            generate = Felzenszwalb.model_validate(settings).build("cpu")
            yield settings, generate([window.image for window in windows])

    settings, value = _best(candidates(), windows)
    return Chosen("felzenszwalb", Felzenszwalb.model_validate(settings), settings, value)


def evaluate(
    weights: Path,
    points: int,
    layers: int,
    tune: list[Window],
    test: list[Window],
    processes: int,
    report: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Figures on `test` of each mask source, with the settings chosen on `tune`."""
    report(f"choosing settings on {len(tune)} windows")
    chosen = [*choose_sam(weights, points, layers, tune, processes), choose_felzenszwalb(tune)]
    figures: dict[str, dict[str, Any]] = {}
    for source in chosen:
        report(f"{source.name}: {json.dumps(source.settings)}, score {source.score:.3f} on target-tune")
        found, seconds = generate_all(source.generator, test, processes)
        values = summary([match(masks, window) for masks, window in zip(found, test, strict=True)])
        figures[source.name] = {**values, "cpu_seconds": round(seconds, 2), "settings": source.settings}
    return figures


def main(
    weights: Annotated[Path, typer.Option(help="Weights of nano SAM.")] = WEIGHTS,
    points: Annotated[int, typer.Option(help="Points per side of the grid, and of each crop's.")] = 16,
    layers: Annotated[int, typer.Option(help="1: also on four enlarged crops of the window.")] = 1,
    tune: Annotated[int, typer.Option(min=1, help="Windows of target-tune.")] = 6,
    test: Annotated[int, typer.Option(min=1, help="Windows of target-test.")] = 12,
    processes: Annotated[int, typer.Option(help="Processes that share the windows.")] = 1,
    training: Annotated[Path | None, typer.Option(help="Folder of the training: writes the model card too.")] = None,
) -> None:
    """Choose settings on target-tune, measure on target-test, print a table and one line of JSON."""
    history = None if training is None else read_history(training)
    torch.set_num_threads(1)
    tuned, tested = windows_of("target-tune", tune), windows_of("target-test", test)
    figures = evaluate(weights, points, layers, tuned, tested, processes, typer.echo)
    typer.echo(figures_table(figures))
    if history is not None:
        card = weights.with_suffix(".md")
        card.write_text(model_card(weights, history, figures, tune, test, points, layers), encoding="utf-8")
        typer.echo(f"model card: {card}")
    typer.echo(json.dumps(figures))


if __name__ == "__main__":
    typer.run(main)
