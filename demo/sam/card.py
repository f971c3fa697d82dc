"""The model card of nano SAM, written from the logs of its training and from measured figures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.markdown import format_bullets, format_table, wrap_paragraph
from demo.sam.data import HELD_OUT, MIN_PIXELS, SOURCES, WINDOW, ZOOM
from demo.sam.measure import SMALL, SMALLEST_SHARE, TOLERANCE
from demo.sam.model import GRID, IMAGE_SIZE, MASK_STRIDE, build
from demo.sam.step import Recipe
from demo.splits import RENDERER, WorldSettings
from pipeline.core.errors import UserError
from pipeline.models.weights import load_state_dict

#: Approximate number of points of the validation curve that the card shows.
CURVE_ROWS = 25

#: By mask source: the values of its row, and the chosen `settings`.
Figures = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class History:
    """Logs of a training, oldest entry first.

    Attributes:
        curve: points of the validation curve.
        runs: `step` (the first one), `hours` (the planned duration) and `anneal` (the last share of the run with a
            decaying learning rate) of every run, optionally a `note`.
    """

    curve: list[dict[str, float]]
    runs: list[dict[str, Any]]


def read_history(training: Path) -> History:
    """Reads `curve.jsonl` and `runs.jsonl` in the folder of a training.

    Raises:
        UserError: a file does not exist.
    """
    logs = []
    for name in ("curve.jsonl", "runs.jsonl"):
        path = training / name
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected the folder of a training of nano SAM")
        logs.append([json.loads(line) for line in path.read_text().splitlines()])
    return History(*logs)


def figures_table(figures: Figures) -> str:
    """Returns figures as a Markdown table with a row per mask source."""
    columns = [name for name in next(iter(figures.values())) if name != "settings"]
    rows = [[name, *(f"{values[column]:.3g}" for column in columns)] for name, values in figures.items()]
    return format_table(["masks", *(name.replace("_", " ") for name in columns)], rows)


def model_card(
    weights: Path, history: History, figures: Figures, tune: int, test: int, points: int, layers: int
) -> str:
    """Returns the model card as Markdown.

    Args:
        weights: the shipped file.
        history: logs of the training.
        figures: measured figures.
        tune, test: numbers of windows for tuning and testing.
        points, layers: points per side and layers of crops.
    """
    parameters = sum(p.numel() for p in build().parameters()) / 1e6
    settings: dict[str, Any] = next((v["settings"] for k, v in figures.items() if "components" in k), {})
    introduction = f"""
        segment_anything's `Sam`, `PromptEncoder` and `MaskDecoder` behind a small convolutional image encoder
        (`demo/sam/model.py`): {parameters:.2f} M parameters, input {IMAGE_SIZE} x {IMAGE_SIZE}, embedding {GRID} x
        {GRID}, masks {IMAGE_SIZE // MASK_STRIDE} x {IMAGE_SIZE // MASK_STRIDE}, point and box prompts, three masks and
        the IoU head. It demonstrates the pipeline without Meta's weights."""
    world = WorldSettings()
    caption = f"""
        Masks on {test} windows of `target-test` (seed {world.seed}, shift `{world.shift}`) against the connected
        components of instances above {100 * SMALLEST_SHARE:g} % of the window (small: below {SMALL} pixels);
        boundaries within {TOLERANCE} pixels, with small masks on top of large ones. Settings chosen on {tune} windows
        of `target-tune` by mean IoU plus area-weighted IoU less 0.001 per mask. SAM's points: {points} x {points} on
        the window{" and on each of its four enlarged crops" if layers else ""}. One training seed. CPU seconds per
        window, one thread."""
    curve_caption = f"""
        Validation curve: 512 points in 16 windows of panoramas of seed {HELD_OUT[0].seed}, half of them uniform over
        pixels, half over segments of at least {MIN_PIXELS} pixels; IoU of the best of three masks, and of the mask
        with the highest predicted IoU. No crops."""
    step = int(load_state_dict(weights)[1]["step"])
    every = -(-len(history.curve) // CURVE_ROWS)
    points_shown = [row for k, row in enumerate(history.curve) if k % every == 0 or row["step"] == step]
    curve = [[f"{value:g}" for value in row.values()] for row in points_shown]
    parts = [
        "# Nano SAM",
        wrap_paragraph(introduction),
        format_bullets(_facts(weights, step, history)),
        "Chosen settings of the mask generator (`sam.generator`); `masks.filter` must not be stricter:",
        "```yaml\n" + _yaml(settings, points, layers) + "\n```",
        "## Figures",
        wrap_paragraph(caption),
        figures_table(figures),
        "Settings:",
        "\n".join(f"- {name}: `{json.dumps(values['settings'])}`" for name, values in figures.items()),
        wrap_paragraph(curve_caption),
        format_table([name.replace("_", " ") for name in history.curve[0]], curve),
        "## Limits",
        format_bullets(_limits(figures)),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(weights: Path, step: int, history: History) -> list[str]:
    recipe = Recipe()
    rendered = ", ".join(f"{s.count} of `{s.split}`, world seed {s.seed}, shift `{s.shift}`" for s in SOURCES[:-1])
    per_window = recipe.window_prompts + recipe.crop_prompts
    prompts = step * (recipe.panoramas + recipe.pinholes) * per_window / 1e6
    minutes = next((row["minutes"] for row in history.curve if row["step"] == step), history.curve[-1]["minutes"])
    runs = [row for row in history.runs if row["step"] < step]
    return [
        f"""**Weights** `demo/weights/{weights.name}`, {weights.stat().st_size / 2**20:.2f} MiB: kernels in float16,
        which load into float32 without loss, the others in float32. They are the moving average of the weights at step
        {step}, the highest point of the validation curve below.""",
        f"""**Data**: rendered by `demo/` (renderer {RENDERER}) at half size, exact labels ({rendered}); panoramas are
        cropped to windows of 200 x {WINDOW} at random positions and enlarged up to {max(ZOOM):g} times. **The training
        data includes labelled panorama windows of this world, with other seeds than the demo's**: the streets are new
        to the model; the renderer, its objects and its panoramic camera are not. A SAM from elsewhere does not have
        this advantage, and neither has felzenszwalb. No class names were used: the targets are the connected
        components of instances.""",
        f"""**Training**: {step} steps, each of {recipe.panoramas} panorama windows and {recipe.pinholes} pinhole image
        with {per_window} prompts per window ({recipe.window_prompts} decoded on the whole window,
        {recipe.crop_prompts} on a crop of it; {recipe.box_share:.0%} are boxes): about {prompts:.1f} million prompts,
        after {recipe.dense_steps} steps of auxiliary tasks only. {minutes:.0f} minutes of wall clock on one thread of a
        shared CPU, bfloat16. No pretrained weights.""",
        f"**Runs**: {len(runs)}. " + "; ".join(_run(row) for row in runs) + ".",
        """**Made by** `make demo-models`, that is `python -m demo.sam.train --out DIR --hours H` (again with
        `--resume`), `python -m demo.sam.export --best DIR/best.pt`, `python -m demo.sam.evaluate --training DIR`.""",
    ]


def _run(row: dict[str, Any]) -> str:
    anneal = f", the learning rate decaying over the last {row['anneal']:.0%}" if row["anneal"] else ""
    note = f" ({row['note']})" if row.get("note") else ""
    return f"from step {row['step']}, {row['hours']:g} h{anneal}{note}"


def _yaml(settings: dict[str, Any], points: int, layers: int) -> str:
    lines = {"kind": "sam", "builder": "demo.sam.model:build", "checkpoint": "demo/weights/nano_sam.safetensors"}
    values = {**lines, "points_per_side": points, "crop_n_layers": layers, "stability_score_offset": 0.5, **settings}
    return "\n".join(f"{k}: {json.dumps(v) if not isinstance(v, str) else v}" for k, v in values.items())


def _limits(figures: Figures) -> list[str]:
    nano = next(values for name, values in figures.items() if "components" in name)
    felzenszwalb = figures["felzenszwalb"]
    columns = ("mean_iou", "area_weighted_iou", "boundary_precision", "boundary_recall")
    better = [name.replace("_", " ") for name in columns if nano[name] > felzenszwalb[name]]
    worse = [name.replace("_", " ") for name in columns if nano[name] <= felzenszwalb[name]]
    comparison = [f"better than felzenszwalb in {', '.join(better)}"] if better else []
    comparison += [f"not better in {', '.join(worse)}"] if worse else []
    return [
        "It knows this world's streets at half size: no use on real images.",
        f"On these windows it is {' and '.join(comparison)}.",
        f"Small segments have the lowest IoU: {nano['small']:.2f}, large ones {nano['large']:.2f}.",
        """Its predicted IoU is low, most of all for small segments: thresholds for Meta's weights would drop nearly
        all masks.""",
        f"""{nano["cpu_seconds"]:.0f} CPU seconds per window are slow for a demo; `configs/demo_sam.yaml` prompts at
        the points of the window only, a fifth of them.""",
        """Its masks have half the window's resolution (all of it in crops): their edges are off by a pixel or two,
        whereas felzenszwalb's follow the image exactly. For the effect on fusion: `make bench ONLY=pseudo_labels`.""",
        """Best IoU does not penalize masks that match no segment. These masks overlap, whereas felzenszwalb's are a
        partition.""",
        "Few windows, one training seed: differences of a few hundredths mean little.",
    ]
