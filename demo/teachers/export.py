"""Converts a training checkpoint to the shipped form: safetensors with float16 kernels, and a model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demo.markdown import format_bullets, format_table, wrap_paragraph
from demo.splits import RENDERER, WorldSettings
from demo.teachers.recipes import CROP, Recipe
from pipeline.core.atomic_files import atomic_write
from pipeline.core.errors import UserError
from pipeline.core.project_files import PROJECT_ROOT
from pipeline.models.student import STUDENT_META
from pipeline.models.weights import load_state_dict
from stages.evaluate.score import Scores


def export_weights(checkpoint: Path, out: Path) -> int:
    """Writes the weights of `checkpoint` that inference needs to `out` (safetensors).

    Kernels become float16; vectors (biases, batch statistics) stay float32; batch counters are omitted. The
    description of the student is included, so that the file also loads as a student.

    Returns:
        Bytes of the file.

    Raises:
        UserError: a weight is not finite or too large for float16.
    """
    import torch
    from safetensors.torch import save

    state, meta = load_state_dict(checkpoint)
    tensors = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        tensors[key] = value.to(torch.float16 if value.ndim > 1 else torch.float32).contiguous()
        if not torch.isfinite(tensors[key]).all():
            raise UserError(f"{checkpoint}: {key} is not finite in {tensors[key].dtype}; the training has diverged")
    with atomic_write(out) as temporary:
        temporary.write_bytes(save(tensors, metadata={STUDENT_META: meta[STUDENT_META]}))
    return out.stat().st_size


@dataclass(frozen=True)
class TrainingLog:
    """Summary of a training.

    Attributes:
        photos: number of training images.
        iterations: finished steps.
        seconds: wall clock of the steps over all runs.
        loss: means over the first and the last logged steps.
    """

    photos: int
    iterations: int
    seconds: float
    loss: tuple[float, float]


def read_training_log(work_dir: Path) -> TrainingLog:
    """Reads steps, time and loss of a training from mmengine's logs in `work_dir`.

    Raises:
        UserError: there is no log.
    """
    lines: dict[int, dict[str, float]] = {}
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for text in path.read_text().splitlines():
            line = json.loads(text)
            lines[int(line["step"])] = line
    if not lines:
        raise UserError(f"{work_dir}: found no log of a training")
    steps = sorted(lines)
    seconds = sum(lines[step]["time"] * (step - before) for before, step in zip([0, *steps], steps, strict=False))
    photos = len(json.loads((work_dir / "train_images.json").read_text()))
    return TrainingLog(photos, steps[-1], seconds, (lines[steps[0]]["loss"], lines[steps[-1]]["loss"]))


def model_card(
    recipe: Recipe,
    world: WorldSettings,
    log: TrainingLog,
    size: int,
    scores: Sequence[Scores],
    start: Path | None = None,
) -> str:
    """Returns the model card as Markdown.

    Args:
        recipe: the model.
        world: settings of the world.
        log: of the training.
        size: bytes of the shipped weights.
        scores: on photos, whole panoramas and windows.
        start: initial weights of the training.
    """

    def cell(value: float) -> str:
        return "-" if np.isnan(value) else f"{value:.1f}"

    rows = [
        ("**mIoU**", [f"**{cell(s.miou)}**" for s in scores]),
        ("pixel accuracy", [cell(s.accuracy) for s in scores]),
        *((name, [cell(s.iou[name]) for s in scores]) for name in scores[0].iou),
    ]
    photos, whole = scores[0], scores[1]
    weakest = sorted((value, name) for name, value in photos.iou.items() if not np.isnan(value))[:4]
    facts = [
        f"Config `{recipe.config.relative_to(PROJECT_ROOT)}`, weights `{recipe.weights.relative_to(PROJECT_ROOT)}` "
        f"({size / 1e6:.2f} MB, kernels in float16). "
        + ("Runs as `teacher.model.kind: mmseg`." if recipe.is_teacher else "For `train.load_from`."),
        f"**Data**: {log.photos} rendered photos of 128 x 256 pixels (`source-train`, world seed {world.seed}, "
        f"renderer {RENDERER}) with exact labels. No panorama, no scene of the target domain, no pretrained weights.",
        f"**Training**: {log.iterations} steps of {recipe.batch_size} crops ({CROP[0]} x {CROP[1]}, scale 0.75 to "
        f"2, 60 % around a pixel of a rare class), random flip, photometric distortion; AdamW, peak rate "
        f"{recipe.learning_rate:g}; cross-entropy, for road, building, vegetation and sky on a quarter of the pixels. "
        f"{log.seconds / 60:.0f} minutes on one thread of a shared CPU; the loss fell from {log.loss[0]:.2f} "
        f"to {log.loss[1]:.2f}." + (f" Initial weights: `{start.name}` of an earlier training." if start else ""),
        f"**Made by** `python -m demo.teachers.train --which {recipe.name}`, measured by "
        "`python -m demo.teachers.evaluate`.",
    ]
    limits = [
        "It knows the demo world's streets at half size only: no use on real images.",
        "A network of this size, trained for minutes, has not converged; on photos it is weakest in "
        + ", ".join(f"{name} ({value:.0f})" for value, name in weakest)
        + ".",
        "The logits have stride 4: objects one or two pixels wide (poles, sign posts) become too thick or are missed.",
        "One seed and few images: differences of a point or two between columns mean little.",
    ]
    use = (
        "A teacher assistant for the demo world, as a model trained on photos is for real panoramas."
        if recipe.is_teacher
        else "Initial weights of the demo's student, as a model trained on photos is for a student on real panoramas."
    )
    introduction = (
        f"{recipe.title}: {recipe.parameters} M parameters, output stride 4, the 19 Cityscapes classes. {use}"
    )
    caption = (
        f"IoU in percent, one training seed, world shift `{world.shift}`. Photos: {photos.images} of `source-val`. "
        f"Panoramas: {whole.images} of `target-test` (200 x 1024), whole and in windows of 256 columns with stride "
        "128, whose predictions are pooled."
    )
    parts = [
        f"# {'TA' if recipe.is_teacher else 'Initial weights of the student'} `{recipe.name}`",
        wrap_paragraph(introduction),
        format_bullets(facts),
        "## Figures",
        wrap_paragraph(caption),
        format_table(["class", *(s.name for s in scores)], ([name, *cells] for name, cells in rows)),
        "## Limits",
        format_bullets(limits),
    ]
    return "\n\n".join(parts) + "\n"
