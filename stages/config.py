"""The settings of one run: one YAML file, a section for each stage or artefact, and the cache keys that follow.

This is the one module that knows the settings and the artefacts of all stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from pipeline.cache import Artefact, Cache
from pipeline.cache.artefact_spec import ArtefactKeys
from pipeline.core.reading import read_yaml, user_path
from pipeline.core.settings import Settings, apply_overrides, parse_settings
from pipeline.data.images import ImagePreprocessing
from pipeline.data.labels import LabelSpace, load_label_space
from pipeline.data.manifests import Manifest
from stages.adapt.settings import AdaptSettings
from stages.fuse.artefacts import FUSED
from stages.fuse.settings import RULES, FusionSettings
from stages.precompute.artefacts import MASKS, SAM, TEACHER
from stages.precompute.settings import GENERATORS, TEACHERS, MaskSettings, SamSettings, TeacherSettings
from stages.train.settings import TrainSettings

#: Every kind of artefact, in the order in which they are made.
ARTEFACTS = {spec.kind: spec for spec in (SAM, MASKS, TEACHER, FUSED)}

#: Every group of components.
COMPONENTS = {group.name: group for group in (GENERATORS, TEACHERS, RULES)}


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
    sam: SamSettings = Field(default_factory=SamSettings)
    masks: MaskSettings = Field(default_factory=MaskSettings)
    teacher: TeacherSettings = Field(default_factory=TeacherSettings)
    fusion: FusionSettings = Field(default_factory=FusionSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    adapt: AdaptSettings = Field(default_factory=AdaptSettings)

    def teacher_space(self) -> LabelSpace:
        """The TA's classes."""
        return load_label_space(self.teacher.label_space)

    def fused_space(self) -> LabelSpace:
        """The ensemble's classes."""
        return load_label_space(self.fusion.label_space or self.teacher.label_space)

    def artefacts(self, preprocessing: ImagePreprocessing) -> ArtefactKeys:
        """Settings and key of every artefact, for images preprocessed in this way."""
        return ArtefactKeys(ARTEFACTS, self, preprocessing)

    def artefact(self, manifest: Manifest, kind: str) -> Artefact:
        """The artefact `kind` of a data set, whether it exists or not."""
        cache = Cache(self.cache, manifest.name)
        return self.artefacts(manifest.preprocessing).artefact(cache, kind)


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads the settings in `path` (none: all defaults) and applies the overrides `a.b=value`.

    Raises:
        UserError: with every problem in the file and the overrides.
    """
    data = read_yaml(path) if path is not None else {}
    source = str(path) if path is not None else "config (defaults)"
    if overrides:
        data = apply_overrides(data, overrides)
        source += f" with --set {' --set '.join(overrides)}"
    return parse_settings(Config, data, source, folders=[path.parent] if path is not None else [])
