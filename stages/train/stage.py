"""Stage three as a whole: settings and cache in, a student's checkpoint out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.cache.fused_reader import CacheReader
from pipeline.core.atomic_files import writable_folder
from pipeline.core.errors import UserError
from pipeline.core.hashing import content_digest
from pipeline.core.settings import short_hash
from pipeline.data.images import prepared_size
from pipeline.data.manifests import Manifest
from pipeline.models.mmseg_import import import_mmseg
from stages.config import Config
from stages.train.configs import override, read_config, schedule_config, student_config
from stages.train.settings import TrainSettings


def run_folder(root: Path, manifest: Manifest, config: Config, processes: int = 1) -> Path:
    """Where a run keeps its checkpoints: named by everything that determines it, so that no two runs meet.

    Panoramas and mmsegmentation configs count by their content: with one panorama more, or another learning rate in the
    student's config, a run begins anew; likewise with another number of processes, which is another batch. Raises
    `UserError` if there is no such config.
    """
    reader = CacheReader(manifest, config, (config.train.split,))
    panoramas = sorted([image_id, content] for image_id, content in reader.contents())
    parts = {"train": training_key(config), "fused": reader.artefact.key, "panoramas": panoramas}
    key = short_hash(parts | ({"processes": processes} if processes > 1 else {}))
    return root / manifest.name / f"{Path(config.train.student).stem}-{key}"


def training_key(config: Config) -> dict[str, Any]:
    """What determines a training besides its data: the settings, and the contents of the configs that they name."""
    settings = config.train
    parts: dict[str, Any] = {**settings.key_parts(), "student": content_digest(student_config(settings.student))}
    if settings.schedule is not None:
        parts["schedule"] = content_digest(schedule_config(settings.schedule))
    own = read_config(student_config(settings.student)).get("load_from")
    if own is not None and settings.load_from is None and settings.pretrained_backbone is None:
        parts["load_from"] = content_digest(Path(own))
    return parts


def train_student(
    manifest: Manifest,
    config: Config,
    reader_spec: dict[str, Any],
    work_dir: Path,
    *,
    allow_partial: bool = False,
    fresh: bool = False,
    distributed: bool = False,
) -> Path:
    """Trains the student that `config.train` describes and returns its checkpoint.

    A run that was stopped goes on from its last checkpoint unless `fresh`. Raises `UserError` before any
    training if panoramas of the split are not fused (with `allow_partial` they are left out) or settings do not fit.
    """
    reader = CacheReader(manifest, config, (config.train.split,))
    reader.artefact.attributes()
    check_complete(reader, allow_partial)
    check_sizes(reader, config.train)
    writable_folder(work_dir, "--work-dir")
    import_mmseg()
    from stages.train.run import train

    space = config.fused_space()
    settings = config.train
    return train(
        settings.student,
        reader_spec,
        work_dir,
        classes=space.classes,
        palette=space.palette,
        ignore_index=space.ignore_index,
        label_space=space.name,
        preprocessing=manifest.preprocessing.model_dump(mode="json"),
        schedule=settings.schedule,
        max_iters=settings.iterations,
        batch_size=settings.batch_size,
        num_workers=settings.workers,
        device=config.device,
        seed=settings.seed,
        resume=not fresh,
        load_from=settings.load_from,
        pretrained_backbone=settings.pretrained_backbone,
        distributed=distributed,
        overrides=settings.overrides,
        class_balance=settings.class_balance,
        cyclic_padding=settings.circular_padding,
        ema=settings.ema,
        select=settings.select,
        held_out=settings.held_out,
        tensorboard=settings.tensorboard,
        memory=settings.memory,
    )


def check_sizes(reader: CacheReader, settings: TrainSettings) -> None:
    """Raises `UserError` if whole panoramas of different sizes would meet in a batch."""
    config = read_config(student_config(settings.student))
    override(config, settings.overrides)
    crops = any("Crop" in str(transform["type"]) for transform in config.get("train_pipeline", ()))
    if crops or settings.batch_size == 1 or reader.manifest.preprocessing.size is not None:
        return
    paths: dict[tuple[int, int], list[Path]] = {}
    used = set(reader.ids)
    for record in reader.wanted:
        if record.id in used:
            paths.setdefault(prepared_size(record.path, reader.manifest.preprocessing), []).append(record.path)
    if len(paths) > 1:
        common, odd = max(paths, key=lambda size: len(paths[size])), min(paths, key=lambda size: len(paths[size]))
        raise UserError(
            f"{paths[odd][0]}: is {odd[0]} x {odd[1]} (H x W) after the crop, others are {common[0]} x {common[1]}, "
            f"and a batch holds images of one size; expected preprocessing.size in {reader.manifest.path}, or "
            "train.batch_size=1"
        )


def check_complete(reader: CacheReader, allow_partial: bool) -> Sequence[str]:
    """The ids that cannot be trained on. Raises `UserError` if there are some, unless `allow_partial`."""
    missing = list(reader.missing)
    if missing and not (allow_partial and reader.ids):
        raise UserError(
            f"{reader.artefact}: of {len(reader.wanted)} panoramas {len(missing)} cannot be trained on, the first is "
            f"{missing[0]!r} ({reader.missing[missing[0]]}); run precompute and fuse again, or leave them out with "
            "--allow-partial"
        )
    return missing
