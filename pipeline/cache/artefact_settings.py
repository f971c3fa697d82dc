"""Base of the settings sections that describe an artefact."""

from __future__ import annotations

from pydantic import Field

from pipeline.core.settings import NOT_IN_KEY, Settings


class ArtefactSettings(Settings):
    """Settings of an artefact, which may also be one that was made elsewhere."""

    artefact: str | None = Field(
        None,
        json_schema_extra=NOT_IN_KEY,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$",
        description="Use the artefact of this name in the cache, made elsewhere, instead of computing one.",
    )
