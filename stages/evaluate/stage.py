"""Evaluation of pseudo-labels and students on labelled panoramas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.cache import Artefact
from pipeline.cache.fused_reader import ensemble_probabilities, stitched_probabilities
from pipeline.core.errors import ImageError, UserError
from pipeline.core.progress import Progress, SilentProgress
from pipeline.data.images import read_image, read_labels
from pipeline.data.labels import LabelSpace, load_label_space
from pipeline.data.manifests import Manifest
from pipeline.models.mmseg_import import import_mmseg
from pipeline.models.student import Student, load_student
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
    progress: Progress | None = None,
) -> tuple[list[Scores], dict[str, str]]:
    """The scores of the TA's stitched prediction, the ensembles and the `students`, and what went wrong by image id.

    `configs` differ in their fusion only: an ensemble each; the TA is that of the first.
    `label_space` (default: the manifest's) is what everything is mapped to before it is compared. Raises
    `UserError` if there is nothing to evaluate.
    """
    progress = progress or SilentProgress()
    import_mmseg()
    records = [record for record in manifest.select(splits) if record.label_path is not None]
    if not records:
        raise UserError(f"{manifest.path}: no labelled images in the chosen splits; expected a split with 'labels'")
    target = load_label_space(label_space) if label_space else manifest.label_space
    target.mapping_from(manifest.label_space)  # an impossible mapping is told before any work
    scorers, loaded, ensembles = _predictors(manifest, configs, target, students, pseudo_labels)
    failures: dict[str, str] = {}
    progress.start("evaluate", len(records))
    for record in records:
        assert record.label_path is not None
        try:
            truth = read_labels(record.label_path, manifest.preprocessing, manifest.label_space)
            truth = target.map_labels(truth, manifest.label_space)
            predictions: list[tuple[np.ndarray, np.ndarray | None]] = []
            for index, (fused, space) in enumerate(ensembles):
                group = fused.read(record.id)
                predictions += [(stitched_probabilities(group), None)] if index == 0 else []
                predictions.append((ensemble_probabilities(group, space), group.array("weight", ndim=2)))
            if loaded:
                image = read_image(record.path, manifest.preprocessing)
                for scorer, student in zip(scorers[-len(loaded) :], loaded, strict=True):
                    predictions.append((_probabilities(student, image, scorer.name), None))
            for scorer, (probabilities, weight) in zip(scorers, predictions, strict=True):
                if probabilities.shape[1:] != truth.shape:
                    raise ImageError(
                        f"{record.label_path}: is {truth.shape} (H, W), expected the size of its image, "
                        f"{probabilities.shape[1:]}"
                    )
                scorer.add(probabilities, truth, weight, record.id)
        except ImageError as error:
            failures[record.id] = str(error)
            progress.note(f"{record.id}: failed: {error}")
        progress.advance(failed=record.id in failures)
    if len(failures) == len(records):
        raise UserError(
            f"{manifest.path}: none of {len(records)} images could be evaluated; the first: "
            f"{next(iter(failures.values()))}"
        )
    return [scorer.scores() for scorer in scorers], failures


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
            scorers.append(Scorer("TA, stitched", space, target))
        scorers.append(Scorer(f"ensemble ({config.fusion.rule.kind})", space, target))
        ensembles.append((fused, space))
    loaded = []
    for path in students:
        student = load_student(path, configs[0].device)
        loaded.append(student)
        scorers.append(Scorer(f"student {path.parent.name or path.name}", student.space, target))
    if not scorers:
        raise UserError("evaluate: nothing to evaluate; expected --student, or pseudo-labels")
    for scorer in scorers:
        target.mapping_from(scorer.source)
    return scorers, loaded, ensembles
