"""Stage three: trains a student on the cached ensemble."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.cache.fused_reader import CacheReader
from pipeline.core.atomic_files import make_writable_folder
from pipeline.core.errors import UserError
from pipeline.core.hashing import content_digest
from pipeline.core.progress import Progress, SilentProgress
from pipeline.core.settings import short_hash
from pipeline.data.corrections import CorrectedReader, Corrections, find_corrections
from pipeline.data.images import prepared_size
from pipeline.data.manifests import Manifest
from pipeline.data.samples import Reader
from pipeline.models.mmseg_import import import_mmseg
from stages.config import Config
from stages.train.configs import read_config, requested_config, schedule_config, student_config
from stages.train.run import TrainingRun
from stages.train.settings import TrainSettings


def run_folder(
    root: Path, manifest: Manifest, config: Config, processes: int = 1, corrections: Corrections | None = None
) -> Path:
    """Returns the folder of a run, named by a hash of everything that determines the training.

    Panoramas, corrected labels and mmsegmentation configs count by their content. The number of processes changes the
    batch. Raises `UserError` if a config that the settings name does not exist, or corrected labels cannot be used.
    """
    reader = CacheReader(manifest, config, (config.train.split,))
    panoramas = sorted([image_id, content] for image_id, content in reader.contents())
    parts: dict[str, Any] = {"train": training_key(config), "fused": reader.artefact.key, "panoramas": panoramas}
    corrected = (corrections or read_corrections(manifest, config)).digests
    parts |= ({"processes": processes} if processes > 1 else {}) | ({"corrections": corrected} if corrected else {})
    key = short_hash(parts)
    return root / manifest.name / f"{Path(config.train.student).stem}-{key}"


def read_corrections(manifest: Manifest, config: Config) -> Corrections:
    """Returns the corrected labels of `train.split`: those in `train.corrections`, or none.

    Raises `UserError` if some of them cannot be used.
    """
    folder = config.train.corrections
    if folder is None:
        return Corrections()
    return find_corrections(folder, manifest, manifest.select([config.train.split]), config.fused_space())


def label_sources(reader: CacheReader, corrections: Corrections) -> dict[str, dict[str, str]]:
    """Returns where the label of every panorama comes from: an artefact, or a file with its digest, by image id."""
    collection = f"corrections/{short_hash(corrections.digests)}"
    sources = {image_id: {"source": reader.artefact.path} for image_id in reader.ids}
    for image_id in set(corrections.files) & set(sources):
        file = str(corrections.files[image_id])
        sources[image_id] = {"source": collection, "file": file, "digest": corrections.digests[image_id]}
    return sources


def training_key(config: Config) -> dict[str, Any]:
    """Returns what determines a training besides its data: settings, and the contents of the configs they name."""
    settings = config.train
    student = student_config(settings.student)
    parts: dict[str, Any] = {**settings.key_parts(), "student": content_digest(student)}
    if settings.schedule is not None:
        parts["schedule"] = content_digest(schedule_config(settings.schedule))
    initial = read_config(student).get("load_from")
    if initial is not None and settings.load_from is None and settings.pretrained_backbone is None:
        parts["load_from"] = content_digest(Path(initial))
    return parts


def train_student(
    manifest: Manifest,
    config: Config,
    work_dir: Path,
    *,
    reader: Reader | None = None,
    corrections: Corrections | None = None,
    allow_partial: bool = False,
    fresh: bool = False,
    distributed: bool = False,
    progress: Progress = SilentProgress(),
) -> Path:
    """Trains the student of `config.train` and returns its checkpoint.

    Raises `UserError` before any training if panoramas of the split are not fused, or settings do not fit.

    Args:
        manifest, config: the data set and the settings; `train.split` names the panoramas.
        work_dir: folder of the run. A stopped run continues from its last checkpoint there.
        reader: images and labels to train on, instead of the cached ensemble of `train.split`.
        corrections: those of `read_corrections`, if they have been read already.
        allow_partial: leave out panoramas that are not fused.
        fresh: start from the first step; checkpoints of an earlier run are moved to a folder `earlier-<n>`.
        distributed: started by `torchrun`.
        progress: receives the steps.
    """
    sources: dict[str, dict[str, str]] = {}
    if reader is None:
        selection = CacheReader(manifest, config, (config.train.split,))
        selection.artefact.attributes()
        check_complete(selection, allow_partial)
        check_sizes(selection, config.train)
        corrections = corrections or read_corrections(manifest, config)
        sources = label_sources(selection, corrections)
        reader = selection.reader
        if corrections.files or corrections.unchanged:
            progress.note(corrections.describe(selection.ids))
            reader = CorrectedReader(selection.reader, corrections, config.fused_space())
    make_writable_folder(work_dir, "--work-dir")
    import_mmseg()
    from stages.train.launch import launch

    run = TrainingRun(
        config.train,
        config.fused_space(),
        reader,
        work_dir,
        preprocessing=manifest.preprocessing,
        device=config.device,
        resume=not fresh,
        distributed=distributed,
        label_sources=sources,
    )
    return launch(run, progress)


def check_sizes(reader: CacheReader, settings: TrainSettings) -> None:
    """Raises `UserError` if a batch would hold whole panoramas of different sizes."""
    transforms, manifest = requested_config(settings).get("train_pipeline", ()), reader.manifest
    crops = any("Crop" in str(transform["type"]) for transform in transforms)
    if crops or settings.batch_size == 1 or manifest.preprocessing.size is not None:
        return
    sizes = {path: prepared_size(path, manifest.preprocessing) for path in reader.reader.paths.values()}
    counts = Counter(sizes.values()).most_common()
    if len(counts) > 1:
        (common, _), (odd, _) = counts[0], counts[-1]
        first = next(path for path, size in sizes.items() if size == odd)
        raise UserError(
            f"{first}: is {odd[0]} x {odd[1]} (H x W) after the crop, others are {common[0]} x {common[1]}, and a "
            f"batch holds images of one size; expected preprocessing.size in {manifest.path}, or train.batch_size=1"
        )


def check_complete(reader: CacheReader, allow_partial: bool) -> None:
    """Raises `UserError` if there are panoramas that cannot be trained on.

    With `allow_partial` it raises only if no panorama is left.
    """
    missing = list(reader.missing)
    if missing and not (allow_partial and reader.ids):
        raise UserError(
            f"{reader.artefact}: of {len(reader.wanted)} panoramas {len(missing)} cannot be trained on, the first is "
            f"{missing[0]!r} ({reader.missing[missing[0]]}); run precompute and fuse again, or leave them out with "
            "--allow-partial"
        )
