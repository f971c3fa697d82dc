"""Reading the arrays of one finished image. What is read is compared with the digests of its marker.

The group of an image is one zip file (format 2) or a folder (format 1); to the reader both are members by path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.cache.arrays import PlainArray
from pipeline.cache.marker import Marker, parse_json
from pipeline.cache.zip_file import unpack
from pipeline.core.errors import ImageError
from pipeline.core.reading import shortened, shown

if TYPE_CHECKING:
    from pipeline.cache.artefact import Artefact

_ADVICE = "the cache was damaged, run `verify --repair`"

#: Attribute of the group that names the image and its file; it is compared with the marker.
IDENTITY = "image"


class Members(Protocol):
    """The files of an image's group by path."""

    def names(self) -> set[str]:
        """Every member."""

    def read(self, name: str) -> bytes | memoryview | None:
        """One member's bytes, checked; None if there is none. Raises `ValueError` if it is damaged."""


class ZipMembers:
    """The members of a zip file, which is read and checked as a whole."""

    def __init__(self, artefact: Artefact, marker: Marker) -> None:
        try:
            data = artefact.storage.read(artefact.file_path(marker))
        except FileNotFoundError:
            raise ValueError("is missing") from None
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror})") from None
        if marker.size is not None and len(data) != marker.size:
            raise ValueError(f"has {len(data)} bytes, expected {marker.size} bytes")
        if marker.sha256 is not None and hashlib.sha256(data).hexdigest() != marker.sha256:
            raise ValueError("does not have the content it was written with")
        self._members = unpack(data, check=marker.sha256 is None)

    def names(self) -> set[str]:
        return set(self._members)

    def read(self, name: str) -> memoryview | None:
        return self._members.get(name)


class FolderMembers:
    """The files of a folder of format 1; each is checked when it is read, that all are there at once."""

    def __init__(self, artefact: Artefact, marker: Marker) -> None:
        self._storage, self._path, self._files = artefact.storage, artefact.file_path(marker), marker.files
        sizes = self._storage.sizes(self._path)
        for name, (size, _) in marker.files.items():
            if sizes.get(name) != size:
                found = f"has {sizes[name]} bytes" if name in sizes else "is missing"
                raise ValueError(f"{name} {found}, expected {size} bytes")
        self._names = set(marker.files) or set(sizes)

    def names(self) -> set[str]:
        return self._names

    def read(self, name: str) -> bytes | None:
        if name not in self._names:
            return None
        try:
            data = self._storage.read(f"{self._path}/{name}")
        except FileNotFoundError:
            raise ValueError(f"{name} is missing") from None
        except OSError as error:
            raise ValueError(f"{name} cannot be read ({error.strerror})") from None
        if self._files and hashlib.sha256(data).hexdigest() != self._files[name][1]:
            raise ValueError(f"{name} does not have the content it was written with")
        return data


class ImageGroup:
    """The arrays of one finished image. Raises `ImageError` if its file is missing or damaged."""

    def __init__(self, artefact: Artefact, marker: Marker) -> None:
        self.artefact = artefact
        self.marker = marker
        members = ZipMembers if marker.is_zip else FolderMembers
        self._members: Members = self._checked(lambda: members(artefact, marker))
        self._check_identity()

    def _checked(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except ValueError as error:
            where = f"{self.artefact.path}/images/{self.marker.file}"
            raise ImageError(f"{self.marker.id}: {where}: {shortened(error)}; {_ADVICE}") from None

    def _check_identity(self) -> None:
        """The group must say that it is of this image and this image file, if it says so at all (format 2)."""
        said = self._attributes.get(IDENTITY)
        if said is None or not self.marker.is_zip:
            return
        source = self.marker.source
        expected = identity(self.marker.id, source.to_json() if source is not None else None)
        if _without_time(said) != _without_time(expected):
            found = said.get("id") if isinstance(said, dict) else said
            raise ImageError(
                f"{self.marker.id}: {self.artefact.path}/images/{self.marker.file}: holds image {shown(found)} "
                f"of another file or id than its marker says; {_ADVICE}"
            )

    def _metadata(self, node_type: str, name: str) -> dict[str, Any] | None:
        """The metadata of the group (no `name`) or of an array; None if there is none."""
        data = self._checked(lambda: self._members.read(f"{name}/zarr.json" if name else "zarr.json"))
        if data is None:
            return None
        document = self._checked(lambda: parse_json(bytes(data)))
        return document if document.get("node_type") == node_type else None

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        document = self._metadata("group", "")
        attributes = document.get("attributes") or {} if document is not None else None
        if not isinstance(attributes, dict):
            where = f"{self.artefact.path}/images/{self.marker.file}"
            raise ImageError(f"{self.marker.id}: {where}: has no zarr group, expected what its marker names; {_ADVICE}")
        return attributes

    @property
    def attributes(self) -> dict[str, Any]:
        return {name: value for name, value in self._attributes.items() if name != IDENTITY or not self.marker.is_zip}

    def __contains__(self, name: str) -> bool:
        return self._metadata("array", name) is not None

    def members(self) -> dict[str, bytes]:
        """Every file of the group by path, checked. Raises `ImageError`."""
        self.check_members()
        return {name: bytes(self._members.read(name) or b"") for name in self._members.names()}

    def check_members(self) -> None:
        """Reads every member. Raises `ImageError` for the first that is missing or damaged."""
        for name in sorted(self._members.names()):
            self._checked(partial(self._members.read, name))

    def names(self) -> list[str]:
        folders = {name.rpartition("/")[0] for name in self._members.names() if name.endswith("/zarr.json")}
        return sorted(name for name in folders if name in self)

    def array(self, name: str, *, ndim: int | None = None) -> np.ndarray:
        """The whole array. Raises `ImageError` if it is missing, damaged or has another number of axes."""
        document = self._metadata("array", name)
        if document is None:
            raise ImageError(f"{self.marker.id}: {self.artefact.path} has no array {name!r}; found {self.names()}")
        try:
            values = self._read_array(name, document)
        except ValueError as error:
            raise ImageError(
                f"{self.marker.id}: {self.artefact.path}: array {name!r} cannot be decoded "
                f"({shortened(error)}); {_ADVICE}"
            ) from None
        if ndim is not None and values.ndim != ndim:
            raise ImageError(
                f"{self.marker.id}: {self.artefact.path}: array {name!r} is {values.shape}, expected {ndim} axes"
            )
        return values

    def _read_array(self, name: str, document: Mapping[str, Any]) -> np.ndarray:
        layout = PlainArray.from_metadata(document)
        if layout is None:
            return self._read_by_zarr(name)
        if layout.count > len(self._members.names()):
            raise ValueError(f"{layout.count} chunks are expected, more than there are files")
        buffers = []
        for file in layout.files():
            data = self._members.read(f"{name}/{file}")
            if data is None:
                raise ValueError(f"chunk {file} is missing")
            buffers.append(data)
        return layout.decode(buffers)

    def _read_by_zarr(self, name: str) -> np.ndarray:
        """An array that a foreign program laid out in another way. Raises `ValueError` if zarr cannot read it."""
        import zarr
        from zarr.core.buffer import default_buffer_prototype
        from zarr.storage import MemoryStore

        make = default_buffer_prototype().buffer.from_bytes
        prefix = f"{name}/"
        files = sorted(member for member in self._members.names() if member.startswith(prefix))
        store = MemoryStore({file: make(bytes(self._members.read(file) or b"")) for file in files})
        try:
            array = zarr.open_array(store=store, path=name, mode="r", zarr_format=3)
            if array.nchunks_initialized != array.nchunks:
                raise ValueError(f"{array.nchunks_initialized} of {array.nchunks} chunks are there")
            return np.asarray(array[...])
        except ValueError:
            raise
        except Exception as error:  # zarr and its codecs raise their own kinds for damaged metadata and chunks
            raise ValueError(f"{type(error).__name__}: {error}") from None


def _without_time(said: Any) -> Any:
    """An identity without the time of the image file, which changes when it is copied."""
    source = said.get("source") if isinstance(said, dict) else None
    if not isinstance(source, dict):
        return said
    return {**said, "source": {name: value for name, value in source.items() if name != "mtime_ns"}}


def identity(image_id: str, source: dict[str, Any] | None) -> dict[str, Any]:
    """What a group says about the image that it was made from."""
    return {"id": image_id, "source": source}
