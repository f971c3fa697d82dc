"""The small JSON files that say what exists: one marker a finished image, one record a failed one."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from pipeline.settings import canonical_json

_LONGEST_NAME = 160


@dataclass(frozen=True)
class Source:
    """The image file that an artefact was made from. Size and time are compared first, the digest when they differ."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class Marker:
    """A finished image: which attempt holds it, and what it was made from.

    ``inputs`` names the content (:attr:`content`) of every upstream image; ``files`` holds size and SHA-256 of every
    file of the attempt. A foreign program may leave out ``source``, ``inputs`` and ``files``.
    """

    id: str
    attempt: str
    source: Source | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """What this image holds, as a short hash: equal bytes, equal content."""
        said = sorted((name, digest) for name, (_, digest) in self.files.items()) if self.files else self.attempt
        return hashlib.sha256(canonical_json(said).encode()).hexdigest()[:16]

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Marker:
        """Raises ``ValueError`` if ``data`` is no marker."""
        values = json.loads(data)
        if not isinstance(values, dict) or not {"id", "attempt"} <= set(values):
            raise ValueError("expected a JSON object with 'id' and 'attempt'")
        attempt = values["attempt"]
        if not isinstance(attempt, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", attempt):
            raise ValueError(f"attempt is {attempt!r}, expected letters, digits, '-' and '_'")
        parts: dict[str, dict[str, Any]] = {key: values.get(key) or {} for key in ("source", "inputs", "files")}
        for key, part in parts.items():
            if not isinstance(part, dict):
                raise ValueError(f"{key} is {part!r}, expected a JSON object")
        return cls(
            id=str(values["id"]),
            attempt=attempt,
            source=Source(**parts["source"]) if parts["source"] else None,
            inputs={kind: str(content) for kind, content in parts["inputs"].items()},
            files={name: (int(size), str(digest)) for name, (size, digest) in parts["files"].items()},
        )


@dataclass(frozen=True)
class Failure:
    """An image that could not be processed, and why."""

    id: str
    reason: str

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Failure:
        """Raises ``ValueError`` if ``data`` is no record of a failure."""
        values = json.loads(data)
        if not isinstance(values, dict) or not {"id", "reason"} <= set(values):
            raise ValueError("expected a JSON object with 'id' and 'reason'")
        return cls(id=str(values["id"]), reason=str(values["reason"]))


def encode_id(image_id: str) -> str:
    """An image id as one file name: percent-encoded UTF-8; a long one ends in ``~`` and a hash."""
    name = quote(image_id, safe=" -_+,()'").replace("~", "%7E")
    if name.startswith((".", " ")):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME].rpartition('%')[0]}~{hashlib.sha256(image_id.encode()).hexdigest()[:16]}"
    return name


def decode_id(name: str) -> str | None:
    """The id of an encoded name, or None where it was shortened (the marker itself holds it)."""
    return None if "~" in name else unquote(name)
