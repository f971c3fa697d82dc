"""The settings of one run, one section for each stage or artefact, and the cache keys that follow from them.

No other module imports the settings and the artefacts of all stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from pipeline.cache import Artefact, Cache
from pipeline.cache.artefact_spec import ArtefactKeys
from pipeline.core.project_files import PROJECT_ROOT
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

#: All kinds of artefacts, in the order of their computation.
ARTEFACTS = {spec.kind: spec for spec in (SAM, MASKS, TEACHER, FUSED)}

#: All groups of components.
COMPONENTS = {group.name: group for group in (GENERATORS, TEACHERS, RULES)}


def _absolute(cache: str) -> str:
    """Returns a local folder with its full path, because workers may run in other folders."""
    if not cache.strip():
        raise ValueError("expected a folder or a URL")
    return cache if "://" in cache else str(user_path(cache).absolute())


class Config(Settings):
    """The settings of one run."""

    cache: Annotated[str, AfterValidator(_absolute)] = Field(
        "cache",
        validate_default=True,
        description="Folder or fsspec URL of the cache; each data set gets a folder in it.",
    )
    device: str = Field("auto", description="auto, cpu or cuda[:index].")
    sam: SamSettings = Field(default_factory=SamSettings, description="Stage one: masks of every view.")
    masks: MaskSettings = Field(default_factory=MaskSettings, description="Stage one: panorama masks.")
    teacher: TeacherSettings = Field(default_factory=TeacherSettings, description="Stage one: logits of the TA.")
    fusion: FusionSettings = Field(default_factory=FusionSettings, description="Stage two: the ensemble.")
    train: TrainSettings = Field(default_factory=TrainSettings, description="Stage three: the student.")
    adapt: AdaptSettings = Field(default_factory=AdaptSettings, description="Adaptation of the TA.")

    def teacher_space(self) -> LabelSpace:
        """Returns the classes of the TA."""
        return load_label_space(self.teacher.label_space)

    def fused_space(self) -> LabelSpace:
        """Returns the classes of the ensemble."""
        return load_label_space(self.fusion.label_space or self.teacher.label_space)

    def artefacts(self, preprocessing: ImagePreprocessing) -> ArtefactKeys:
        """Returns settings and keys of all artefacts, for images preprocessed in this way."""
        return ArtefactKeys(ARTEFACTS, self, preprocessing)

    def artefact(self, manifest: Manifest, kind: str) -> Artefact:
        """Returns the artefact `kind` of a data set, whether it exists or not."""
        cache = Cache(self.cache, manifest.name)
        return self.artefacts(manifest.preprocessing).artefact(cache, kind)


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads the settings in `path` (None: all defaults) and applies the overrides `a.b=value`.

    Raises a `UserError` that lists every problem.
    """
    data = {} if path is None else read_yaml(path)
    source = "config (defaults)" if path is None else str(path)
    if overrides:
        data = apply_overrides(data, overrides, Config)
        source += f" with --set {' --set '.join(overrides)}"
    return parse_settings(Config, data, source, folders=[*([path.parent] if path else []), Path(), PROJECT_ROOT])
