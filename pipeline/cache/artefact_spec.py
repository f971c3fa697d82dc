"""Artefact kinds: what each is made from, and the cache keys that follow from the settings.

A stage declares one `ArtefactSpec` for each kind of artefact that it makes. A key is a hash of everything that
determines an artefact's content and of nothing else (no path, device, batch or worker count). See
docs/cache-format.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.cache.artefact import Artefact
from pipeline.cache.cache import Cache
from pipeline.core.settings import short_hash
from pipeline.data.images import ImagePreprocessing


def _nothing(config: Any) -> dict[str, Any]:
    return {}


def _no_kinds(config: Any) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class ArtefactSpec:
    """One kind of artefact.

    Attributes:
        kind: name of the artefact's folder in the cache.
        section: name of the settings section that describes it.
        made_by: name of the stage that makes it.
        title: what the stage's progress shows.
        key_parts: from the settings, what determines the content besides the images and the upstream artefacts. Raises
            `UserError` for settings from which the artefact cannot be made.
        algorithm: raised when the same settings begin to give other results.
        upstream: from the settings, the kinds of artefacts that it is computed from. Without any, it is computed from
            the images themselves, and the image preprocessing enters its key.
        attributes: from the settings, further attributes of the artefact's root group.
    """

    kind: str
    section: str
    made_by: str
    title: str
    key_parts: Callable[[Any], dict[str, Any]]
    algorithm: int = 1
    upstream: Callable[[Any], tuple[str, ...]] = _no_kinds
    attributes: Callable[[Any], dict[str, Any]] = _nothing


@dataclass(frozen=True)
class ArtefactKeys:
    """The settings and the key of every kind of artefact, for one run and images preprocessed in one way.

    Attributes:
        specs: the kinds of artefacts by name.
        config: the settings of the run; a spec's `section` is one of its attributes.
        preprocessing: crop and size of the images.
    """

    specs: Mapping[str, ArtefactSpec]
    config: Any
    preprocessing: ImagePreprocessing

    def settings(self, kind: str) -> dict[str, Any]:
        """What determines artefact `kind`, as plain JSON: its own settings and its upstream keys."""
        spec = self.specs[kind]
        parts: dict[str, Any] = {"artefact": kind, "algorithm": spec.algorithm, **spec.key_parts(self.config)}
        upstream = self.upstream(kind)
        # the names of these two are part of every key that was ever made
        return parts | ({"upstream": upstream} if upstream else {"preparation": self.preprocessing.key_parts()})

    def upstream(self, kind: str) -> dict[str, str]:
        """The artefacts that `kind` is computed from: kind to key."""
        return {needed: self.key(needed) for needed in self.specs[kind].upstream(self.config)}

    def key(self, kind: str) -> str:
        """The name of the artefact in the cache: a hash, or what `artefact:` in its section says."""
        return self.external(kind) or short_hash(self.settings(kind))

    def external(self, kind: str) -> str | None:
        """The key that the settings give for an artefact made elsewhere; `None` if it is computed here."""
        key: str | None = getattr(self.config, self.specs[kind].section).artefact
        return key

    def artefact(self, cache: Cache, kind: str) -> Artefact:
        """The artefact in `cache`, whether it exists or not."""
        return Artefact(cache.storage, kind, self.key(kind), self.specs[kind].made_by)

    def create(self, cache: Cache, kind: str, **attributes: Any) -> None:
        """Writes the root group of the artefact unless it is there and whole.

        Args:
            cache: the cache of the data set.
            kind: the artefact.
            **attributes: further attributes, besides those of its spec.
        """
        described = {**self.specs[kind].attributes(self.config), **attributes}
        self.artefact(cache, kind).create(self.settings(kind), self.upstream(kind), **described)
