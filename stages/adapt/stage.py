"""Rounds of TA adaptation: fine-tune, recompute the TA's logits, fuse again; SAM never runs (ours: the rounds)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache as remembered
from pathlib import Path
from typing import Any

import yaml

from pipeline.cache import Cache
from pipeline.cache.fused_reader import CacheReader
from pipeline.core.atomic_files import writable_folder, write_text
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, SilentProgress
from pipeline.core.settings import short_hash
from pipeline.data.manifests import Manifest
from pipeline.execution.devices import pick_device
from pipeline.geometry.views import make_views
from pipeline.models.weights import save_checkpoint
from stages.adapt.finetune import Normalization, finetune, neighbours
from stages.config import Config, load_config


@dataclass(frozen=True)
class Round:
    """A finished round: its settings file, and the keys of what it made and of what it came from."""

    number: int
    config: Path
    teacher: str
    fused: str
    parent_teacher: str
    parent_fused: str
    losses: dict[str, list[float]]


#: Runs another stage's command: its name and options. Raises if it fails.
RunStage = Callable[[str, Sequence[str]], None]


def adapt(
    manifest: Manifest,
    config: Config,
    rounds: int,
    work_dir: Path,
    run_stage: RunStage,
    *,
    progress: Progress | None = None,
) -> list[Round]:
    """`rounds` rounds, each beginning where the last one ended; what is done is not done again.

    A round writes `work_dir/<manifest>/adapt-<key>/` with the adapted TA (`ta.pth`), `config.yaml` (the same
    settings with that TA, for every later stage) and `round.json`; and the artefacts `teacher` and `fused` of its
    own, of which `teacher` has the attribute `adapted_from`. ArtefactKeys `sam` and `masks` are only read. A
    killed round goes on with the fine-tuning's last saved step. Raises `UserError` before any work if the TA
    cannot be adapted or nothing is fused.
    """
    done: list[Round] = []
    for number in range(1, rounds + 1):
        done.append(_round(number, manifest, config, work_dir, run_stage, progress or SilentProgress()))
        config = load_config(done[-1].config)
    return done


def _round(
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
    marks = dict(reader.contents())
    key = short_hash({"fused": parents.key("fused"), "adapt": config.adapt.key_parts(), "panoramas": marks})
    folder = work_dir.absolute() / manifest.name / f"adapt-{key}"
    weights, report = folder / "ta.pth", folder / "losses.json"
    if not (weights.is_file() and report.is_file()):
        writable_folder(folder, "--work-dir")
        _write_ta(config, reader, weights, report, progress)
    settings = folder / "config.yaml"
    write_text(settings, _with_checkpoint(config, weights))
    adapted = load_config(settings)
    artefacts = adapted.artefacts(manifest.preprocessing)
    space = config.teacher_space()
    cache = Cache(adapted.cache, manifest.name)
    parent = {"teacher": parents.key("teacher"), "fused": parents.key("fused"), "adapt": config.adapt.key_parts()}
    cache.artefact("teacher", artefacts.key("teacher")).create(
        artefacts.settings("teacher"),
        artefacts.upstream("teacher"),
        classes=list(space.classes),
        label_space=space.name,
        adapted_from=parent,
    )
    options = ["--manifest", str(manifest.path.absolute()), "--config", str(settings)]
    run_stage("precompute", [*options, "--only", "teacher"])
    run_stage("fuse", options)
    finished = Round(
        number,
        settings,
        artefacts.key("teacher"),
        artefacts.key("fused"),
        parents.key("teacher"),
        parents.key("fused"),
        json.loads(report.read_text()),
    )
    described = {**finished.__dict__, "config": str(settings)}
    write_text(folder / "round.json", json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    return finished


def check_adaptable(config: Config) -> None:
    """Raises `UserError` for settings whose TA cannot be adapted."""
    if config.teacher.model is None or config.teacher.artefact is not None:
        raise UserError("config: teacher.model: adaptation needs the TA itself, found none (or an artefact)")
    if not (config.adapt.ensemble or config.adapt.confident or config.adapt.consistency):
        raise UserError("config: adapt: ensemble, confident and consistency are all 0; expected a term to train on")
    if config.fused_space().classes != config.teacher_space().classes:
        raise UserError(
            f"config: fusion.label_space: the ensemble has the classes of {config.fused_space().name}, the TA those of "
            f"{config.teacher_space().name}; expected the TA's own to train it on"
        )


def _write_ta(config: Config, reader: CacheReader, weights: Path, report: Path, progress: Progress) -> None:
    device = pick_device(config.device)
    state = weights.with_name("training.pt")
    network = config.teacher.model.network(device)  # type: ignore[union-attr]

    @remembered
    def pairs_of(size: tuple[int, int]) -> Any:
        return neighbours(make_views(config.teacher.views, *size), size[1])

    terms = finetune(
        network.model,
        Normalization(network.mean, network.std, network.bgr, config.teacher.model.scale),  # type: ignore[union-attr]
        reader,
        pairs_of,
        config.adapt,
        ignore_index=config.teacher_space().ignore_index,
        device=device,
        progress=progress,
        state=state,
    )
    adapted = {name: value.detach().cpu() for name, value in network.model.state_dict().items()}
    write_text(report, json.dumps(terms) + "\n")
    save_checkpoint({"state_dict": adapted, "meta": {"adapted_from": reader.artefact.key}}, weights)
    state.unlink()


def _with_checkpoint(config: Config, weights: Path) -> str:
    data = config.model_dump(mode="json")
    data["teacher"]["model"]["checkpoint"] = str(weights.absolute())
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
