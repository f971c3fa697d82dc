"""Rounds of TA adaptation [O]: fine-tune the TA, recompute its logits, fuse again. SAM never runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.cache import Cache
from pipeline.cache.fused_reader import CacheReader
from pipeline.core.atomic_files import make_writable_folder, write_text
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, SilentProgress
from pipeline.core.settings import short_hash
from pipeline.data.manifests import Manifest
from pipeline.execution.devices import pick_device
from pipeline.models.weights import save_checkpoint
from stages.adapt.finetune import finetune
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

    A round writes `work_dir/<manifest>/adapt-<key>/` with the adapted TA (`ta.pth`), `config.yaml` (the same settings
    with that TA, for every later stage) and `round.json`. It makes artefacts `teacher` and `fused` of its own;
    `teacher` has the attribute `adapted_from`. The artefacts `sam` and `masks` are only read. A killed round continues
    from the last saved step of its training. The training split of `manifest` must be fused with `config`. Raises
    `UserError` before any work if the TA cannot be adapted or nothing is fused.
    """
    finished: list[Round] = []
    for number in range(1, rounds + 1):
        finished.append(_run_round(number, manifest, config, work_dir, run_stage, progress))
        config = load_config(finished[-1].config)
    return finished


def _run_round(
    number: int, manifest: Manifest, config: Config, work_dir: Path, run_stage: RunStage, progress: Progress
) -> Round:
    check_adaptable(config)
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
    settings, data = folder / "config.yaml", config.model_dump(mode="json")
    data["teacher"]["model"]["checkpoint"] = str(weights)
    write_text(settings, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    adapted = load_config(settings)
    artefacts = adapted.artefacts(manifest.preprocessing)
    artefacts.create(Cache(adapted.cache, manifest.name), "teacher", adapted_from=parent)
    options = ["--manifest", str(manifest.path.absolute()), "--config", str(settings)]
    run_stage("precompute", [*options, "--only", "teacher"])
    run_stage("fuse", options)
    teacher, fused, losses = artefacts.key("teacher"), artefacts.key("fused"), json.loads(report.read_text())
    finished = Round(number, settings, teacher, fused, parents.key("teacher"), parents.key("fused"), losses)
    description = {**finished.__dict__, "config": str(settings)}
    write_text(folder / "round.json", json.dumps(description, indent=1, ensure_ascii=False) + "\n")
    return finished


def check_adaptable(config: Config) -> None:
    """Raises `UserError` for settings whose TA cannot be adapted."""
    if config.teacher.model is None or config.teacher.artefact is not None:
        raise UserError("config: teacher.model: adaptation needs the TA itself, found none (or an artefact)")
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
    adapted = {name: value.detach().cpu() for name, value in network.model.state_dict().items()}
    write_text(report, json.dumps(terms) + "\n")
    save_checkpoint({"state_dict": adapted, "meta": {"adapted_from": reader.artefact.key}}, weights)
    state.unlink()
