"""One artefact of the cache: a Zarr v3 group for each image, committed by markers.

Layout below `<kind>/<key>/`::

    zarr.json                        root group; attributes: format, kind, key, settings, upstream, versions
    images/<image>.<attempt>.zip     a Zarr v3 group with the image's arrays, in one zip file
    done/<image>.json                marker: names the file that counts
    failed/<image>.json              why an image could not be processed

What no marker names does not exist. No lock is taken: every writer's file has a name of its own. Images of format 1
(folders in place of zip files) are read too, and a damaged marker is taken for none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pipeline.cache.attempt import Attempt
from pipeline.cache.image_group import ImageGroup
from pipeline.cache.marker import Failure, Marker, Source, array_of_file, encode_id, parse_json
from pipeline.cache.storage import Storage
from pipeline.cache.zip_file import pack
from pipeline.core.errors import ImageError, UserError
from pipeline.core.reading import shortened
from pipeline.core.settings import canonical_json

#: Version of the layout described in docs/cache-format.md; images of the one before are read.
FORMAT_VERSION = 2
READ_VERSIONS = (1, FORMAT_VERSION)

#: Entries of an artefact's settings that describe what it is made from.
_NOT_OWN = ("upstream", "preparation", "label_space")

#: Is told the name of a damaged file and what is wrong with it.
Damaged = Callable[[str, str], None]

#: Markers that are read at once.
_BATCH = 256


@dataclass(frozen=True)
class Artefact:
    """`<kind>/<key>` of a cache."""

    storage: Storage
    kind: str
    key: str
    made_by: str = field(default="", compare=False)
    """Name of the stage that makes it, for messages."""

    @property
    def path(self) -> str:
        return f"{self.kind}/{self.key}"

    def __str__(self) -> str:
        return f"{self.storage.url}/{self.path}"

    # -- the artefact as a whole

    def exists(self) -> bool:
        return self.storage.exists(f"{self.path}/zarr.json")

    def attributes(self) -> dict[str, Any]:
        """The root group's attributes.

        Raises `UserError` if the artefact is missing, damaged or of another format.
        """
        try:
            attributes = self.root_attributes()
        except FileNotFoundError:
            raise UserError(f"{self}: no such artefact in the cache; {self._expected()}") from None
        except ValueError as error:
            raise UserError(
                f"{self}/zarr.json: {error}; expected a zarr group's metadata; run `verify --repair`"
            ) from None
        if not _is_known(attributes):
            raise UserError(
                f"{self}/zarr.json: attribute 'format' is {attributes['format']!r}, expected {FORMAT_VERSION}; "
                f"the cache was written by another version of this program"
            )
        self._check_links()
        return attributes

    def _check_links(self) -> None:
        """Raises `UserError` if a folder of the artefact is a link: it may lead out of the cache."""
        folders = (self.kind, self.path, *(f"{self.path}/{name}" for name in ("done", "failed", "images")))
        for folder in folders:
            if self.storage.is_link(folder):
                raise UserError(
                    f"{self.storage.url}/{folder}: is a link; expected a folder (the cache as a whole may be a link)"
                )

    def root_attributes(self) -> dict[str, Any]:
        """The root group's attributes, of whatever format.

        Raises `FileNotFoundError` if there is no root, `ValueError` if it is damaged.
        """
        attributes = parse_json(self.storage.read(f"{self.path}/zarr.json")).get("attributes", {})
        if not isinstance(attributes, dict):
            raise ValueError(f"attributes is {attributes!r}")
        if "format" not in attributes:
            raise ValueError("has no attribute 'format'")
        if not _is_known(attributes):
            if attributes.get("checksum") == _checksum({**attributes, "format": FORMAT_VERSION}):
                raise ValueError(f"attribute 'format' is {attributes['format']!r}, its checksum is that of another one")
            return attributes
        needed = "settings" in attributes and attributes["format"] == FORMAT_VERSION  # the pipeline wrote them
        if (needed or "checksum" in attributes) and attributes.get("checksum") != _checksum(attributes):
            raise ValueError("its attributes do not have the checksum that they were written with")
        for name, expected in (("kind", self.kind), ("key", self.key)):
            if attributes.get(name, expected) != expected:
                raise ValueError(f"attribute {name!r} is {attributes[name]!r}, expected {expected!r}")
        return attributes

    def is_of_another_format(self) -> bool:
        """Whether the root group is whole, and of a format that is not read here."""
        try:
            return not _is_known(self.root_attributes())
        except (FileNotFoundError, ValueError):
            return False

    def _expected(self) -> str:
        """What is expected in place of a missing artefact, and which artefacts of other settings there are."""
        others = []
        for key in self.storage.folders(self.kind):
            try:
                settings = Artefact(self.storage, self.kind, key).root_attributes().get("settings")
            except (FileNotFoundError, ValueError):
                continue
            others.append(f"{key} ({_described(settings)})" if isinstance(settings, dict) else key)
        text = f"expected one made by {self.made_by or 'an earlier stage'} with the same settings"
        return f"{text}; found those of other settings: {', '.join(others)}" if others else text

    def create(self, settings: Mapping[str, Any], upstream: Mapping[str, str], **more: Any) -> None:
        """Writes the root group unless it is there; `settings`, `upstream` and `more` become attributes.

        A damaged root, and one that a repair wrote without settings, is written again. Raises `UserError` if
        the artefact is of another format.
        """
        try:
            written = self.root_attributes()
        except (FileNotFoundError, ValueError):
            written = {}
        if written:
            self.attributes()  # refuses another format
        if "settings" in written:
            return
        self._check_links()
        self._write_root({"settings": settings, "upstream": upstream, "versions": _versions(), **more})

    def repair_root(self) -> None:
        """Writes a root group that names the format; the next run with its settings completes it.

        Of a foreign program's root, which has no checksum, all attributes that can be read are kept.
        """
        try:
            attributes = parse_json(self.storage.read(f"{self.path}/zarr.json")).get("attributes")
        except (FileNotFoundError, ValueError):
            attributes = None
        foreign = isinstance(attributes, dict) and not {"checksum", "settings"} & set(attributes)
        self._write_root(attributes if foreign and attributes else {})

    def upgrade(self) -> None:
        """Says in the root group that images of the present format may follow; those of the one before stay."""
        attributes = self.attributes()
        if attributes["format"] != FORMAT_VERSION:
            self._write_root(attributes)

    def _write_root(self, attributes: Mapping[str, Any]) -> None:
        values = {**attributes, "format": FORMAT_VERSION, "kind": self.kind, "key": self.key}
        values["checksum"] = _checksum(values)
        document = {"zarr_format": 3, "node_type": "group", "attributes": values}
        text = json.dumps(document, indent=1, ensure_ascii=False).encode()
        self.storage.replace(f"{self.path}/zarr.json", text)

    # -- status

    def markers(self, damaged: Damaged | None = None) -> Iterator[Marker]:
        """The marker of every finished image, in no order, one at a time.

        What is no valid marker is passed over; `damaged` is told its path and the reason.
        """
        return self._listing("done", self._parse_marker, damaged)

    def failures(self, damaged: Damaged | None = None) -> Iterator[Failure]:
        """Every image that failed in its last run, as `markers`."""
        # a run killed between its marker and the removal of this record leaves both: the marker counts
        found = self._listing("failed", self._parse_failure, damaged)
        return (failure for failure in found if self.marker(failure.id) is None)

    def _listing(self, folder: str, parse: Callable[[str, bytes], Any], damaged: Damaged | None) -> Iterator[Any]:
        names = self._names(folder, damaged)
        while batch := list(islice(names, _BATCH)):
            paths = [f"{self.path}/{folder}/{name}" for name in batch]
            for path, name, data in zip(paths, batch, self.storage.read_many(paths), strict=True):
                if data is None:  # replaced or removed by another process in this moment
                    continue
                try:
                    yield parse(name, data)
                except ValueError as error:
                    if damaged is not None:
                        damaged(path, str(error))

    def _names(self, folder: str, damaged: Damaged | None) -> Iterator[str]:
        for entry in self.storage.entries(f"{self.path}/{folder}"):
            if entry.name.startswith("."):
                continue
            if not entry.is_folder:
                yield entry.name
            elif damaged is not None:
                damaged(f"{self.path}/{folder}/{entry.name}", "is a folder, expected a file")

    def names_file(self, name: str, file: str) -> bool:
        """Whether the marker of the image whose id is encoded as `name` says `file`.

        A marker that is damaged keeps every file of its image: `verify --repair` decides.
        """
        try:
            data = self.storage.read(f"{self.path}/done/{name}.json")
            return self._parse_marker(f"{name}.json", data).file == file
        except FileNotFoundError:
            return False
        except (ValueError, OSError):
            return True

    def done(self) -> dict[str, Marker]:
        """Every finished image's marker by id, all in memory: for a small cache."""
        return {marker.id: marker for marker in self.markers()}

    def failed(self) -> dict[str, Failure]:
        """Every failed image's record by id, all in memory."""
        return {failure.id: failure for failure in self.failures()}

    def markers_of(self, image_ids: Iterable[str]) -> Iterator[Marker | None]:
        """The marker of each image, in order; None for one that is not finished."""
        waiting = iter(image_ids)
        while batch := list(islice(waiting, _BATCH)):
            names = [f"{encode_id(image_id)}.json" for image_id in batch]
            for name, data in zip(names, self.storage.read_many(f"{self.path}/done/{n}" for n in names), strict=True):
                yield self._marker_or_none(name, data)

    def marker(self, image_id: str) -> Marker | None:
        """The marker of one image; None if it is not finished."""
        return next(self.markers_of([image_id]))

    def _marker_or_none(self, name: str, data: bytes | None) -> Marker | None:
        try:
            return None if data is None else self._parse_marker(name, data)
        except ValueError:
            return None

    def _parse_marker(self, name: str, data: bytes) -> Marker:
        marker = Marker.from_json(data)
        _check_name(name, marker.id)
        return marker

    def _parse_failure(self, name: str, data: bytes) -> Failure:
        failure = Failure.from_json(data)
        _check_name(name, failure.id)
        return failure

    # -- one image

    def failure_reason(self, image_id: str) -> str | None:
        """Why an image failed; None if it did not."""
        name = f"{encode_id(image_id)}.json"
        try:
            return self._parse_failure(name, self.storage.read(f"{self.path}/failed/{name}")).reason
        except FileNotFoundError:
            return None
        except ValueError as error:
            return f"failed; the record of the reason is damaged ({error})"

    def record_failure(self, image_id: str, reason: str) -> None:
        """Keeps the reason; an older result of the image, made from what is no longer there, stops counting."""
        self.forget(image_id)
        failure = Failure(image_id, reason)
        self.storage.replace(f"{self.path}/failed/{encode_id(image_id)}.json", failure.to_json())

    def file_path(self, marker: Marker) -> str:
        """The image's zip file (of format 1: its folder), relative to the storage."""
        return f"{self.path}/images/{marker.file}"

    def read(self, image_id: str) -> ImageGroup:
        """The finished image. Raises `ImageError` if it is not finished, or is damaged."""
        marker = self.marker(image_id)
        if marker is None:
            raise ImageError(f"{image_id}: is not in {self.path}")
        return self.group(marker)

    def group(self, marker: Marker) -> ImageGroup:
        """What `marker` names. Raises `ImageError` if it is missing or damaged."""
        return ImageGroup(self, marker)

    def verify(self, marker: Marker) -> None:
        """Decodes every array. Raises `ImageError` if anything of the image is missing or damaged."""
        group = self.group(marker)
        group.check_members()
        for name in group.names():
            group.array(name)

    def renew(self, marker: Marker) -> None:
        """Writes a marker anew that names the same file, of an image that is the same; one of format 1 stays."""
        if not marker.is_zip:
            return
        with suppress(UserError):  # a cache that may only be read: it is compared again next time
            self.storage.replace(f"{self.path}/done/{encode_id(marker.id)}.json", marker.to_json())

    def forget(self, image_id: str) -> None:
        """Takes an image's marker away, so that it is computed again; `gc` sweeps its arrays."""
        self.storage.delete_file(f"{self.path}/done/{encode_id(image_id)}.json")

    @contextmanager
    def write(
        self, image_id: str, *, source: Source | None = None, inputs: Mapping[str, str] | None = None
    ) -> Iterator[Attempt]:
        """Collects an image's arrays; they are committed when the block ends, and dropped if it raises."""
        attempt = Attempt(image_id, source)
        yield attempt
        self.commit(attempt.members(), image_id, source, dict(inputs or {}), attempt.content())

    def commit(
        self,
        members: Mapping[str, bytes],
        image_id: str,
        source: Source | None,
        inputs: dict[str, str],
        content: str,
        *,
        check: bool = False,
    ) -> Marker:
        """Writes an image's file, then its marker, which is returned.

        With `check` the file is read and decoded before there is a marker; raises `ImageError` if it is
        damaged.
        """
        data = pack(members)
        digest = hashlib.sha256(data).hexdigest()
        arrays = bytes_by_array(members)
        # equal bytes have an equal name: who writes them a second time changes nothing
        file = f"{encode_id(image_id)}.{digest[:16]}.zip"
        marker = Marker(image_id, file, source, inputs, content, len(data), digest, arrays)
        self.storage.replace(self.file_path(marker), data)
        if check:
            self.verify(marker)
        name = f"{self.path}/done/{encode_id(image_id)}.json"
        if not self.storage.create(name, marker.to_json()) and self.marker(image_id) != marker:
            self.storage.replace(name, marker.to_json())
        if not self.storage.exists(self.file_path(marker)):  # swept before the marker was there
            self.storage.replace(self.file_path(marker), data)
        self.storage.delete_file(f"{self.path}/failed/{encode_id(image_id)}.json")
        return marker


def bytes_by_array(members: Mapping[str, bytes]) -> dict[str, int]:
    """Stored bytes of each array of a group, its metadata included; `""` is the group itself."""
    arrays: dict[str, int] = {}
    for name, data in members.items():
        array = array_of_file(name)
        arrays[array] = arrays.get(array, 0) + len(data)
    return arrays


def _described(settings: Mapping[str, Any]) -> str:
    """An artefact's own settings in at most 80 characters, e.g. `fusion.rule.kind: ssa`."""
    own = {name: value for name, value in settings.items() if isinstance(value, dict) and name not in _NOT_OWN}
    return shortened(", ".join(_dotted(own)) or "default settings", 80)


def _dotted(settings: Mapping[str, Any], parents: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{parents}{name}.")
        else:
            yield f"{parents}{name}: {value}"


def _is_known(attributes: Mapping[str, Any]) -> bool:
    """Whether a root group is of a format that is read here."""
    return type(attributes["format"]) is int and attributes["format"] in READ_VERSIONS


def _check_name(name: str, image_id: str) -> None:
    """Raises `ValueError` unless the file `name` is where the image's marker or failure belongs."""
    if name != f"{encode_id(image_id)}.json":
        raise ValueError(f"is of image {image_id!r}, expected in {encode_id(image_id)}.json")


def _checksum(attributes: Mapping[str, Any]) -> str:
    """Of all attributes but itself: they may be laid out in any way, as zarr rewrites them."""
    rest = {name: value for name, value in attributes.items() if name != "checksum"}
    return hashlib.sha256(canonical_json(rest).encode(errors="surrogatepass")).hexdigest()[:16]


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
