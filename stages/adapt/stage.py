"""Rounds of TA adaptation [O]: change the TA, recompute its logits, fuse again. SAM never runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from pipeline.cache import Cache
from pipeline.cache.fused_reader import CacheReader, certainty_probabilities, stitched_probabilities
from pipeline.core.atomic_files import make_writable_folder, write_text
from pipeline.core.errors import UserError
from pipeline.core.hashing import file_digest
from pipeline.core.progress import Progress, SilentProgress
from pipeline.core.settings import short_hash
from pipeline.data.expected_miou import expected_areas, expected_miou
from pipeline.data.manifests import Manifest
from pipeline.execution.devices import keep_freed_memory, pick_device
from pipeline.models.network import Network
from pipeline.models.weights import save_checkpoint
from stages.adapt.finetune import finetune, mix_weights
from stages.adapt.input_choice import Choice, choose_input
from stages.adapt.statistics import (
    batch_norm_layers,
    draw_batches,
    measure_statistics,
    mix_statistics,
    stored_statistics,
)
from stages.config import Config, load_config


@dataclass(frozen=True)
class Round:
    """A finished round: its settings file, artefact keys after and before it, and terms of the loss, see `finetune`.

    `expected_ta` and `expected` are the expected mIoU of the TA and of the ensemble, in percent.
    """

    number: int
    config: Path
    teacher: str
    fused: str
    parent_teacher: str
    parent_fused: str
    losses: dict[str, list[float]]
    expected_ta: float
    expected: float


#: Runs another stage's command, given its name and options. Raises an error if it fails.
RunStage = Callable[[str, Sequence[str]], None]

MAX_ROUNDS = 5  #: of `auto`
LEAST_GAIN = 0.5  #: Points of expected mIoU; `auto` ends with the round that gains less.
CHOICE_BATCHES = 12  #: of views that scale and share are chosen on
SCORED = 200  #: Largest number of panoramas that a round is scored on.
VERSION = 3  #: Increased when a round with the same settings gives another TA.


def adapt(
    manifest: Manifest,
    config: Config,
    rounds: int | Literal["auto"],
    work_dir: Path,
    run_stage: RunStage,
    *,
    progress: Progress = SilentProgress(),
) -> list[Round]:
    """Runs adaptation rounds, each from the result of the previous one. Finished work is not repeated.

    Round 0 chooses the scale of the TA's input and mixes the batch-norm statistics of the panoramas into the TA's, see
    `adapt.scale` and `adapt.statistics`; it needs no fused panorama. It is left out if it changes nothing. Later rounds
    train the TA. With `auto` they end, after `MAX_ROUNDS` at the latest, with the first whose ensemble gains less than
    `LEAST_GAIN` of expected mIoU; `best_round` names the round to use.

    A round writes `work_dir/<manifest>/adapt-<key>/` with the adapted TA (`ta.pth`), `config.yaml` (the same settings
    with that TA, for every later stage) and `round.json`. It makes artefacts `teacher` and `fused` of its own;
    `teacher` has the attribute `adapted_from`. The artefacts `sam` and `masks` are only read. A killed round continues
    from the last saved step of its training. Raises `UserError` before any work if the TA cannot be adapted, or if
    nothing is fused with `config` and the first round trains.
    """
    check_adaptable(config, trains=rounds != 0)
    begins_with_choice = bool(config.adapt.statistics) or config.adapt.scale != 1
    if not rounds and not begins_with_choice:
        example = "expected rounds, or a share such as --set adapt.statistics=0.5"
        raise UserError(f"adapt: --rounds 0, adapt.statistics 0 and adapt.scale 1 change nothing; {example}")
    _check_upstream(manifest, config)
    if pick_device(config.device) == "cpu":
        keep_freed_memory()
    finished: list[Round] = []
    if begins_with_choice and (first := _run_round_0(manifest, config, work_dir, run_stage, progress)):
        finished.append(first)
        config = load_config(first.config)
    before = config
    for number in range(1, (MAX_ROUNDS if rounds == "auto" else rounds) + 1):
        finished.append(_run_round(number, manifest, config, before, work_dir, run_stage, progress))
        config = load_config(finished[-1].config)
        if rounds == "auto" and len(finished) > 1 and finished[-1].expected < finished[-2].expected + LEAST_GAIN:
            break
    return finished


def best_round(rounds: Sequence[Round]) -> Round:
    """Returns the round whose ensemble has the highest expected mIoU, the first of equal ones."""
    return max(rounds, key=lambda made: made.expected)


def _run_round_0(
    manifest: Manifest, config: Config, work_dir: Path, run_stage: RunStage, progress: Progress
) -> Round | None:
    """Chooses scale and share; returns None if the TA is best as it is."""
    paths = [record.path for record in manifest.select((config.train.split,))]
    teacher, settings = config.artefacts(manifest.preprocessing).key("teacher"), config.adapt
    parent = {
        "teacher": teacher,
        "statistics": settings.statistics,
        "scale": settings.scale,
        "seed": settings.seed,
    }
    panoramas = [file_digest(path) for path in paths if path.is_file()]
    key = short_hash(parent | {"panoramas": panoramas, "version": VERSION})
    folder = work_dir.absolute() / manifest.name / f"adapt-{key}"
    report = folder / "choice.json"
    if not report.is_file():
        device = pick_device(config.device)
        network = config.teacher.model.network(device)  # type: ignore[union-attr]
        make_writable_folder(folder, "--work-dir")
        choice, tried = _change_input(network, manifest, config, paths, device, progress)
        if choice.share:
            _save_ta(network.model, folder, teacher)
        write_text(report, json.dumps({"chosen": asdict(choice), "tried": [asdict(other) for other in tried]}) + "\n")
    choice = Choice(**json.loads(report.read_text())["chosen"])
    if (choice.scale, choice.share) == (1, 0):
        progress.note("the TA's predictions are surest as it is; round 0 changes nothing")
        return None
    return _finish_round(0, manifest, config, folder, parent, run_stage, {}, choice)


def _change_input(
    network: Network, manifest: Manifest, config: Config, paths: Sequence[Path], device: str, progress: Progress
) -> tuple[Choice, list[Choice]]:
    """Changes the network in place by the choice; returns it and all that were tried."""
    views, settings = config.teacher.views, config.adapt
    chosen_on = list(draw_batches(paths, manifest.preprocessing, views, settings.seed + 1, CHOICE_BATCHES))
    if not chosen_on:
        raise UserError("adapt: found no panorama that can be read in train.split; expected one at least")
    if not batch_norm_layers(network.model) and settings.statistics:
        progress.note("the TA has no batch norm: adapt.statistics has no effect")
    choice, tried = choose_input(network, chosen_on, settings.scale, settings.statistics, device, progress)
    if choice.share:
        scaled = replace(network, scale=network.scale * choice.scale)
        batches = draw_batches(paths, manifest.preprocessing, views, settings.seed)
        target = measure_statistics(scaled, batches, device, progress)
        mix_statistics(network.model, stored_statistics(network.model), target, choice.share)
    return choice, tried


def _run_round(
    number: int,
    manifest: Manifest,
    config: Config,
    before: Config,
    work_dir: Path,
    run_stage: RunStage,
    progress: Progress,
) -> Round:
    """Trains the TA of `config`; that of `before` is the anchor."""
    parents = config.artefacts(manifest.preprocessing)
    reader = CacheReader(manifest, config, (config.train.split,))
    reader.artefact.attributes()
    reader.check_any()
    if reader.missing:
        first, reason = next(iter(reader.missing.items()))
        progress.note(f"{len(reader.missing)} of {len(reader.wanted)} panoramas are left out; {first!r}: {reason}")
    parent = {"teacher": parents.key("teacher"), "fused": parents.key("fused"), "adapt": config.adapt.key_parts()}
    training: dict[str, Any] = {
        "fused": parent["fused"],
        "adapt": parent["adapt"],
        "panoramas": dict(reader.contents()),
    }
    training |= {"anchor": before.artefacts(manifest.preprocessing).key("teacher"), "version": VERSION}
    folder = work_dir.absolute() / manifest.name / f"adapt-{short_hash(training)}"
    weights, report = folder / "ta.pth", folder / "losses.json"
    if not (weights.is_file() and report.is_file()):
        make_writable_folder(folder, "--work-dir")
        _train_ta(config, before, reader, weights, report, progress)
    return _finish_round(number, manifest, config, folder, parent, run_stage, json.loads(report.read_text()))


def _finish_round(
    number: int,
    manifest: Manifest,
    config: Config,
    folder: Path,
    parent: dict[str, Any],
    run_stage: RunStage,
    losses: dict[str, list[float]],
    choice: Choice = Choice(1.0, 0.0, 0.0),
) -> Round:
    """Writes the settings with the adapted TA, and computes its logits and the ensemble."""
    settings, data = folder / "config.yaml", config.model_dump(mode="json")
    if (folder / "ta.pth").is_file():
        data["teacher"]["model"]["checkpoint"] = str(folder / "ta.pth")
    data["teacher"]["model"]["scale"] *= choice.scale
    data["adapt"] |= {"statistics": 0.0, "scale": 1.0}  # further rounds begin with this TA
    write_text(settings, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    adapted = load_config(settings)
    parents, artefacts = config.artefacts(manifest.preprocessing), adapted.artefacts(manifest.preprocessing)
    artefacts.create(Cache(adapted.cache, manifest.name), "teacher", adapted_from=parent)
    options = ["--manifest", str(manifest.path.absolute()), "--config", str(settings)]
    run_stage("precompute", [*options, "--only", "teacher"])
    run_stage("fuse", options)
    teacher, fused = artefacts.key("teacher"), artefacts.key("fused")
    report = folder / "round.json"
    ensembles = short_hash(dict(CacheReader(manifest, adapted, (adapted.train.split,)).contents()))
    known = json.loads(report.read_text()) if report.is_file() else {}
    if known.get("ensembles") == ensembles:  # scored before
        expected = known["expected_ta"], known["expected"]
    else:
        expected = expected_scores(manifest, adapted)
    before = parents.key("teacher"), parents.key("fused")
    finished = Round(number, settings, teacher, fused, *before, losses, *expected)
    description = {**finished.__dict__, "config": str(settings), "ensembles": ensembles}
    write_text(report, json.dumps(description, indent=1, ensure_ascii=False) + "\n")
    return finished


def expected_scores(manifest: Manifest, config: Config) -> tuple[float, float]:
    """Returns the expected mIoU in percent of the TA and of the ensemble, on at most `SCORED` panoramas to train on."""
    reader = CacheReader(manifest, config, (config.train.split,))
    reader.check_any()
    space, ids = config.fused_space(), reader.ids
    ids = ids[:: -(-len(ids) // SCORED)]
    areas = np.zeros((2, 3, space.num_classes))
    for image_id in ids:
        group = reader.artefact.read(image_id)
        stitched, certainty = stitched_probabilities(group), certainty_probabilities(group, space)
        likeliest, label = stitched.argmax(axis=0), group.read_array("label", ndim=2)
        areas[0] += expected_areas(stitched, likeliest)
        areas[1] += expected_areas(certainty, np.where(label < space.num_classes, label, likeliest))
    return expected_miou(areas[0]), expected_miou(areas[1])


def check_adaptable(config: Config, *, trains: bool) -> None:
    """Raises `UserError` for settings whose TA cannot be adapted, or, if it `trains`, not be trained."""
    if config.teacher.model is None or config.teacher.artefact is not None:
        raise UserError("config: teacher.model: adaptation needs the TA itself, found none (or an artefact)")
    if not trains:
        return
    if not (config.adapt.ensemble or config.adapt.confident or config.adapt.consistency):
        raise UserError("config: adapt: ensemble, confident and consistency are all 0; expected a term to train on")
    fused, teacher = config.fused_space(), config.teacher_space()
    if fused.classes != teacher.classes:
        found = f"the ensemble has the classes of {fused.name}, the TA those of {teacher.name}"
        raise UserError(f"config: fusion.label_space: {found}; expected the TA's own to train it on")


def _check_upstream(manifest: Manifest, config: Config) -> None:
    """Raises `UserError` if an artefact is missing that the ensembles of all rounds are made from."""
    artefacts, cache = config.artefacts(manifest.preprocessing), Cache(config.cache, manifest.name)
    for kind, key in artefacts.upstream("fused").items():
        if kind != "teacher":
            cache.artefact(kind, key).attributes()


def _train_ta(
    config: Config, before: Config, reader: CacheReader, weights: Path, report: Path, progress: Progress
) -> None:
    device, state = pick_device(config.device), weights.with_name("training.pt")
    network = config.teacher.model.network(device)  # type: ignore[union-attr]
    views, ignore_index = config.teacher.views, config.teacher_space().ignore_index
    terms = finetune(
        network, reader, views, config.adapt, ignore_index=ignore_index, device=device, progress=progress, state=state
    )
    if config.adapt.anchor:
        anchor = before.teacher.model.network(device)  # type: ignore[union-attr]
        mix_weights(network.model, anchor.model, config.adapt.anchor)
    write_text(report, json.dumps(terms) + "\n")
    _save_ta(network.model, weights.parent, reader.artefact.key)
    state.unlink()


def _save_ta(model: Any, folder: Path, adapted_from: str) -> None:
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    save_checkpoint({"state_dict": weights, "meta": {"adapted_from": adapted_from}}, folder / "ta.pth")
