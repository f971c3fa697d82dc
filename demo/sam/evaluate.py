"""Compares masks of nano SAM with those of felzenszwalb: `python -m demo.sam.evaluate`.

Thresholds are tuned on windows of `target-tune` and figures measured on `target-test`. All masks come from the mask
generators of the precompute stage.
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
from demo.sam.data import LabelledImages, Window, crop_window
from demo.sam.measure import best_ious, score_window, summarize
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
#: Gain that an additional mask per window must bring in tuning: best IoU alone never penalizes a mask.
_MASK_COST = 0.001
IOU_THRESHOLDS = (0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7)
STABILITY_THRESHOLDS = (0.0, 0.5, 0.7, 0.85)
MASK_NMS = (0.3, 0.4, 0.6, 0.8)
FELZENSZWALB = tuple(itertools.product((50.0, 100.0, 200.0, 300.0), (0.5, 0.8), (20, 40, 80)))


def draw_windows(split: Split, count: int, seed: int = 5) -> list[Window]:
    """Draws one window of each of the first `count` panoramas of a split of the default world."""
    rng = np.random.default_rng(seed)
    windows = []
    for index in range(count):
        frame = render_sample(WorldSettings(), split, index)
        images = LabelledImages(frame.image[None], frame.labels.instance[None], cyclic=True)
        windows.append(crop_window(images, 0, int(rng.integers(frame.image.shape[1]))))
    return windows


def nano_sam(
    weights: Path, points: int, layers: int, generator: type[AutomaticMasks] = Sam, **settings: Any
) -> AutomaticMasks:
    """Returns a mask generator of the precompute stage with nano SAM.

    Args:
        weights: the weights of nano SAM.
        points: points per side, on the window and on each crop.
        layers: 1 for four enlarged crops besides the window, on which small segments are found; 0 for none.
        generator: the class.
        settings: other settings of the generator.
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
class TunedGenerator:
    """A generator with the settings that have the highest `tuning_score` on `target-tune`."""

    name: str
    generator: MaskGenerator
    settings: dict[str, Any]
    score: float


def tuning_score(masks: list[MaskSet], windows: list[Window]) -> float:
    """Returns the mean best IoU plus its area-weighted mean, less a cost per mask and window."""
    pairs = [best_ious(mask_set, window.segments) for mask_set, window in zip(masks, windows, strict=True)]
    iou, area = (np.concatenate(values) for values in zip(*pairs, strict=True))
    count = float(np.mean([len(mask_set) for mask_set in masks]))
    return float(iou.mean() + (iou * area).sum() / area.sum()) - _MASK_COST * count


def apply_box_nms(masks: MaskSet, threshold: float) -> MaskSet:
    """Applies segment_anything's suppression: by the IoU of boxes, in the order of predicted IoU."""
    from torchvision.ops import nms

    x, y, w, h = (masks.table[f"box_{side}"].astype(np.float32) for side in "xywh")
    boxes = np.stack([x, y, x + w - 1, y + h - 1], axis=1)
    indices = nms(torch.from_numpy(boxes), torch.from_numpy(masks.table["predicted_iou"].copy()), threshold)
    return masks.select(indices.numpy())


def apply_mask_nms(masks: MaskSet, threshold: float) -> MaskSet:
    """Applies the generator's `mask_nms_thresh`."""
    return masks.select(np.array(mask_nms(list(masks), masks.table["predicted_iou"].tolist(), threshold), np.intp))


def keep_prompt_components(masks: MaskSet) -> MaskSet:
    """Applies the generator's `keep_prompt_component`."""
    table = masks.table
    components = [prompt_component(m, row["point_x"], row["point_y"]) for m, row in zip(masks, table, strict=True)]
    points = [(float(row["point_x"]), float(row["point_y"])) for row in table]
    quality = {name: table[name].tolist() for name in ("predicted_iou", "stability_score")}
    return from_masks(components, *masks.shape, point=points, **quality)


def _best_settings(candidates: Iterable[tuple[Any, list[MaskSet]]], windows: list[Window]) -> tuple[Any, float]:
    scores = [(settings, tuning_score(masks, windows)) for settings, masks in candidates]
    return max(scores, key=lambda pair: pair[1])


def generate_all(generator: MaskGenerator, windows: list[Window], processes: int = 1) -> tuple[list[MaskSet], float]:
    """Generates the masks of all windows, in order; `processes` with one thread each share the windows.

    Returns:
        The masks, and CPU seconds per window.
    """
    shares = [windows[k::processes] for k in range(processes)]
    if processes == 1:
        results = [_generate(generator, shares[0])]
    else:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            results = list(pool.map(_generate, [generator] * processes, shares))
    masks = [results[k % processes][0][k // processes] for k in range(len(windows))]
    return masks, sum(seconds for _, seconds in results) / len(windows)


def _generate(generator: MaskGenerator, windows: list[Window]) -> tuple[list[MaskSet], float]:
    torch.set_num_threads(1)
    generate = generator.build("cpu")
    began = time.process_time()
    masks = generate([window.image for window in windows])
    return masks, time.process_time() - began


def tune_sam(
    weights: Path, points: int, layers: int, windows: list[Window], processes: int
) -> tuple[TunedGenerator, TunedGenerator]:
    """Tunes segment_anything's own generator, and the one with prompt components and mask NMS.

    SAM runs once per window with permissive thresholds; all settings are tried on its masks.
    """
    permissive: dict[str, Any] = {"pred_iou_thresh": _LOWEST_IOU, "stability_score_thresh": 0}
    permissive |= {"box_nms_thresh": 1, "crop_nms_thresh": 1}
    masks, _ = generate_all(nano_sam(weights, points, layers, **permissive), windows, processes)
    # near-duplicates are removed first: thousands of masks would slow down every later step
    components = [apply_mask_nms(keep_prompt_components(mask_set), 0.95) for mask_set in masks]
    thresholds = list(itertools.product(IOU_THRESHOLDS, STABILITY_THRESHOLDS))

    def filtered(mask_sets: list[MaskSet], iou: float, stability: float) -> list[MaskSet]:
        return [mask_set.filtered(predicted_iou=iou, stability_score=stability) for mask_set in mask_sets]

    (iou, stability), value = _best_settings(
        (((i, s), [apply_box_nms(m, 0.7) for m in filtered(masks, i, s)]) for i, s in thresholds), windows
    )
    settings: dict[str, Any] = {"pred_iou_thresh": iou, "stability_score_thresh": stability, "box_nms_thresh": 0.7}
    generator = nano_sam(weights, points, layers, SamReference, **settings)
    reference = TunedGenerator("nano SAM, segment_anything's generator", generator, settings, value)
    (iou, stability, nms), value = _best_settings(
        (
            ((i, s, n), [apply_mask_nms(m, n) for m in filtered(components, i, s)])
            for (i, s), n in itertools.product(thresholds, MASK_NMS)
        ),
        windows,
    )
    settings = {"pred_iou_thresh": iou, "stability_score_thresh": stability}
    settings |= {"keep_prompt_component": True, "mask_nms_thresh": nms}
    generator = nano_sam(weights, points, layers, **settings)
    return reference, TunedGenerator("nano SAM, components and mask NMS", generator, settings, value)


def tune_felzenszwalb(windows: list[Window]) -> TunedGenerator:
    """Returns felzenszwalb with the best of the settings `FELZENSZWALB`."""

    def candidates() -> Iterable[tuple[dict[str, Any], list[MaskSet]]]:
        for scale, sigma, min_size in FELZENSZWALB:
            settings = {"scale": scale, "sigma": sigma, "min_size": min_size}
            generate = Felzenszwalb.model_validate(settings).build("cpu")
            yield settings, generate([window.image for window in windows])

    settings, value = _best_settings(candidates(), windows)
    return TunedGenerator("felzenszwalb", Felzenszwalb.model_validate(settings), settings, value)


def evaluate(
    weights: Path,
    points: int,
    layers: int,
    tune: list[Window],
    test: list[Window],
    processes: int,
    report: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Tunes every mask source on `tune` and measures it on `test`.

    Args:
        weights: the weights of nano SAM.
        points, layers: see `nano_sam`.
        tune, test: windows.
        processes: number of processes.
        report: called with each line of progress.

    Returns:
        Figures and chosen `settings` by the name of the mask source.
    """
    report(f"choosing settings on {len(tune)} windows")
    sources = [*tune_sam(weights, points, layers, tune, processes), tune_felzenszwalb(tune)]
    figures: dict[str, dict[str, Any]] = {}
    for source in sources:
        report(f"{source.name}: {json.dumps(source.settings)}, score {source.score:.3f} on target-tune")
        masks, seconds = generate_all(source.generator, test, processes)
        values = summarize([score_window(mask_set, window) for mask_set, window in zip(masks, test, strict=True)])
        figures[source.name] = {**values, "cpu_seconds": round(seconds, 2), "settings": source.settings}
    return figures


def main(
    weights: Annotated[Path, typer.Option(help="Weights of nano SAM.")] = WEIGHTS,
    points: Annotated[int, typer.Option(help="Points per side of the grid, also on each crop.")] = 16,
    layers: Annotated[int, typer.Option(help="1: also four enlarged crops of the window.")] = 1,
    tune: Annotated[int, typer.Option(min=1, help="Windows of target-tune.")] = 6,
    test: Annotated[int, typer.Option(min=1, help="Windows of target-test.")] = 12,
    processes: Annotated[int, typer.Option(help="Processes that share the windows.")] = 1,
    training: Annotated[Path | None, typer.Option(help="Folder of the training: also write the model card.")] = None,
) -> None:
    """Tune on target-tune, measure on target-test, print a table and one line of JSON."""
    history = None if training is None else read_history(training)
    torch.set_num_threads(1)
    tune_windows, test_windows = draw_windows("target-tune", tune), draw_windows("target-test", test)
    figures = evaluate(weights, points, layers, tune_windows, test_windows, processes, typer.echo)
    typer.echo(figures_table(figures))
    if history is not None:
        card = weights.with_suffix(".md")
        card.write_text(model_card(weights, history, figures, tune, test, points, layers), encoding="utf-8")
        typer.echo(f"model card: {card}")
    typer.echo(json.dumps(figures))


if __name__ == "__main__":
    typer.run(main)
