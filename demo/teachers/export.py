"""From a training checkpoint to the file that ships: float16 weights as safetensors, and a model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demo.cards import bullets, paragraph, table
from demo.splits import RENDERER, WorldSettings
from demo.teachers.recipes import CROP, ROOT, Recipe
from pipeline.core.errors import UserError
from pipeline.models.student import STUDENT_META
from pipeline.models.weights import load_state_dict
from stages.evaluate.score import Scores


def export_weights(checkpoint: Path, out: Path) -> int:
    """Write what inference needs of `checkpoint` to `out` (safetensors); returns its size in bytes.

    Kernels become float16; vectors (biases, batch statistics) stay float32; batch counters are left out. The
    description by which a student is rebuilt goes with them, so that the file also serves as a student. Raises
    `UserError` if a weight is not finite or too large for float16.
    """
    import torch
    from safetensors.torch import save_file

    state, meta = load_state_dict(checkpoint)
    tensors = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        kept = value.to(torch.float16 if value.ndim > 1 else torch.float32).contiguous()
        if not torch.isfinite(kept).all():
            raise UserError(f"{checkpoint}: {key} is not finite in {kept.dtype}; the training has diverged")
        tensors[key] = kept
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.part")
    save_file(tensors, part, metadata={STUDENT_META: meta[STUDENT_META]})
    part.chmod(0o644)
    part.replace(out)
    return out.stat().st_size


@dataclass(frozen=True)
class Training:
    """What became of a training."""

    photos: int
    iterations: int
    seconds: float
    """wall clock of the steps, over all runs"""
    loss: tuple[float, float]
    """mean over the first and the last logged steps"""


def read_training(work_dir: Path) -> Training:
    """Steps, time and loss of a training from what mmengine logged in `work_dir`."""
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
    return Training(photos, steps[-1], seconds, (lines[steps[0]]["loss"], lines[steps[-1]]["loss"]))


def model_card(
    recipe: Recipe,
    world: WorldSettings,
    training: Training,
    size: int,
    scores: Sequence[Scores],
    start: Path | None = None,
) -> str:
    """The model card, Markdown; `scores` are on photos, whole panoramas and windows, `start` as for training."""

    def cell(value: float) -> str:
        return "-" if np.isnan(value) else f"{value:.1f}"

    rows = [
        ("**mIoU**", [f"**{cell(s.miou)}**" for s in scores]),
        ("pixel accuracy", [cell(s.accuracy) for s in scores]),
        *((name, [cell(s.iou[name]) for s in scores]) for name in scores[0].iou),
    ]
    photos, whole = scores[0], scores[1]
    weakest = sorted((value, name) for name, value in photos.iou.items() if not np.isnan(value))[:4]
    made = f"python -m demo.teachers.train --which {recipe.name}"
    facts = [
        f"Config `{recipe.config.relative_to(ROOT)}`, weights `{recipe.weights.relative_to(ROOT)}` "
        f"({size / 1e6:.2f} MB, kernels in float16). "
        + ("Runs as `teacher.model.kind: mmseg`." if recipe.teacher else "`train.load_from` takes it."),
        f"**Data**: {training.photos} rendered photos of 128 x 256 pixels (`source-train`, world seed {world.seed}, "
        f"renderer {RENDERER}) with exact labels. No panorama, no target-domain scene, no pretrained weights.",
        f"**Training**: {training.iterations} steps of {recipe.batch_size} crops ({CROP[0]} x {CROP[1]}, scale 0.75 to "
        f"2, 60 % placed on a rare class), mirror, photometric distortion; AdamW, peak rate {recipe.learning_rate:g}; "
        "cross-entropy, of road, building, vegetation and sky on a quarter of the pixels only. "
        f"{training.seconds / 60:.0f} minutes on one thread of a shared CPU; the loss fell from {training.loss[0]:.2f} "
        f"to {training.loss[1]:.2f}."
        + (f" Began with the weights of an earlier training, `{start.name}`." if start else ""),
        f"**Made by** `{made}`, measured by `python -m demo.teachers.evaluate`.",
    ]
    limits = [
        "It knows the demo world's streets at half size and nothing else: no use on real images.",
        "A network of this size, trained for minutes, is not a converged model; on photos it is weakest in "
        + ", ".join(f"{name} ({value:.0f})" for value, name in weakest)
        + ".",
        "Logits have stride 4: things one or two pixels wide (poles, sign posts) come out too thick or not at all.",
        "One seed and few images: differences of a point or two between columns mean little.",
    ]
    use = (
        "A teacher assistant for the demo world: what a model trained on ordinary photos is to real panoramas."
        if recipe.teacher
        else "Where the demo's student begins: what a small model trained on ordinary photos is to a user's student."
    )
    introduction = f"{recipe.title}: {recipe.parameters}, output stride 4, the 19 Cityscapes classes. {use}"
    caption = (
        f"IoU in percent, one training seed, world shift `{world.shift}`. Photos: {photos.images} of `source-val`. "
        f"Panoramas: {whole.images} of `target-test` (200 x 1024), as a whole, and in windows of 256 columns, stride "
        "128, pooled."
    )
    parts = [
        f"# {'TA' if recipe.teacher else 'Start of the student'} `{recipe.name}`",
        paragraph(introduction),
        bullets(facts),
        "## Figures",
        paragraph(caption),
        table(["class", *(s.name for s in scores)], ([name, *cells] for name, cells in rows)),
        "## Limits",
        bullets(limits),
    ]
    return "\n\n".join(parts) + "\n"
