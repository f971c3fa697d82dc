"""The small JSON files that say what exists: one marker a finished image, one record a failed one.

Each carries a checksum of its own text, so that a damaged one is told from a whole one. Numbers of the format:
an image of format 2 is one zip file, an image of format 1 a folder (docs/cache-format.md).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from pipeline.core.settings import canonical_json

_LONGEST_NAME = 160

#: Longest JSON file that is read; a marker has a few hundred bytes, of format 1 a hundred for every chunk.
MAX_JSON_BYTES = 2**24

#: Ids that are their own file name.
_PLAIN_ID = re.compile(r"[A-Za-z0-9_+,()'-][A-Za-z0-9 _.+,()'-]{0,159}")

_ATTEMPT = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Source:
    """The image file that an artefact was made from. Size and time are compared first, the digest when they differ."""

    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Source:
        """Raises `ValueError` unless `values` has a size, a time and a digest."""
        size, mtime_ns, sha256 = values.get("size"), values.get("mtime_ns"), values.get("sha256")
        if not (isinstance(size, int) and isinstance(mtime_ns, int) and isinstance(sha256, str)):
            raise ValueError(f"source is {dict(values)!r}, expected size, mtime_ns and sha256")
        return cls(size, mtime_ns, sha256)

    def to_json(self) -> dict[str, Any]:
        return {"size": self.size, "mtime_ns": self.mtime_ns, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Marker:
    """A finished image: which file holds it, and what it was made from.

    `content` names what the arrays hold: equal arrays, equal content. `inputs` is the content of every upstream
    image. A foreign program may leave out all but `id` and `file`.
    """

    id: str
    file: str
    """Below `images/`: the zip file of the image; of format 1 `<image>/<attempt>`, a folder."""
    source: Source | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    content: str = ""
    size: int | None = None
    """Bytes of the zip file."""
    sha256: str | None = None
    """Digest of the zip file."""
    arrays: dict[str, int] = field(default_factory=dict)
    """Stored bytes of each array, its metadata included; `""` is the group itself."""
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Format 1: size and SHA-256 of every file of the folder."""

    @property
    def is_zip(self) -> bool:
        """Whether the image is one zip file (format 2)."""
        return self.file.endswith(".zip")

    def names_the_same(self, other: Marker) -> bool:
        """Whether both say the same of the image, wherever each has it."""
        return replace(self, file="") == replace(other, file="")

    def to_json(self) -> bytes:
        """The marker's file, in format 2."""
        values: dict[str, Any] = {"id": self.id, "file": self.file}
        if self.size is not None:
            values["size"] = self.size
        if self.sha256 is not None:
            values["sha256"] = self.sha256
        values["content"] = self.content
        if self.source is not None:
            values["source"] = self.source.to_json()
        values["inputs"] = self.inputs
        values["arrays"] = self.arrays
        return seal(values)

    @classmethod
    def from_json(cls, data: bytes) -> Marker:
        """A marker of format 2 or 1. Raises `ValueError` if `data` is none, or is damaged."""
        values = unseal(data)
        image_id = values.get("id")
        if not isinstance(image_id, str) or not ("file" in values or "attempt" in values):
            raise ValueError("expected a JSON object with 'id' and 'file'")
        for key in ("source", "inputs", "files", "arrays"):
            if not isinstance(values.get(key) or {}, dict):
                raise ValueError(f"{key} is {values[key]!r}, expected a JSON object")
        source = Source.from_json(values["source"]) if values.get("source") else None
        inputs = {kind: str(content) for kind, content in (values.get("inputs") or {}).items()}
        if "file" in values:
            return cls._of_zip(image_id, values, source, inputs)
        return cls._of_folder(image_id, values, source, inputs)

    @classmethod
    def _of_zip(cls, image_id: str, values: dict[str, Any], source: Source | None, inputs: dict[str, str]) -> Marker:
        file, size, sha256 = values["file"], values.get("size"), values.get("sha256")
        name = encode_id(image_id)
        attempt = file[len(name) + 1 : -4] if isinstance(file, str) else ""
        if file != f"{name}.{attempt}.zip" or not _ATTEMPT.fullmatch(attempt):
            raise ValueError(f"file is {file!r}, expected {name}.<letters, digits, '-' and '_'>.zip")
        if not (size is None or isinstance(size, int)) or not (sha256 is None or isinstance(sha256, str)):
            raise ValueError(f"size is {size!r} and sha256 {sha256!r}, expected a number and a text")
        content = str(values.get("content") or sha256 or short_digest(file))[:16]
        arrays: dict[str, int] = values.get("arrays") or {}
        if not all(isinstance(n, int) for n in arrays.values()):
            raise ValueError(f"arrays is {arrays!r}, expected a number of bytes for each array")
        return cls(image_id, file, source, inputs, content, size, sha256, arrays)

    @classmethod
    def _of_folder(cls, image_id: str, values: dict[str, Any], source: Source | None, inputs: dict[str, str]) -> Marker:
        attempt = values["attempt"]
        if not isinstance(attempt, str) or not _ATTEMPT.fullmatch(attempt):
            raise ValueError(f"attempt is {attempt!r}, expected letters, digits, '-' and '_'")
        try:
            files = {name: (int(size), str(digest)) for name, (size, digest) in (values.get("files") or {}).items()}
        except (TypeError, OverflowError) as error:
            raise ValueError(f"files: {error}") from None
        if any(part in ("", ".", "..") for name in files for part in name.split("/")):
            raise ValueError("files names a file outside of the image's folder")
        pairs = sorted((name, digest) for name, (_, digest) in files.items()) if files else attempt
        arrays: dict[str, int] = {}
        for name, (size, _) in files.items():
            array = array_of_file(name)
            arrays[array] = arrays.get(array, 0) + size
        file = f"{encode_id(image_id)}/{attempt}"
        return cls(image_id, file, source, inputs, short_digest(pairs), arrays=arrays, files=files)


@dataclass(frozen=True)
class Failure:
    """An image that could not be processed, and why."""

    id: str
    reason: str

    def to_json(self) -> bytes:
        return seal({"id": self.id, "reason": self.reason})

    @classmethod
    def from_json(cls, data: bytes) -> Failure:
        """Raises `ValueError` if `data` is no record of a failure, or is damaged."""
        values = unseal(data)
        if not {"id", "reason"} <= set(values):
            raise ValueError("expected a JSON object with 'id' and 'reason'")
        return cls(id=str(values["id"]), reason=str(values["reason"]))


def seal(values: Mapping[str, Any]) -> bytes:
    """`values` as the text of a JSON object whose last key is `checksum`: see `unseal`."""
    text = json.dumps(values, ensure_ascii=False).encode(errors="surrogatepass")[:-1]
    return text + b', "checksum": "' + _checksum(text) + b'"}'


def unseal(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`, without its `checksum`.

    The checksum is the first 16 hexadecimal digits of the SHA-256 of all bytes before the last comma; an object
    without one (a foreign program's) is taken as it is. Raises `ValueError` if `data` is no JSON object or differs
    from its checksum.
    """
    values = parse_json(data)
    if "checksum" in values:
        text, _, last = data.rpartition(b", ")
        if last != b'"checksum": "' + _checksum(text) + b'"}':
            raise ValueError("its text does not have the checksum that it was written with")
        del values["checksum"]
    return values


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:16].encode()


def parse_json(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`. Raises `ValueError` if there is none, or if it is too long or too deep."""
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"has {len(data):,} bytes, expected at most {MAX_JSON_BYTES:,}")
    try:
        values = json.loads(data.decode())
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"holds a {type(values).__name__}, expected a JSON object")
    return values


def short_digest(values: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `values` as canonical JSON."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()[:16]


def array_of_file(name: str) -> str:
    """The array that a file of an image's group belongs to; `""` for the group's own metadata."""
    return name.rsplit("/c/", 1)[0] if "/c/" in name else name.rpartition("/")[0]


def encode_id(image_id: str) -> str:
    """An image id as one file name: percent-encoded UTF-8; a long one ends in `~` and a hash."""
    if _PLAIN_ID.fullmatch(image_id):
        return image_id
    name = quote(image_id, safe=" -_+,()'").replace("~", "%7E")
    if name.startswith((".", " ")):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME].rpartition('%')[0]}~{hashlib.sha256(image_id.encode()).hexdigest()[:16]}"
    return name
