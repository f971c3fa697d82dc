"""Evaluation of pseudo-labels and students on labelled panoramas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import ImageError, UserError
from pipeline.images import read_image, read_labels
from pipeline.labels import load_label_space
from pipeline.manifests import Manifest
from pipeline.progress import Progress, SilentProgress
from pipeline.samples import ensemble_probabilities, stitched_probabilities
from pipeline.store import Cache
from stages.evaluate.score import Scorer, Scores


def evaluate(
    manifest: Manifest,
    config: Config,
    *,
    splits: Sequence[str] = (),
    students: Sequence[Path] = (),
    pseudo_labels: bool = True,
    label_space: str | None = None,
    progress: Progress | None = None,
) -> tuple[list[Scores], dict[str, str]]:
    """The scores of the TA's stitched prediction, the ensemble and the ``students``, and what went wrong by image id.

    ``label_space`` (default: the manifest's) is what everything is mapped to before it is compared. Raises
    :class:`UserError` if there is nothing to evaluate.
    """
    progress = progress or SilentProgress()
    records = [record for record in manifest.select(splits) if record.label_path is not None]
    if not records:
        raise UserError(f"{manifest.path}: no labelled images in the chosen splits; expected a split with 'labels'")
    target = load_label_space(label_space) if label_space else manifest.label_space
    target.mapping_from(manifest.label_space)  # an impossible mapping is told before any work
    scorers, loaded, fused = _predictors(manifest, config, target, students, pseudo_labels)
    failures: dict[str, str] = {}
    progress.start("evaluate", len(records))
    for record in records:
        assert record.label_path is not None
        try:
            truth = read_labels(record.label_path, manifest.preparation, manifest.label_space)
            truth = target.map_labels(truth, manifest.label_space)
            predictions = []
            if fused is not None:
                group = fused.read(record.id)
                predictions += [stitched_probabilities(group), ensemble_probabilities(group, config.fused_space())]
            if loaded:
                image = read_image(record.path, manifest.preparation)
                predictions += [student.probabilities(image) for student in loaded]
            for scorer, probabilities in zip(scorers, predictions, strict=True):
                if probabilities.shape[1:] != truth.shape:
                    raise ImageError(
                        f"{record.label_path}: is {truth.shape} (H, W), expected the size of its image, "
                        f"{probabilities.shape[1:]}"
                    )
                scorer.add(probabilities, truth)
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


def _predictors(
    manifest: Manifest, config: Config, target: Any, students: Sequence[Path], pseudo_labels: bool
) -> tuple[list[Scorer], list[Any], Any]:
    scorers, fused = [], None
    if pseudo_labels:
        key = config.artefacts(manifest.preparation).key("fused")
        fused = Cache(config.cache, manifest.name).artefact("fused", key)
        fused.attributes()
        space = config.fused_space()
        scorers += [
            Scorer("TA, stitched", space, target),
            Scorer(f"ensemble ({config.fusion.rule.kind})", space, target),
        ]
    loaded = []
    if students:
        from pipeline.student import load_student

        for path in students:
            student = load_student(path, config.device)
            loaded.append(student)
            scorers.append(Scorer(path.parent.name or path.name, student.space, target))
    if not scorers:
        raise UserError("evaluate: nothing to evaluate; expected --student, or pseudo-labels")
    for scorer in scorers:
        target.mapping_from(scorer.source)
    return scorers, loaded, fused
