"""The model card of nano SAM, written from what training left behind and from figures measured on the spot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.cards import bullets, paragraph, table
from demo.sam.data import HELD_OUT, MIN_PIXELS, SOURCES, WINDOW, ZOOM
from demo.sam.measure import SMALL, SMALLEST_SHARE, TOLERANCE
from demo.sam.model import GRID, IMAGE_SIZE, MASK_STRIDE, build
from demo.sam.step import Recipe
from demo.splits import RENDERER, WorldSettings
from pipeline.core.errors import UserError
from pipeline.models.weights import load_state_dict

CURVE_ROWS = 25
"""Of a long curve the card shows about so many points."""

Figures = dict[str, dict[str, Any]]
"""Of every mask source: the values of its row, and the `settings` that were chosen for it."""


@dataclass(frozen=True)
class History:
    """What a training wrote beside its weights, oldest first: the held-out curve, and its runs.

    A run has `step`, its first one, `hours`, how long it was to be, and `anneal`, the last share of it with a
    falling learning rate; `note` where something was different.
    """

    curve: list[dict[str, float]]
    runs: list[dict[str, Any]]


def read_history(training: Path) -> History:
    """`curve.jsonl` and `runs.jsonl` of the folder of a training.

    Raises:
        UserError: one of them is not there.
    """
    lines = []
    for name in ("curve.jsonl", "runs.jsonl"):
        path = training / name
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected the folder of a training of nano SAM")
        lines.append([json.loads(line) for line in path.read_text().splitlines()])
    return History(*lines)


def figures_table(figures: Figures) -> str:
    """Figures as a Markdown table, a row a mask source."""
    columns = [name for name in next(iter(figures.values())) if name != "settings"]
    rows = [[name, *(f"{values[column]:.3g}" for column in columns)] for name, values in figures.items()]
    return table(["masks", *(name.replace("_", " ") for name in columns)], rows)


def model_card(
    weights: Path, history: History, figures: Figures, tune: int, test: int, points: int, layers: int
) -> str:
    """The model card, Markdown.

    Args:
        weights: the file that ships.
        history: of the training that it is of.
        figures: of the mask sources on `test` windows, settings chosen on `tune` windows, with `points` per side
            and `layers` of crops.
    """
    parameters = sum(p.numel() for p in build().parameters()) / 1e6
    settings: dict[str, Any] = next((v["settings"] for k, v in figures.items() if "components" in k), {})
    introduction = f"""
        segment_anything's own `Sam`, `PromptEncoder` and `MaskDecoder` behind a small convolutional image encoder
        (`demo/sam/model.py`): {parameters:.2f} M parameters, input {IMAGE_SIZE} x {IMAGE_SIZE}, embedding {GRID} x
        {GRID}, masks {IMAGE_SIZE // MASK_STRIDE} x {IMAGE_SIZE // MASK_STRIDE}, points and boxes, three masks and the
        IoU head. Made to show the pipeline without Meta's weights."""
    world = WorldSettings()
    caption = f"""
        Masks on {test} windows of `target-test` (seed {world.seed}, shift `{world.shift}`), against the connected
        pieces of instances above {100 * SMALLEST_SHARE:g} % of the window (small: below {SMALL} pixels); boundaries
        within {TOLERANCE} pixels, masks painted large ones first. Settings chosen on {tune} windows of `target-tune` by
        mean IoU plus area-weighted IoU less 0.001 per mask. SAM's points: {points} x {points} on the
        window{" and on each of its four enlarged crops" if layers else ""}. One training seed. CPU seconds per window,
        one thread."""
    about_the_curve = f"""
        Held-out curve: 512 points in 16 windows of panoramas of seed {HELD_OUT[0].seed}, half of them uniform over
        pixels, half over segments of at least {MIN_PIXELS} pixels; IoU of the best of three masks, and of the one with
        the highest predicted IoU. No crops."""
    step = int(load_state_dict(weights)[1]["step"])
    every = -(-len(history.curve) // CURVE_ROWS)
    shown = [row for k, row in enumerate(history.curve) if k % every == 0 or row["step"] == step]
    curve = [[f"{value:g}" for value in row.values()] for row in shown]
    parts = [
        "# Nano SAM",
        paragraph(introduction),
        bullets(_facts(weights, step, history)),
        "Chosen settings of the mask generator (`sam.generator`); `masks.filter` must not be stricter:",
        "```yaml\n" + _yaml(settings, points, layers) + "\n```",
        "## Figures",
        paragraph(caption),
        figures_table(figures),
        "Settings:",
        "\n".join(f"- {name}: `{json.dumps(values['settings'])}`" for name, values in figures.items()),
        paragraph(about_the_curve),
        table([name.replace("_", " ") for name in history.curve[0]], curve),
        "## Limits",
        bullets(_limits(figures)),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(weights: Path, step: int, history: History) -> list[str]:
    recipe = Recipe()
    rendered = ", ".join(f"{s.count} of `{s.split}`, world seed {s.seed}, shift `{s.shift}`" for s in SOURCES[:-1])
    prompts = step * (recipe.panoramas + recipe.pinholes) * (recipe.whole + recipe.pieces) / 1e6
    minutes = next((row["minutes"] for row in history.curve if row["step"] == step), history.curve[-1]["minutes"])
    runs = [row for row in history.runs if row["step"] < step]
    return [
        f"""**Weights** `demo/weights/{weights.name}`, {weights.stat().st_size / 2**20:.2f} MiB: kernels in float16,
        which load into float32 without loss, the rest in float32. They are the moving average of the weights at step
        {step}, the highest point of the held-out curve below.""",
        f"""**Data**: rendered by `demo/` (renderer {RENDERER}) at half size, exact labels ({rendered}); panoramas cut
        into windows of 200 x {WINDOW} at random places, enlarged up to {max(ZOOM):g} times. **It has seen labelled
        panorama windows of this world, of other seeds than the demo's**: towns and streets are new to it, the renderer,
        its objects and its panoramic camera are not. A SAM from elsewhere would not have that advantage, and neither
        has felzenszwalb. It saw no class names: its targets are the connected pieces of instances.""",
        f"""**Training**: {step} steps, each of {recipe.panoramas} panorama windows and {recipe.pinholes} pinhole image
        with {recipe.whole + recipe.pieces} prompts per window ({recipe.whole} decoded on the whole window,
        {recipe.pieces} on a piece of it; {recipe.boxes:.0%} are boxes): about {prompts:.1f} million prompts, after
        {recipe.dense_only} steps of auxiliary tasks alone. {minutes:.0f} minutes of wall clock on one thread of a
        shared CPU, bfloat16. No pretrained weights.""",
        f"**Runs**: {len(runs)}. " + "; ".join(_run(row) for row in runs) + ".",
        """**Made by** `make demo-models`, that is `python -m demo.sam.train --out DIR --hours H` (again with
        `--resume`), `python -m demo.sam.export --best DIR/best.pt`, `python -m demo.sam.evaluate --training DIR`.""",
    ]


def _run(row: dict[str, Any]) -> str:
    falling = f", the learning rate falling over the last {row['anneal']:.0%}" if row["anneal"] else ""
    note = f" ({row['note']})" if row.get("note") else ""
    return f"from step {row['step']}, {row['hours']:g} h{falling}{note}"


def _yaml(settings: dict[str, Any], points: int, layers: int) -> str:
    lines = {"kind": "sam", "builder": "demo.sam.model:build", "checkpoint": "demo/weights/nano_sam.safetensors"}
    values = {**lines, "points_per_side": points, "crop_n_layers": layers, "stability_score_offset": 0.5, **settings}
    return "\n".join(f"{k}: {json.dumps(v) if not isinstance(v, str) else v}" for k, v in values.items())


def _limits(figures: Figures) -> list[str]:
    own = next(values for name, values in figures.items() if "components" in name)
    other = figures["felzenszwalb"]
    columns = ("mean_iou", "area_weighted_iou", "boundary_precision", "boundary_recall")
    above = [name.replace("_", " ") for name in columns if own[name] > other[name]]
    below = [name.replace("_", " ") for name in columns if own[name] <= other[name]]
    compared = [f"above felzenszwalb in {', '.join(above)}"] if above else []
    compared += [f"not above it in {', '.join(below)}"] if below else []
    return [
        "It knows this world's streets at half size: no use on real images.",
        f"On these windows it is {' and '.join(compared)}.",
        f"Small segments are the weak side: IoU {own['small']:.2f}, large ones {own['large']:.2f}.",
        """Its predicted IoU is low, of small segments most: thresholds made for Meta's weights would drop nearly
        everything.""",
        f"""{own["cpu_seconds"]:.0f} CPU seconds a window are slow for a demo; `configs/demo_sam.yaml` asks at the
        points of the window alone, a fifth of them.""",
        """Its masks have half the window's resolution (all of it in crops): their edges are ragged by a pixel or two,
        where felzenszwalb's follow the picture exactly. What fusion makes of both: `make bench ONLY=pseudo_labels`.""",
        "Best IoU does not punish masks that match nothing, and masks overlap, where felzenszwalb's are a partition.",
        "Few windows, one training seed: differences of a few hundredths mean little.",
    ]
