"""Kinds of artefacts: their settings and inputs, and the cache keys that follow from these.

A stage declares an `ArtefactSpec` for each kind of artefact that it makes. A key is a hash of everything that
determines an artefact's content, and of nothing else (no path, device, batch size or worker count). See
docs/cache-format.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from pipeline.cache.artefact import Artefact
from pipeline.cache.cache import Cache
from pipeline.core.settings import NOT_IN_KEY, Settings, short_hash
from pipeline.data.images import ImagePreprocessing


class ArtefactSettings(Settings):
    """Settings of an artefact, which may also be one that was made elsewhere."""

    artefact: str | None = Field(
        None,
        json_schema_extra=NOT_IN_KEY,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$",
        description="Use the artefact of this name in the cache, made elsewhere, instead of computing one.",
    )


@dataclass(frozen=True)
class ArtefactSpec:
    """One kind of artefact.

    Attributes:
        kind: name of the artefact's folder in the cache.
        section: name of the settings section that describes it.
        made_by: name of the stage that makes it.
        title: title of the stage's progress.
        key_parts: returns, from the settings, what determines the content besides the images and the upstream
            artefacts. Raises `UserError` for settings from which the artefact cannot be made.
        algorithm: version, raised when the same settings begin to give other results.
        upstream: returns, from the settings, the kinds of artefacts that it is computed from. Without any, it is
            computed from the images, and the image preprocessing enters its key.
        attributes: returns, from the settings, further attributes of the artefact's root group.
    """

    kind: str
    section: str
    made_by: str
    title: str
    key_parts: Callable[[Any], dict[str, Any]]
    algorithm: int = 1
    upstream: Callable[[Any], tuple[str, ...]] = lambda config: ()
    attributes: Callable[[Any], dict[str, Any]] = lambda config: {}


@dataclass(frozen=True)
class ArtefactKeys:
    """The settings and the key of every kind of artefact in one run.

    Attributes:
        specs: the kinds of artefacts by name.
        config: the settings of the run; a spec's `section` is one of its attributes.
        preprocessing: crop and size of the images.
    """

    specs: Mapping[str, ArtefactSpec]
    config: Any
    preprocessing: ImagePreprocessing

    def settings(self, kind: str) -> dict[str, Any]:
        """Returns what determines artefact `kind`, as plain JSON: its own settings and its upstream keys."""
        spec = self.specs[kind]
        parts: dict[str, Any] = {"artefact": kind, "algorithm": spec.algorithm, **spec.key_parts(self.config)}
        upstream = self.upstream(kind)
        # the two names are part of every existing key
        return parts | ({"upstream": upstream} if upstream else {"preparation": self.preprocessing.key_parts()})

    def upstream(self, kind: str) -> dict[str, str]:
        """Returns kind and key of the artefacts that `kind` is computed from."""
        return {source: self.key(source) for source in self.specs[kind].upstream(self.config)}

    def key(self, kind: str) -> str:
        """Returns the artefact's key in the cache: a hash, or the name that the settings give in `artefact`."""
        return self.external(kind) or short_hash(self.settings(kind))

    def external(self, kind: str) -> str | None:
        """Returns the name that the settings give an artefact made elsewhere; `None` if it is computed."""
        key: str | None = getattr(self.config, self.specs[kind].section).artefact
        return key

    def artefact(self, cache: Cache, kind: str) -> Artefact:
        """Returns the artefact in `cache`, whether it exists or not."""
        return Artefact(cache.storage, kind, self.key(kind), self.specs[kind].made_by)

    def create(self, cache: Cache, kind: str, **attributes: Any) -> None:
        """Writes the artefact's root group unless it exists undamaged; `attributes` are added to those of its spec."""
        attributes = self.specs[kind].attributes(self.config) | attributes
        self.artefact(cache, kind).create(self.settings(kind), self.upstream(kind), **attributes)


def open_artefacts(cache: Cache, artefacts: ArtefactKeys, kinds: Iterable[str]) -> dict[str, Artefact]:
    """Returns the artefacts of these kinds. Raises `UserError` if one is missing, damaged or of another format."""
    opened = {kind: artefacts.artefact(cache, kind) for kind in kinds}
    for artefact in opened.values():
        artefact.attributes()
    return opened
