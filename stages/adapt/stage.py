"""Rounds of TA adaptation [O]: change the TA, recompute its logits, fuse again. SAM never runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.cache import Cache
from pipeline.cache.fused_reader import CacheReader
from pipeline.core.atomic_files import make_writable_folder, write_text
from pipeline.core.errors import UserError
from pipeline.core.hashing import file_digest
from pipeline.core.progress import Progress, SilentProgress
from pipeline.core.settings import short_hash
from pipeline.data.manifests import Manifest
from pipeline.execution.devices import pick_device
from pipeline.models.network import Network
from pipeline.models.weights import save_checkpoint
from stages.adapt.finetune import finetune
from stages.adapt.statistics import (
    CHOICE_BATCHES,
    batch_norm_layers,
    draw_batches,
    entropy_by_share,
    measure_statistics,
    mix_statistics,
    stored_statistics,
)
from stages.config import Config, load_config


@dataclass(frozen=True)
class Round:
    """A finished round: its settings file, artefact keys after and before it, and terms of the loss, see `finetune`."""

    number: int
    config: Path
    teacher: str
    fused: str
    parent_teacher: str
    parent_fused: str
    losses: dict[str, list[float]]


#: Runs another stage's command, given its name and options. Raises an error if it fails.
RunStage = Callable[[str, Sequence[str]], None]


def adapt(
    manifest: Manifest,
    config: Config,
    rounds: int,
    work_dir: Path,
    run_stage: RunStage,
    *,
    progress: Progress = SilentProgress(),
) -> list[Round]:
    """Runs adaptation rounds, each from the result of the previous one. Finished work is not repeated.

    Round 0 mixes the batch-norm statistics of the panoramas into the TA's by the share `adapt.statistics`; it needs no
    fused panorama. It is left out if the share is 0, or if the TA has no such layer. Later rounds train the TA.

    A round writes `work_dir/<manifest>/adapt-<key>/` with the adapted TA (`ta.pth`), `config.yaml` (the same settings
    with that TA, for every later stage) and `round.json`. It makes artefacts `teacher` and `fused` of its own;
    `teacher` has the attribute `adapted_from`. The artefacts `sam` and `masks` are only read. A killed round continues
    from the last saved step of its training. Raises `UserError` before any work if the TA cannot be adapted, or if
    nothing is fused with `config` and the first round trains.
    """
    check_adaptable(config, trains=rounds > 0)
    if not rounds and not config.adapt.statistics:
        example = "expected rounds, or a share such as --set adapt.statistics=0.5"
        raise UserError(f"adapt: --rounds 0 and adapt.statistics 0 change nothing; {example}")
    finished: list[Round] = []
    if config.adapt.statistics and (first := _run_round_0(manifest, config, work_dir, run_stage, progress)):
        finished.append(first)
        config = load_config(first.config)
    for number in range(1, rounds + 1):
        finished.append(_run_round(number, manifest, config, work_dir, run_stage, progress))
        config = load_config(finished[-1].config)
    return finished


def _run_round_0(
    manifest: Manifest, config: Config, work_dir: Path, run_stage: RunStage, progress: Progress
) -> Round | None:
    """Mixes the statistics; returns None if the TA has none, or if its own are the best choice."""
    paths = [record.path for record in manifest.select((config.train.split,))]
    teacher = config.artefacts(manifest.preprocessing).key("teacher")
    parent = {"teacher": teacher, "statistics": config.adapt.statistics, "seed": config.adapt.seed}
    key = short_hash(parent | {"panoramas": [file_digest(path) for path in paths]})
    folder = work_dir.absolute() / manifest.name / f"adapt-{key}"
    report = folder / "statistics.json"
    if not report.is_file():
        device = pick_device(config.device)
        network = config.teacher.model.network(device)  # type: ignore[union-attr]
        if not batch_norm_layers(network.model):
            progress.note("the TA has no batch norm; its statistics stay as they are")
            return None
        make_writable_folder(folder, "--work-dir")
        share, entropies = _adapt_statistics(network, manifest, config, paths, device, progress)
        _save_ta(network.model, folder, teacher)
        write_text(report, json.dumps({"share": share, "entropy": entropies}) + "\n")
    if not json.loads(report.read_text())["share"]:
        progress.note("the TA's predictions are surest with its own statistics, which stay")
        return None
    return _finish_round(0, manifest, config, folder, parent, run_stage, {})


def _adapt_statistics(
    network: Network, manifest: Manifest, config: Config, paths: Sequence[Path], device: str, progress: Progress
) -> tuple[float, dict[float, float]]:
    """Changes the network in place; returns the share, and the entropies by share that it was chosen by."""
    views, seed, setting = config.teacher.views, config.adapt.seed, config.adapt.statistics
    source = stored_statistics(network.model)
    batches = draw_batches(paths, manifest.preprocessing, views, seed)
    target = measure_statistics(network, batches, device, progress)
    entropies: dict[float, float] = {}
    if setting == "auto":
        others = list(draw_batches(paths, manifest.preprocessing, views, seed + 1, CHOICE_BATCHES))
        entropies = entropy_by_share(network, target, others, device, progress)
    share = min(entropies, key=lambda candidate: entropies[candidate]) if setting == "auto" else setting
    mix_statistics(network.model, source, target, share)
    return share, entropies


def _run_round(
    number: int, manifest: Manifest, config: Config, work_dir: Path, run_stage: RunStage, progress: Progress
) -> Round:
    parents = config.artefacts(manifest.preprocessing)
    reader = CacheReader(manifest, config, (config.train.split,))
    reader.artefact.attributes()
    reader.check_any()
    if reader.missing:
        first, reason = next(iter(reader.missing.items()))
        progress.note(f"{len(reader.missing)} of {len(reader.wanted)} panoramas are left out; {first!r}: {reason}")
    parent = {"teacher": parents.key("teacher"), "fused": parents.key("fused"), "adapt": config.adapt.key_parts()}
    training = {"fused": parent["fused"], "adapt": parent["adapt"], "panoramas": dict(reader.contents())}
    folder = work_dir.absolute() / manifest.name / f"adapt-{short_hash(training)}"
    weights, report = folder / "ta.pth", folder / "losses.json"
    if not (weights.is_file() and report.is_file()):
        make_writable_folder(folder, "--work-dir")
        _train_ta(config, reader, weights, report, progress)
    return _finish_round(number, manifest, config, folder, parent, run_stage, json.loads(report.read_text()))


def _finish_round(
    number: int,
    manifest: Manifest,
    config: Config,
    folder: Path,
    parent: dict[str, Any],
    run_stage: RunStage,
    losses: dict[str, list[float]],
) -> Round:
    """Writes the settings with the adapted TA, and computes its logits and the ensemble."""
    settings, data = folder / "config.yaml", config.model_dump(mode="json")
    data["teacher"]["model"]["checkpoint"] = str(folder / "ta.pth")
    data["adapt"]["statistics"] = 0.0  # further rounds begin with this TA
    write_text(settings, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    adapted = load_config(settings)
    parents, artefacts = config.artefacts(manifest.preprocessing), adapted.artefacts(manifest.preprocessing)
    artefacts.create(Cache(adapted.cache, manifest.name), "teacher", adapted_from=parent)
    options = ["--manifest", str(manifest.path.absolute()), "--config", str(settings)]
    run_stage("precompute", [*options, "--only", "teacher"])
    run_stage("fuse", options)
    teacher, fused = artefacts.key("teacher"), artefacts.key("fused")
    finished = Round(number, settings, teacher, fused, parents.key("teacher"), parents.key("fused"), losses)
    description = {**finished.__dict__, "config": str(settings)}
    write_text(folder / "round.json", json.dumps(description, indent=1, ensure_ascii=False) + "\n")
    return finished


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


def _train_ta(config: Config, reader: CacheReader, weights: Path, report: Path, progress: Progress) -> None:
    device, state = pick_device(config.device), weights.with_name("training.pt")
    network = config.teacher.model.network(device)  # type: ignore[union-attr]
    views, ignore_index = config.teacher.views, config.teacher_space().ignore_index
    terms = finetune(
        network, reader, views, config.adapt, ignore_index=ignore_index, device=device, progress=progress, state=state
    )
    write_text(report, json.dumps(terms) + "\n")
    _save_ta(network.model, weights.parent, reader.artefact.key)
    state.unlink()


def _save_ta(model: Any, folder: Path, adapted_from: str) -> None:
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    save_checkpoint({"state_dict": weights, "meta": {"adapted_from": adapted_from}}, folder / "ta.pth")
