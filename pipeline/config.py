"""The settings of one run: one YAML file, one section an artefact, and the keys that follow from them.

A key is a hash of everything that determines an artefact's content and of nothing else (no path, device, batch or
worker count). See docs/cache-format.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny

from pipeline.components import Component, component_validator, default_component
from pipeline.errors import UserError
from pipeline.images import Preparation
from pipeline.labels import LabelSpace, load_label_space
from pipeline.reading import read_yaml, user_path
from pipeline.settings import (
    NOT_IN_KEY,
    NameOrFile,
    Settings,
    SettingsFile,
    apply_overrides,
    parse_settings,
    short_hash,
)
from pipeline.views import ViewSettings

#: Raised when the code of an artefact changes what the same settings give.
ALGORITHM = {"sam": 1, "masks": 2, "teacher": 1, "fused": 2}

Generator = Annotated[SerializeAsAny[Component], BeforeValidator(component_validator("generator"))]
TeacherModel = Annotated[SerializeAsAny[Component], BeforeValidator(component_validator("teacher"))]
Rule = Annotated[SerializeAsAny[Component], BeforeValidator(component_validator("rule"))]

_ARTEFACT = Field(
    None,
    json_schema_extra=NOT_IN_KEY,
    pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$",
    description="Use the artefact of this name in the cache, made elsewhere, instead of computing one.",
)


class SamSettings(Settings):
    """Artefact ``sam``: masks of every view, at permissive thresholds (docs/method.md 2)."""

    artefact: str | None = _ARTEFACT
    views: ViewSettings = Field(ViewSettings(), description="Where the mask generator looks.")
    generator: Generator = Field(
        default_factory=lambda: default_component("generator", "felzenszwalb"),
        description="The mask generator.",
    )


class FilterSettings(Settings):
    """Which of the cached masks count. The quality thresholds are segment_anything's own defaults; the area is ours."""

    min_area: int = Field(32, ge=0, description="Smallest mask, in pixels.")
    predicted_iou: float = Field(0.88, ge=0, le=1, description="Lowest predicted IoU; masks without one stay.")
    stability_score: float = Field(0.95, ge=0, le=1, description="Lowest stability score; masks without one stay.")


class LiftSettings(Settings):
    """How window masks become panorama masks (docs/method.md 2, ours)."""

    agreement: float = Field(
        0.6,
        gt=0,
        le=1,
        description="IoU on the shared pixels from which two masks of neighbouring views are one.",
    )
    duplicate: float = Field(
        0.9, gt=0, le=1, description="IoU above which the lower scored of two panorama masks is dropped; 1: none is."
    )


class MaskSettings(Settings):
    """Artefact ``masks``: filtered and lifted panorama masks and their boundary."""

    artefact: str | None = _ARTEFACT
    filter: FilterSettings = FilterSettings()
    lift: LiftSettings = LiftSettings()
    boundary_strength: bool = Field(False, description="Also store how many masks end at each pixel.")


class TeacherSettings(Settings):
    """Artefact ``teacher``: logits of the TA (teacher assistant) for every view, at its native stride."""

    artefact: str | None = _ARTEFACT
    views: ViewSettings = Field(ViewSettings(), description="Where the TA looks.")
    model: TeacherModel | None = Field(None, description="The TA.")
    label_space: NameOrFile = Field(
        "cityscapes19",
        json_schema_extra=NOT_IN_KEY,
        description="The TA's own classes: a label space's name, or a YAML file.",
    )


class PoolingSettings(Settings):
    """How the views' predictions become one (docs/method.md 3.1; all numbers ours)."""

    mode: Literal["arithmetic", "log"] = Field("arithmetic", description="Average probabilities, or logarithms.")
    confidence: float = Field(1.0, ge=0, description="Exponent kappa of (1 - normalised entropy) in the weight.")
    floor: float = Field(1e-3, gt=0, description="Smallest weight epsilon of a view at a pixel.")


class FusionSettings(Settings):
    """Artefact ``fused``: the ensemble."""

    artefact: str | None = _ARTEFACT
    rule: Rule = Field(default_factory=lambda: default_component("rule", "paper"), description="The fusion rule.")
    pooling: PoolingSettings = PoolingSettings()
    boundary_radius: int | None = Field(
        None,
        ge=1,
        description="Pixels within which boundaries of SAM and the TA are one; null: the TA's output stride.",
    )
    label_space: NameOrFile | None = Field(
        None,
        json_schema_extra=NOT_IN_KEY,  # enters by its classes and mapping, see Config.artefact_settings
        description="Classes of the ensemble: a label space's name or file; null keeps the TA's own.",
    )


class AdaptSettings(Settings):
    """One round of TA adaptation (the losses: paper; the numbers: ours)."""

    iterations: int = Field(300, ge=1, description="Optimiser steps a round.")
    batch_size: int = Field(2, ge=1, description="Pairs of neighbouring windows a step.")
    learning_rate: float = Field(3e-5, gt=0, description="AdamW's; falls to 0 over the round.")
    ensemble: float = Field(1.0, ge=0, description="Weight of CE(E, S).")
    confident: float = Field(1.0, ge=0, description="Weight of CE(E_H, S).")
    consistency: float = Field(1.0, ge=0, description="Weight of L_CC of two neighbouring windows.")
    seed: int = Field(0, ge=0, description="Seed of the order of panoramas and windows.")


class TrainSettings(Settings):
    """The student and its training."""

    student: NameOrFile = Field(
        "goodsam_m", description="A config in mmseg_configs/students by name, or any mmsegmentation config by path."
    )
    split: str = Field("train", description="Split of the manifest to train on.")
    iterations: int | None = Field(None, ge=1, description="Optimiser steps; null takes the student config's.")
    batch_size: int = Field(2, ge=1, description="Images a step and process.")
    seed: int = Field(0, ge=0, description="Seed of weights, order and augmentation.")
    schedule: NameOrFile | None = Field(
        None,
        description="schedule_gpu, schedule_gpus, schedule_demo or a config, instead of the student config's schedule.",
    )
    load_from: SettingsFile | None = Field(
        None, description="Weights of a whole student to start from; null: what the student's config says."
    )
    pretrained_backbone: SettingsFile | None = Field(
        None, description="Weights of the backbone alone, from a file of its own or from a whole segmentor's."
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Changes to the mmsegmentation config, e.g. {model.mka.boundary: 0}."
    )
    class_balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Pixels of rare classes weigh more: exponent of the inverse class share in the pseudo-labels.",
    )
    cyclic_padding: bool = Field(False, description="The student's convolutions wrap around the seam.")
    ema: float | None = Field(
        None, gt=0, lt=1, description="Momentum of a moving average of the weights, e.g. 0.001; null is off."
    )
    select: Literal["last", "agreement"] = Field(
        "last", description="Which checkpoint counts; agreement: the best on held-out pseudo-labels."
    )
    held_out: float = Field(0.1, gt=0, lt=1, description="Share of the panoramas that select: agreement holds out.")
    workers: int = Field(2, ge=0, json_schema_extra=NOT_IN_KEY, description="Loader processes.")
    memory: int = Field(
        1024,
        ge=0,
        json_schema_extra=NOT_IN_KEY,
        description="MiB of decoded panoramas that each loader process keeps instead of reading them again.",
    )
    tensorboard: bool = Field(
        False, json_schema_extra=NOT_IN_KEY, description="Scalars and sample pictures for TensorBoard too."
    )


def _absolute(cache: str) -> str:
    """A local folder with its full path: workers may run in other folders."""
    if not cache.strip():
        raise ValueError("expected a folder or a URL")
    return cache if "://" in cache else str(user_path(cache).absolute())


class Config(Settings):
    """The settings of one run."""

    cache: Annotated[str, AfterValidator(_absolute)] = Field(
        "cache",
        validate_default=True,
        description="Directory or fsspec URL of the cache; data sets get a folder each.",
    )
    device: str = Field("auto", description="auto, cpu or cuda[:index]; changes no key.")
    sam: SamSettings = SamSettings()
    masks: MaskSettings = MaskSettings()
    teacher: TeacherSettings = TeacherSettings()
    fusion: FusionSettings = FusionSettings()
    train: TrainSettings = TrainSettings()
    adapt: AdaptSettings = AdaptSettings()

    def teacher_space(self) -> LabelSpace:
        """The TA's classes."""
        return load_label_space(self.teacher.label_space)

    def fused_space(self) -> LabelSpace:
        """The ensemble's classes."""
        return load_label_space(self.fusion.label_space or self.teacher.label_space)

    def artefacts(self, preparation: Preparation) -> Artefacts:
        """Every artefact's settings and key for images prepared in this way."""
        return Artefacts(self, preparation)


@dataclass(frozen=True)
class Artefacts:
    """Settings that determine each artefact, and the key made of them; a key names its upstream keys."""

    config: Config
    preparation: Preparation

    def settings(self, kind: str) -> dict[str, Any]:
        """What determines artefact ``kind``, as plain JSON: its own settings and its upstream keys."""
        config = self.config
        parts: dict[str, Any] = {"artefact": kind, "algorithm": ALGORITHM[kind]}
        if kind == "sam":
            parts |= {"preparation": self.preparation.key_parts(), "sam": config.sam.key_parts()}
        elif kind == "masks":
            parts |= {"upstream": self.upstream(kind), "masks": config.masks.key_parts()}
        elif kind == "teacher":
            if config.teacher.model is None:
                raise UserError(
                    "config: teacher.model is missing; expected a TA, e.g. {kind: mmseg, config: ..., "
                    "checkpoint: ...}, or teacher.artefact naming one in the cache"
                )
            parts |= {"preparation": self.preparation.key_parts(), "teacher": config.teacher.key_parts()}
        else:
            parts |= {"upstream": self.upstream(kind), "fusion": config.fusion.key_parts()}
            target, source = config.fused_space(), config.teacher_space()
            if target.classes != source.classes:
                mapping = target.mapping_from(source).tolist()
                parts["label_space"] = {"classes": list(target.classes), "mapping": mapping}
        return parts

    def upstream(self, kind: str) -> dict[str, str]:
        """The artefacts that ``kind`` is computed from: name to key."""
        if kind == "masks":
            return {"sam": self.key("sam")}
        if kind == "fused":
            return {needed: self.key(needed) for needed in self.config.fusion.rule.needs}  # type: ignore[attr-defined]
        return {}

    def key(self, kind: str) -> str:
        """The name of the artefact in the cache: a hash, or what ``artefact:`` in its section says."""
        section = getattr(self.config, {"fused": "fusion"}.get(kind, kind))
        return section.artefact or short_hash(self.settings(kind))


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """The settings in ``path`` (none: all defaults) with the ``a.b=value`` overrides applied."""
    data = read_yaml(path) if path is not None else {}
    source = str(path) if path is not None else "config (defaults)"
    if overrides:
        data = apply_overrides(data, overrides)
        source += f" with --set {' --set '.join(overrides)}"
    return parse_settings(Config, data, source, folders=[path.parent] if path is not None else [])
