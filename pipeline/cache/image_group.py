"""The Zarr v3 group of one image: its writer, and its reader, which compares files with the digests of the marker.

A stored group is one zip file (format 2) or a folder (format 1). Both are read as members by path.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from math import prod
from typing import Any, TypeVar

import numpy as np

from pipeline.cache.arrays import BloscArray
from pipeline.cache.artefact_root import ArtefactRoot
from pipeline.cache.marker import Marker, Source, parse_json, short_digest
from pipeline.cache.storage import Storage
from pipeline.cache.zip_file import unpack
from pipeline.core.errors import ImageError
from pipeline.core.reading import short_repr, shorten
from pipeline.core.settings import canonical_json

T = TypeVar("T")

_ADVICE = "the cache was damaged, run `verify --repair`"

#: Attribute of the group that names the image and its file; it is compared with the marker.
IDENTITY_ATTRIBUTE = "image"

Members = dict[str, bytes | memoryview]


def _read_zip(storage: Storage, path: str, marker: Marker) -> Members:
    """Returns the members of a zip file. Raises `ValueError` if it is damaged."""
    data = _read_file(storage, path)
    if marker.size is not None and len(data) != marker.size:
        raise ValueError(f"has {len(data)} bytes, expected {marker.size} bytes")
    if marker.sha256 is not None and hashlib.sha256(data).hexdigest() != marker.sha256:
        raise ValueError("does not have the content it was written with")
    return {**unpack(data, check=marker.sha256 is None)}


def _read_folder(storage: Storage, path: str, marker: Marker) -> Members:
    """Returns the files of a folder of format 1. Raises `ValueError` if one is missing or damaged."""
    sizes = storage.sizes(path)
    for name, (size, _) in marker.files.items():
        if sizes.get(name) != size:
            problem = f"has {sizes[name]} bytes" if name in sizes else "is missing"
            raise ValueError(f"{name} {problem}, expected {size} bytes")
    members: Members = {name: _read_file(storage, f"{path}/{name}", f"{name} ") for name in marker.files or sizes}
    for name, (_, sha256) in marker.files.items():
        if hashlib.sha256(members[name]).hexdigest() != sha256:
            raise ValueError(f"{name} does not have the content it was written with")
    return members


def _read_file(storage: Storage, path: str, subject: str = "") -> bytes:
    """Reads a file. Raises `ValueError` about `subject` if it is missing or cannot be read."""
    try:
        return storage.read(path)
    except FileNotFoundError:
        raise ValueError(f"{subject}is missing") from None
    except OSError as error:
        raise ValueError(f"{subject}cannot be read ({error.strerror})") from None


class ImageGroup:
    """The arrays of the finished image of `marker` in `artefact`.

    Raises `ImageError` if the image's file is missing or damaged, or holds another image.
    """

    def __init__(self, artefact: ArtefactRoot, marker: Marker) -> None:
        self.artefact = artefact
        self.marker = marker
        path = f"{artefact.path}/images/{marker.file}"
        self._place = f"{marker.id}: {path}"
        read_members = _read_zip if marker.is_zip else _read_folder
        self._members = self._checked(read_members, artefact.storage, path, marker)
        identity = self._attributes.get(IDENTITY_ATTRIBUTE)
        expected = image_identity(marker.id, marker.source)
        if identity is not None and marker.is_zip and _without_time(identity) != _without_time(expected):
            found = short_repr(identity.get("id") if isinstance(identity, dict) else identity)
            raise ImageError(
                f"{self._place}: holds image {found} of another file or id than its marker names; {_ADVICE}"
            )

    def __str__(self) -> str:
        return f"{self.marker.id}: {self.artefact.path}"

    def _checked(self, read: Callable[..., T], *arguments: Any) -> T:
        """Returns `read(*arguments)`; turns its `ValueError` into an `ImageError`."""
        try:
            return read(*arguments)
        except ValueError as error:
            raise ImageError(f"{self._place}: {shorten(error)}; {_ADVICE}") from None

    def _metadata(self, node_type: str, name: str) -> dict[str, Any] | None:
        """Returns the metadata of an array, or of the group (`name` is empty); `None` if there is none."""
        data = self._members.get(f"{name}/zarr.json" if name else "zarr.json")
        if data is None:
            return None
        document = self._checked(parse_json, bytes(data))
        return document if document.get("node_type") == node_type else None

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        document = self._metadata("group", "")
        attributes = document.get("attributes") or {} if document is not None else None
        if not isinstance(attributes, dict):
            raise ImageError(f"{self._place}: has no zarr group, expected the one of its marker; {_ADVICE}")
        return attributes

    @property
    def attributes(self) -> dict[str, Any]:
        """The group's attributes, except for the one that identifies the image."""
        hidden = IDENTITY_ATTRIBUTE if self.marker.is_zip else None
        return {name: value for name, value in self._attributes.items() if name != hidden}

    def __contains__(self, name: str) -> bool:
        return self._metadata("array", name) is not None

    def members(self) -> dict[str, bytes]:
        """Returns every file of the group by path."""
        return {name: bytes(data) for name, data in self._members.items()}

    def array_names(self) -> list[str]:
        """Returns the sorted names of the arrays."""
        folders = {name.rpartition("/")[0] for name in self._members if name.endswith("/zarr.json")}
        return sorted(name for name in folders if name in self)

    def read_array(self, name: str, *, ndim: int | None = None) -> np.ndarray:
        """Returns a whole array. Raises `ImageError` if it is missing or damaged, or has not `ndim` axes."""
        document = self._metadata("array", name)
        if document is None:
            raise ImageError(f"{self} has no array {name!r}; found {self.array_names()}")
        try:
            values = self._decode(name, document)
        except ValueError as error:
            raise ImageError(f"{self}: array {name!r} cannot be decoded ({shorten(error)}); {_ADVICE}") from None
        if ndim is not None and values.ndim != ndim:
            raise ImageError(f"{self}: array {name!r} is {values.shape}, expected {ndim} axes")
        return values

    def _decode(self, name: str, document: Mapping[str, Any]) -> np.ndarray:
        layout = BloscArray.from_metadata(document)
        if layout is None:
            return self._decode_with_zarr(name)
        if prod(layout.grid) > len(self._members):
            raise ValueError(f"{prod(layout.grid)} chunks are expected, more than there are files")
        files = list(layout.files())
        missing = [file for file in files if f"{name}/{file}" not in self._members]
        if missing:
            raise ValueError(f"chunk {missing[0]} is missing")
        return layout.decode([self._members[f"{name}/{file}"] for file in files])

    def _decode_with_zarr(self, name: str) -> np.ndarray:
        """Decodes an array of any other layout. Raises `ValueError` if zarr-python cannot read it."""
        import zarr
        from zarr.buffer import default_buffer_prototype
        from zarr.storage import MemoryStore

        make_buffer = default_buffer_prototype().buffer.from_bytes
        files = {file: data for file, data in self._members.items() if file.startswith(f"{name}/")}
        store = MemoryStore({file: make_buffer(bytes(data)) for file, data in files.items()})
        try:
            array = zarr.open_array(store=store, path=name, mode="r", zarr_format=3)
            if array.nchunks_initialized != array.nchunks:
                raise ValueError(f"{array.nchunks_initialized} of {array.nchunks} chunks are there")
            return np.asarray(array[...])
        except ValueError:
            raise
        except Exception as error:  # zarr and its codecs raise errors of their own for damaged metadata and chunks
            raise ValueError(f"{type(error).__name__}: {error}") from None


def _without_time(identity: Any) -> Any:
    """Returns an identity without the time of the image file, which changes when the file is copied."""
    source = identity.get("source") if isinstance(identity, dict) else None
    return {**identity, "source": {**source, "mtime_ns": None}} if isinstance(source, dict) else identity


def image_identity(image_id: str, source: Source | None) -> dict[str, Any]:
    """Returns the attribute that names the image and the image file of a group."""
    return {"id": image_id, "source": source and asdict(source)}


class ImageWriter:
    """The group of one image while it is computed.

    Attributes:
        attributes: the group's attributes, to be set by the caller.
    """

    def __init__(self, image_id: str, source: Source | None = None) -> None:
        self.attributes: dict[str, Any] = {}
        self._identity = image_identity(image_id, source)
        self._arrays: dict[str, bytes] = {}

    def add_array(self, name: str, values: np.ndarray, *, chunks: tuple[int, ...] | None = None) -> None:
        """Adds a whole array of any shape and dtype that Zarr stores, compressed.

        `chunks` is the shape of a chunk; by default the whole array is one. All-zero chunks are stored too.
        """
        import zarr
        from zarr.codecs import BloscCodec
        from zarr.storage import MemoryStore

        shape = tuple(max(1, n) for n in values.shape)
        chunks = shape if chunks is None else tuple(min(max(1, c), n) for c, n in zip(chunks, shape, strict=True))
        stored: dict[str, Any] = {}
        array = zarr.create_array(
            MemoryStore(stored),
            shape=values.shape,
            dtype=values.dtype,
            chunks=chunks,
            compressors=BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"),
            fill_value=0,
            zarr_format=3,
            config={"write_empty_chunks": True},
        )
        if values.size:
            array[...] = values
        self._arrays |= {f"{name}/{file}": data.to_bytes() for file, data in stored.items()}
        self._arrays[f"{name}/zarr.json"] = _compact(json.loads(stored["zarr.json"].to_bytes()))

    def members(self) -> dict[str, bytes]:
        """Returns the files of the group by path. Its attributes name the image."""
        attributes = {**self.attributes, IDENTITY_ATTRIBUTE: self._identity}
        document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        return {"zarr.json": _compact(document), **self._arrays}

    def content(self) -> str:
        """Returns a short digest of arrays and attributes, but not of the image's name and file."""
        pairs = [(name, hashlib.sha256(data).hexdigest()) for name, data in sorted(self._arrays.items())]
        attributes = hashlib.sha256(canonical_json(self.attributes).encode()).hexdigest()
        return short_digest([*pairs, ("attributes", attributes)])


def _compact(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
