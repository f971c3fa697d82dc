"""One artefact of the cache: a Zarr v3 hierarchy with a group for each image, committed by markers.

Layout below ``<kind>/<key>/``::

    zarr.json                      root group; attributes: format, kind, key, settings, upstream, versions
    images/<image>/<attempt>/      a zarr group with the image's arrays
    done/<image>.json              marker: names the attempt that counts
    failed/<image>.json            why an image could not be processed

What no marker names does not exist. No lock is taken: every writer works under its own attempt name.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.errors import ImageError, UserError
from pipeline.store.arrays import PlainArray
from pipeline.store.marker import Failure, Marker, Source, encode_id
from pipeline.store.storage import Storage

#: Version of the layout described in docs/cache-format.md.
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Artefact:
    """``<kind>/<key>`` of a cache."""

    storage: Storage
    kind: str
    key: str

    @property
    def path(self) -> str:
        return f"{self.kind}/{self.key}"

    def __str__(self) -> str:
        return f"{self.storage.url}/{self.path}"

    # -- the artefact as a whole

    def exists(self) -> bool:
        return self._attributes() is not None

    def attributes(self) -> dict[str, Any]:
        """The root group's attributes. Raises :class:`UserError` if the artefact is missing or of another format."""
        attributes = self._attributes()
        if attributes is None:
            raise UserError(f"{self}: no such artefact in the cache; {self._expected()}")
        if attributes.get("format") != FORMAT_VERSION:
            raise UserError(
                f"{self}/zarr.json: attribute 'format' is {attributes.get('format')!r}, expected {FORMAT_VERSION}; "
                f"the cache was written by another version of this program"
            )
        return attributes

    def _expected(self) -> str:
        """What a user does about an artefact that is missing: its stage, and the likely slip, other settings."""
        others = []
        for key in self.storage.folders(self.kind):
            settings = (Artefact(self.storage, self.kind, key)._attributes() or {}).get("settings") or {}
            rule = settings["fusion"].get("rule", {}).get("kind", "by default") if "fusion" in settings else None
            others.append(f"{key} (rule {rule})" if rule else key)
        stage = "fuse" if self.kind == "fused" else "precompute"
        text = f"expected one made by {stage} with the same settings"
        return f"{text}; found those of other settings: {', '.join(others)}" if others else text

    def _attributes(self) -> dict[str, Any] | None:
        try:
            document = json.loads(self.storage.read(f"{self.path}/zarr.json"))
            attributes = document.get("attributes", {})
        except FileNotFoundError:
            return None
        except ValueError:
            raise UserError(f"{self}/zarr.json: is not valid JSON; expected a zarr group's metadata") from None
        return attributes if isinstance(attributes, dict) else {}

    def create(self, settings: Mapping[str, Any], upstream: Mapping[str, str], **more: Any) -> None:
        """Writes the root group unless it is there; ``settings``, ``upstream`` and ``more`` become attributes."""
        if self.exists():
            self.attributes()
            return
        attributes = {
            "format": FORMAT_VERSION,
            "kind": self.kind,
            "key": self.key,
            "settings": settings,
            "upstream": upstream,
            "versions": _versions(),
            **more,
        }
        document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        self.storage.create(f"{self.path}/zarr.json", json.dumps(document, indent=1, ensure_ascii=False).encode())

    # -- status

    def done(self) -> dict[str, Marker]:
        """Every finished image by id: one listing of the markers."""
        markers = (
            self._parse_marker(name, data) for name, data in self.storage.read_folder(f"{self.path}/done").items()
        )
        return {marker.id: marker for marker in markers}

    def failed(self) -> dict[str, Failure]:
        """Every image that failed in its last run, by id."""
        result = {}
        for name, data in self.storage.read_folder(f"{self.path}/failed").items():
            try:
                failure = Failure.from_json(data)
            except ValueError as error:
                raise UserError(f"{self}/failed/{name}: is not a valid record of a failure: {error}") from None
            # a run killed between its marker and the removal of this record leaves both: the marker counts
            if self.marker(failure.id) is None:
                result[failure.id] = failure
        return result

    def marker(self, image_id: str) -> Marker | None:
        """The marker of one image; None if it is not finished. Raises :class:`UserError` if it is no marker."""
        name = f"{encode_id(image_id)}.json"
        try:
            data = self.storage.read(f"{self.path}/done/{name}")
        except FileNotFoundError:
            return None
        return self._parse_marker(name, data)

    def _parse_marker(self, name: str, data: bytes) -> Marker:
        try:
            marker = Marker.from_json(data)
        except (ValueError, TypeError) as error:
            raise UserError(f"{self}/done/{name}: is not a valid marker: {error}") from None
        if name != f"{encode_id(marker.id)}.json":
            raise UserError(
                f"{self}/done/{name}: is the marker of {marker.id!r}, expected in {encode_id(marker.id)}.json"
            )
        return marker

    # -- one image

    def record_failure(self, image_id: str, reason: str) -> None:
        """Keeps the reason; an older result of the image, made from what is no longer there, stops counting."""
        self.forget(image_id)
        failure = Failure(image_id, reason)
        self.storage.replace(f"{self.path}/failed/{encode_id(image_id)}.json", failure.to_json())

    def attempt_path(self, marker: Marker) -> str:
        return f"{self.path}/images/{encode_id(marker.id)}/{marker.attempt}"

    def read(self, image_id: str) -> ImageGroup:
        """The finished image. Raises :class:`ImageError` if it is not finished or files of it are missing."""
        marker = self.marker(image_id)
        if marker is None:
            raise ImageError(f"{image_id}: is not in {self.path}")
        return self.group(marker)

    def group(self, marker: Marker) -> ImageGroup:
        """What ``marker`` names. Raises :class:`ImageError` if files of it are missing."""
        self.check_files(marker)
        return ImageGroup(self, marker)

    def check_files(self, marker: Marker) -> None:
        """Raises :class:`ImageError` unless every file that the marker lists is there with its size.

        A missing chunk would be read as zeros, that is as the first class.
        """
        if not marker.files:
            return
        sizes = self.storage.sizes_of(self.attempt_path(marker), marker.files)
        for name, (size, _) in marker.files.items():
            if sizes.get(name) != size:
                found = f"has {sizes[name]} bytes" if name in sizes else "is missing"
                raise ImageError(
                    f"{marker.id}: {self.path}: file {name} {found}, expected {size} bytes; "
                    f"the cache was damaged, run `verify --repair`"
                )

    def verify(self, marker: Marker) -> None:
        """Like :meth:`check_files`, by content. Raises :class:`ImageError`."""
        self.check_files(marker)
        for name, (_, digest) in marker.files.items():
            data = self.storage.read(f"{self.attempt_path(marker)}/{name}")
            if hashlib.sha256(data).hexdigest() != digest:
                raise ImageError(f"{marker.id}: {self.path}: file {name} does not have the content it was written with")

    def forget(self, image_id: str) -> None:
        """Takes an image's marker away, so that it is computed again; ``gc`` sweeps its arrays."""
        self.storage.delete(f"{self.path}/done/{encode_id(image_id)}.json")

    @contextmanager
    def write(
        self, image_id: str, *, source: Source | None = None, inputs: Mapping[str, str] | None = None
    ) -> Iterator[Attempt]:
        """A new attempt at an image; it is committed when the block ends, and removed if the block raises.

        Raises :class:`ImageError` if files that were written are gone by then.
        """
        attempt = Attempt(self, image_id)
        try:
            yield attempt
            files = self._seal(attempt)
        except BaseException:
            self.storage.delete(attempt.path)
            raise
        marker = Marker(image_id, attempt.name, source, dict(inputs or {}), files)
        self._commit(marker, attempt)

    def _seal(self, attempt: Attempt) -> dict[str, tuple[int, str]]:
        self.storage.flush(attempt.path)
        files = {}
        for name, size in sorted(self.storage.sizes(attempt.path).items()):
            digest = hashlib.sha256(self.storage.read(f"{attempt.path}/{name}")).hexdigest()
            files[name] = (size, digest)
        if gone := attempt.files - set(files):  # a chunk that is missing would be read as zeros
            raise ImageError(
                f"{attempt.path}: {len(gone)} of {len(attempt.files)} files are gone, {min(gone)} first; expected "
                f"all that were written (was the cache swept meanwhile?)"
            )
        return files

    def _commit(self, marker: Marker, attempt: Attempt) -> None:
        name = f"{self.path}/done/{encode_id(marker.id)}.json"
        if not self.storage.create(name, marker.to_json()):
            other = self.marker(marker.id)
            if other is not None and replace(other, attempt=marker.attempt) == marker:
                if other.attempt != marker.attempt:
                    self.storage.delete(attempt.path)  # another process finished the same image first
            else:
                self.storage.replace(name, marker.to_json())
        self.storage.delete(f"{self.path}/failed/{encode_id(marker.id)}.json")


class Attempt:
    """One try at one image: a zarr group under a name that no other writer has."""

    def __init__(self, artefact: Artefact, image_id: str) -> None:
        self.name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(6)}"
        self.path = f"{artefact.path}/images/{encode_id(image_id)}/{self.name}"
        self._storage = artefact.storage
        self.attributes: dict[str, Any] = {}
        #: Every file that the attempt consists of so far, relative to :attr:`path`.
        self.files = {"zarr.json"}

    @cached_property
    def _group(self) -> Any:
        import zarr

        return zarr.create_group(
            store=self._storage.zarr_store(self.path),
            zarr_format=3,
            attributes=self.attributes,
            overwrite=False,
        )

    def array(self, name: str, values: np.ndarray, *, chunks: tuple[int, ...] | None = None) -> None:
        """Writes a whole array. Attributes of the group must be set before the first array."""
        from zarr.codecs import BloscCodec

        shape = tuple(max(1, n) for n in values.shape)
        chunks = shape if chunks is None else tuple(min(max(1, c), n) for c, n in zip(chunks, shape, strict=True))
        array = self._group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=chunks,
            compressors=BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"),
            fill_value=0,
            config={"write_empty_chunks": True},
        )
        self.files.add(f"{name}/zarr.json")
        if values.size:
            array[...] = values
            grid = (range(-(-n // c)) for n, c in zip(shape, chunks, strict=True))
            self.files.update("/".join([name, "c", *map(str, chunk)]) for chunk in itertools.product(*grid))


class ImageGroup:
    """The arrays of one finished image."""

    def __init__(self, artefact: Artefact, marker: Marker) -> None:
        self.artefact = artefact
        self.marker = marker
        self.path = artefact.attempt_path(marker)

    def _metadata(self, node_type: str, path: str) -> dict[str, Any] | None:
        """The metadata of the group or array at ``path``; None if there is none."""
        try:
            document = json.loads(self.artefact.storage.read(f"{path}/zarr.json"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:
            raise ImageError(f"{self.marker.id}: {path}/zarr.json is not valid JSON, expected zarr metadata") from None
        return document if isinstance(document, dict) and document.get("node_type") == node_type else None

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        document = self._metadata("group", self.path)
        if document is None:
            raise ImageError(f"{self.marker.id}: {self.path} has no zarr group, expected what its marker names")
        return document.get("attributes") or {}

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self._attributes)

    def __contains__(self, name: str) -> bool:
        return self._metadata("array", f"{self.path}/{name}") is not None

    def names(self) -> list[str]:
        return [name for name in self.artefact.storage.folders(self.path) if name in self]

    def array(self, name: str, *, ndim: int | None = None) -> np.ndarray:
        """The whole array. Raises :class:`ImageError` if it is missing, damaged or has another number of axes."""
        document = self._metadata("array", f"{self.path}/{name}")
        if document is None:
            raise ImageError(f"{self.marker.id}: {self.artefact.path} has no array {name!r}; found {self.names()}")
        values = self._read_plain(name, document)
        if values is None:
            values = self._read_by_zarr(name)
        if ndim is not None and values.ndim != ndim:
            raise ImageError(
                f"{self.marker.id}: {self.artefact.path}: array {name!r} is {values.shape}, expected {ndim} axes"
            )
        return values

    def _read_plain(self, name: str, document: Mapping[str, Any]) -> np.ndarray | None:
        """The array, if it is laid out as :meth:`Attempt.array` does; else None."""
        layout = PlainArray.from_metadata(document)
        if layout is None:
            return None
        try:
            buffers = self.artefact.storage.read_all([f"{self.path}/{name}/{file}" for file in layout.files()])
        except FileNotFoundError:
            self.artefact.check_files(self.marker)  # what the marker lists must be there
            return None
        try:
            return layout.decode(buffers)
        except ValueError as error:
            raise ImageError(
                f"{self.marker.id}: {self.artefact.path}: a chunk of {name!r} cannot be decoded ({error}); "
                f"the cache was damaged, run `verify --repair`"
            ) from None

    def _read_by_zarr(self, name: str) -> np.ndarray:
        import zarr

        store = self.artefact.storage.zarr_store(self.path)
        return zarr.open_array(store=store, path=name, mode="r", zarr_format=3)[...]  # type: ignore[return-value]


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    result = {}
    for package in (
        "goodsam-offline",
        "numpy",
        "zarr",
        "torch",
        "segment-anything",
        "onedl-mmsegmentation",
        "scikit-image",
    ):
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            continue
    return result
