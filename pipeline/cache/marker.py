"""The records of the cache, small JSON files: a marker for each finished image, a failure for each failed one.

A record ends with a checksum of its own text. A marker of format 2 references a zip file, a marker of format 1 a folder
(docs/cache-format.md).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote

from pipeline.core.reading import reject_constant
from pipeline.core.settings import canonical_json

_MAX_NAME_LENGTH = 160

#: Largest JSON file that is read. A marker takes a few hundred bytes; one of format 1, a hundred for every chunk.
MAX_JSON_BYTES = 2**24

#: Ids that need no encoding.
_PLAIN_ID = re.compile(r"[A-Za-z0-9_+,()'-][A-Za-z0-9 _.+,()'-]{0,159}")

_ATTEMPT = re.compile(r"[A-Za-z0-9_-]+")

_DECODER = json.JSONDecoder(parse_constant=reject_constant)

#: Keys of a marker of format 2, in the order of the file.
_STORED_FIELDS = ("id", "file", "size", "sha256", "content", "source", "inputs", "arrays")


@dataclass(frozen=True, slots=True)
class Source:
    """An image file: bytes, modification time, and digest, which is compared where only the time differs."""

    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Source:
        """Parses a marker's `source`. Raises `ValueError` unless it has a size, a time and a digest."""
        size, mtime_ns, sha256 = values.get("size"), values.get("mtime_ns"), values.get("sha256")
        if not (isinstance(size, int) and isinstance(mtime_ns, int) and isinstance(sha256, str)):
            raise ValueError(f"source is {dict(values)!r}, expected size, mtime_ns and sha256")
        return cls(size, mtime_ns, sha256)


@dataclass(frozen=True, slots=True)
class Marker:
    """A finished image: its file, and what it was computed from. A foreign program may write `id` and `file` alone.

    Attributes:
        id: the image.
        file: the image's zip file below `images/`; of format 1 `<image>/<attempt>`, a folder.
        source: the image file that it was computed from.
        inputs: kind to `content` of the upstream images that it was computed from.
        content: digest of the arrays; equal for equal arrays.
        size: bytes of the zip file.
        sha256: digest of the zip file.
        arrays: stored bytes by array, metadata included; `""` is the group itself.
        files: size and SHA-256 of every file of the folder, of format 1.
    """

    id: str
    file: str
    source: Source | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    content: str = ""
    size: int | None = None
    sha256: str | None = None
    arrays: dict[str, int] = field(default_factory=dict)
    files: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def is_zip(self) -> bool:
        """Whether the image is one zip file (format 2)."""
        return self.file.endswith(".zip")

    def to_json(self) -> bytes:
        """Returns the marker's file in format 2."""
        values = {name: getattr(self, name) for name in _STORED_FIELDS}
        if self.source is not None:
            values["source"] = asdict(self.source)
        return dump_with_checksum({name: value for name, value in values.items() if value is not None})

    @classmethod
    def from_json(cls, data: bytes) -> Marker:
        """Parses a marker of format 2 or 1. Raises `ValueError` if it is damaged."""
        values = load_with_checksum(data)
        image_id = values.get("id")
        if not isinstance(image_id, str) or not ("file" in values or "attempt" in values):
            raise ValueError("expected a JSON object with 'id' and 'file'")
        for key in ("source", "inputs", "files", "arrays"):
            if not isinstance(values.get(key) or {}, dict):
                raise ValueError(f"{key} is {values[key]!r}, expected a JSON object")
        source = Source.from_json(values["source"]) if values.get("source") else None
        inputs = {kind: str(content) for kind, content in (values.get("inputs") or {}).items()}
        parse_fields = _parse_format_2 if "file" in values else _parse_format_1
        return cls(image_id, source=source, inputs=inputs, **parse_fields(encode_id(image_id), values))


def _parse_format_2(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the other fields of a marker of format 2, of the image encoded as `name`."""
    file, size, sha256, arrays = values["file"], values.get("size"), values.get("sha256"), values.get("arrays") or {}
    attempt = file[len(name) + 1 : -4] if isinstance(file, str) else ""
    if file != f"{name}.{attempt}.zip" or not _ATTEMPT.fullmatch(attempt):
        raise ValueError(f"file is {file!r}, expected {name}.<letters, digits, '-' and '_'>.zip")
    if not isinstance(size, int | None) or not isinstance(sha256, str | None):
        raise ValueError(f"size is {size!r} and sha256 {sha256!r}, expected a number and a text")
    if not all(isinstance(n, int) for n in arrays.values()):
        raise ValueError(f"arrays is {arrays!r}, expected a number of bytes for each array")
    content = str(values.get("content") or sha256 or short_digest(file))[:16]
    return {"file": file, "content": content, "size": size, "sha256": sha256, "arrays": arrays}


def _parse_format_1(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the other fields of a marker of format 1, of the image encoded as `name`."""
    attempt = values["attempt"]
    if not isinstance(attempt, str) or not _ATTEMPT.fullmatch(attempt):
        raise ValueError(f"attempt is {attempt!r}, expected letters, digits, '-' and '_'")
    try:
        files = {file: (int(size), str(digest)) for file, (size, digest) in (values.get("files") or {}).items()}
    except (TypeError, OverflowError) as error:
        raise ValueError(f"files: {error}") from None
    if any(part in ("", ".", "..") for file in files for part in file.split("/")):
        raise ValueError("files names a file outside of the image's folder")
    content = short_digest(sorted((file, digest) for file, (_, digest) in files.items()) if files else attempt)
    arrays = bytes_by_array({file: size for file, (size, _) in files.items()})
    return {"file": f"{name}/{attempt}", "content": content, "arrays": arrays, "files": files}


@dataclass(frozen=True)
class Failure:
    """An image that could not be processed, and why."""

    id: str
    reason: str

    def to_json(self) -> bytes:
        """Returns the record's file."""
        return dump_with_checksum({"id": self.id, "reason": self.reason})

    @classmethod
    def from_json(cls, data: bytes) -> Failure:
        """Parses a failure record. Raises `ValueError` if it is damaged."""
        values = load_with_checksum(data)
        if not {"id", "reason"} <= set(values):
            raise ValueError("expected a JSON object with 'id' and 'reason'")
        return cls(id=str(values["id"]), reason=str(values["reason"]))


def dump_with_checksum(values: Mapping[str, Any]) -> bytes:
    """Returns `values` as JSON whose last key is `checksum`: 16 hex digits of the SHA-256 of all before its comma."""
    text = json.dumps(values, ensure_ascii=False).encode(errors="surrogatepass")[:-1]
    return text + b', "checksum": "' + _checksum(text) + b'"}'


def load_with_checksum(data: bytes) -> dict[str, Any]:
    """Parses a JSON object and removes its `checksum`; an object without one (a foreign program's) is accepted.

    Raises `ValueError` if `data` is no JSON object, or differs from its checksum.
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
    """Parses a JSON object of finite numbers. Raises `ValueError` if it is none, too long or nested too deeply."""
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"has {len(data):,} bytes, expected at most {MAX_JSON_BYTES:,}")
    try:
        values = _DECODER.decode(data.decode())
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"holds a {type(values).__name__}, expected a JSON object")
    return values


def short_digest(values: Any) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of `values` as canonical JSON."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()[:16]


def bytes_by_array(sizes: Mapping[str, int]) -> dict[str, int]:
    """Sums the sizes of a group's files by array, its metadata included; `""` is the group's own metadata."""
    totals: Counter[str] = Counter()
    for file, size in sizes.items():
        totals[file.rsplit("/c/", 1)[0] if "/c/" in file else file.rpartition("/")[0]] += size
    return dict(totals)


def encode_id(image_id: str) -> str:
    """Returns an image id as one file name: percent-encoded UTF-8; a long name ends in `~` and a hash."""
    if _PLAIN_ID.fullmatch(image_id):
        return image_id
    name = quote(image_id, safe=" -_+,()'").replace("~", "%7E")
    if name.startswith((".", " ")):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > _MAX_NAME_LENGTH:
        name = f"{name[:_MAX_NAME_LENGTH].rpartition('%')[0]}~{hashlib.sha256(image_id.encode()).hexdigest()[:16]}"
    return name
