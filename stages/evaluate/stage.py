"""Evaluates pseudo-labels and students on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.cache import Artefact
from pipeline.cache.fused_reader import certainty_probabilities, ensemble_probabilities, stitched_probabilities
from pipeline.core.errors import ImageError, UserError
from pipeline.core.progress import Progress, SilentProgress, note_failure
from pipeline.data.images import read_image, read_labels
from pipeline.data.labels import LabelSpace, load_label_space
from pipeline.data.manifests import ImageRecord, Manifest
from pipeline.models.load import load_student
from pipeline.models.mmseg_import import import_mmseg
from pipeline.models.student import Student
from stages.config import Config
from stages.evaluate.score import Scorer, Scores


def evaluate(
    manifest: Manifest,
    configs: Sequence[Config],
    *,
    splits: Sequence[str] = (),
    students: Sequence[Path] = (),
    pseudo_labels: bool = True,
    label_space: str | None = None,
    progress: Progress = SilentProgress(),
) -> tuple[list[Scores], dict[str, str]]:
    """Scores the TA's stitched prediction and the ensembles (`pseudo_labels`), and students by checkpoint.

    The images are those with labels. If there is none, all images are scored by the expected mIoU alone.

    The `configs` differ only in their fusion: one ensemble each, and the TA of the first. Scores are in the classes of
    `label_space` (name or file), by default the manifest's. Returns the scores in this order, and reasons by image id
    for images that failed. Raises `UserError` if there is nothing to evaluate, or all images failed.
    """
    import_mmseg()
    chosen = manifest.select(splits)
    records = [record for record in chosen if record.label_path is not None] or list(chosen)
    target = load_label_space(label_space) if label_space else manifest.label_space
    target.mapping_from(manifest.label_space)  # raises before any work
    scorers, models, ensembles = _predictors(manifest, configs, target, students, pseudo_labels)
    failures: dict[str, str] = {}
    progress.start("evaluate", len(records))
    for record in records:
        with note_failure(record.id, failures, progress):
            truth = _truth(record, manifest, target)
            predictions: list[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]] = []
            for index, (fused, space) in enumerate(ensembles):
                group = fused.read(record.id)
                predictions += [(stitched_probabilities(group), None, None)] if index == 0 else []
                ensemble, certain = ensemble_probabilities(group, space), certainty_probabilities(group, space)
                predictions.append((ensemble, group.read_array("weight", ndim=2), certain))
            if models:
                image = read_image(record.path, manifest.preprocessing)
                for scorer, student in zip(scorers[-len(models) :], models, strict=True):
                    predictions.append((_probabilities(student, image, scorer.name), None, None))
            for scorer, (probabilities, weight, certainty) in zip(scorers, predictions, strict=True):
                if truth is not None and probabilities.shape[1:] != truth.shape:
                    expected = f"expected the size of its image, {probabilities.shape[1:]}"
                    raise ImageError(f"{record.label_path}: is {truth.shape} (H, W), {expected}")
                scorer.add(probabilities, truth, weight, record.id, certainty)
    if len(failures) == len(records):
        reason = next(iter(failures.values()))
        raise UserError(f"{manifest.path}: none of {len(records)} images could be evaluated; the first: {reason}")
    return [scorer.scores() for scorer in scorers], failures


def _truth(record: ImageRecord, manifest: Manifest, target: LabelSpace) -> np.ndarray | None:
    if record.label_path is None:
        return None
    truth = read_labels(record.label_path, manifest.preprocessing, manifest.label_space)
    return target.map_labels(truth, manifest.label_space)


def _probabilities(student: Student, image: np.ndarray, name: str) -> np.ndarray:
    try:
        return student.probabilities(image)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None


def _predictors(
    manifest: Manifest, configs: Sequence[Config], target: LabelSpace, students: Sequence[Path], pseudo_labels: bool
) -> tuple[list[Scorer], list[Student], list[tuple[Artefact, LabelSpace]]]:
    scorers: list[Scorer] = []
    ensembles: list[tuple[Artefact, LabelSpace]] = []
    for config in configs if pseudo_labels else ():
        fused = config.artefact(manifest, "fused")
        fused.attributes()
        space = config.fused_space()
        if not ensembles:
            scorers.append(Scorer("TA, stitched", space, target, title="TA"))
        rule = config.fusion.rule.kind
        scorers.append(Scorer(f"ensemble ({rule})", space, target, title=rule))
        ensembles.append((fused, space))
    models = [load_student(path, configs[0].device) for path in students]
    for path, student in zip(students, models, strict=True):
        scorers.append(Scorer(f"student {path.parent.name or path.name}", student.space, target))
    if not scorers:
        raise UserError("evaluate: nothing to evaluate; expected --student, or pseudo-labels")
    for scorer in scorers:
        target.mapping_from(scorer.source)
    return scorers, models, ensembles
