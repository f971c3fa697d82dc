"""One artefact of the cache: a Zarr v3 group for each image, committed by markers.

Layout below `<kind>/<key>/`::

    zarr.json                        root group; attributes: format, kind, key, settings, upstream, versions
    images/<image>.<attempt>.zip     a Zarr v3 group with the image's arrays, in one zip file
    done/<image>.json                marker: references the image's valid file
    failed/<image>.json              why an image could not be processed

A file without a marker is never read. No lock is taken: a file's name contains a hash of its content. Images of
format 1 (folders in place of zip files) are read too. A damaged marker counts as missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import tee
from typing import TypeVar

from pipeline.cache.artefact_root import ArtefactRoot
from pipeline.cache.image_group import ImageGroup, ImageWriter
from pipeline.cache.marker import Failure, Marker, Source, bytes_by_array, encode_id
from pipeline.cache.zip_file import pack
from pipeline.core.errors import ImageError, UserError

RecordT = TypeVar("RecordT", Marker, Failure)

#: Receives the path of a damaged record and the reason.
OnDamage = Callable[[str, str], None]


class Artefact(ArtefactRoot):
    """The images of `<kind>/<key>`: markers, failure records, and arrays."""

    # ---- markers and failure records of all images

    def markers(self, on_damage: OnDamage = lambda path, reason: None) -> Iterator[Marker]:
        """Yields the marker of every finished image, in no order. Damaged ones are passed to `on_damage` instead."""
        return self._records("done", Marker, on_damage)

    def failures(self, on_damage: OnDamage = lambda path, reason: None) -> Iterator[Failure]:
        """Yields the record of every image that failed in its last run, as `markers`."""
        # a run killed between its marker and the removal of this record leaves both: the marker counts
        failures = self._records("failed", Failure, on_damage)
        return (failure for failure in failures if self.find_marker(failure.id) is None)

    def _records(self, folder: str, cls: type[RecordT], on_damage: OnDamage) -> Iterator[RecordT]:
        for path, data in self._read_many(self._record_paths(f"{self.path}/{folder}", on_damage)):
            try:
                if data is not None:  # else another process has just replaced or removed it
                    yield _parse_record(cls, path, data)
            except ValueError as error:
                on_damage(path, str(error))

    def _record_paths(self, folder: str, on_damage: OnDamage) -> Iterator[str]:
        for entry in self.storage.entries(folder):
            if entry.is_folder and not entry.name.startswith("."):
                on_damage(f"{folder}/{entry.name}", "is a folder, expected a file")
            elif not entry.name.startswith("."):
                yield f"{folder}/{entry.name}"

    def _read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        paths, read = tee(paths)
        return zip(paths, self.storage.read_many(read), strict=True)

    def references(self, encoded_id: str, file: str) -> bool:
        """Returns whether the marker of an image references `file`.

        A damaged marker counts as a reference to every file of its image: `verify --repair` decides about them.
        """
        path = f"{self.path}/done/{encoded_id}.json"
        try:
            return _parse_record(Marker, path, self.storage.read(path)).file == file
        except FileNotFoundError:
            return False
        except (ValueError, OSError):
            return True

    def find_markers(self, image_ids: Iterable[str]) -> Iterator[Marker | None]:
        """Yields the marker of each image in order, `None` for an image that is not finished."""
        for path, data in self._read_many(map(self._marker_path, image_ids)):
            try:
                yield None if data is None else _parse_record(Marker, path, data)
            except ValueError:
                yield None

    # ---- one image

    def find_marker(self, image_id: str) -> Marker | None:
        """Returns the marker of an image, `None` if the image is not finished."""
        return next(self.find_markers([image_id]))

    def remove_marker(self, image_id: str) -> None:
        """Removes an image's marker, so that the image is computed again; `gc` removes its file."""
        self.storage.delete_file(self._marker_path(image_id))

    def rewrite_marker(self, marker: Marker) -> None:
        """Replaces a marker that differs in the image file's time alone; one of format 1 is kept."""
        if marker.is_zip:
            with suppress(UserError):  # a read-only cache: the next run compares the image file again
                self.storage.replace(self._marker_path(marker.id), marker.to_json())

    def failure_reason(self, image_id: str) -> str | None:
        """Returns why an image failed, `None` if it did not."""
        path = self._failure_path(image_id)
        try:
            return _parse_record(Failure, path, self.storage.read(path)).reason
        except FileNotFoundError:
            return None
        except ValueError as error:
            return f"failed; the record of the reason is damaged ({error})"

    def record_failure(self, image_id: str, reason: str) -> None:
        """Writes why an image failed, and removes its marker: an older result is outdated."""
        self.remove_marker(image_id)
        self.storage.replace(self._failure_path(image_id), Failure(image_id, reason).to_json())

    def file_path(self, marker: Marker) -> str:
        """Returns the path of the image's zip file (of format 1: its folder), relative to the storage."""
        return f"{self.path}/images/{marker.file}"

    def read(self, image_id: str) -> ImageGroup:
        """Returns the arrays of an image. Raises `ImageError` if the image is not finished, or is damaged."""
        marker = self.find_marker(image_id)
        if marker is None:
            raise ImageError(f"{image_id}: is not in {self.path}")
        return self.read_group(marker)

    def read_group(self, marker: Marker) -> ImageGroup:
        """Returns the arrays that `marker` references. Raises `ImageError` if they are missing or damaged."""
        return ImageGroup(self, marker)

    def verify(self, marker: Marker) -> None:
        """Decodes every array of an image. Raises `ImageError` if a file is missing or damaged."""
        group = self.read_group(marker)
        for name in group.array_names():
            group.read_array(name)

    @contextmanager
    def write(
        self, image_id: str, *, source: Source | None = None, inputs: Mapping[str, str] | None = None
    ) -> Iterator[ImageWriter]:
        """Yields a writer for an image's arrays, which are committed at the end; after an exception nothing is written.

        `source` is the image file that they are computed from; `inputs` gives the `Marker.content` of the upstream
        images by kind.
        """
        writer = ImageWriter(image_id, source)
        yield writer
        self.commit(writer.members(), image_id, source, dict(inputs or {}), writer.content())

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
        """Writes an image's file, then its marker, which is returned; see `Marker` for the arguments.

        With `check`, raises `ImageError` and writes no marker if the file cannot be read and decoded.
        """
        data = pack(members)
        digest = hashlib.sha256(data).hexdigest()
        # the name follows from the content: writing the same content again changes nothing
        file = f"{encode_id(image_id)}.{digest[:16]}.zip"
        arrays = bytes_by_array({name: len(member) for name, member in members.items()})
        marker = Marker(image_id, file, source, inputs, content, len(data), digest, arrays)
        self.storage.replace(self.file_path(marker), data)
        if check:
            self.verify(marker)
        path = self._marker_path(image_id)
        if not self.storage.create(path, marker.to_json()) and self.find_marker(image_id) != marker:
            self.storage.replace(path, marker.to_json())
        if not self.storage.exists(self.file_path(marker)):  # gc removed it before the marker was there
            self.storage.replace(self.file_path(marker), data)
        self.storage.delete_file(self._failure_path(image_id))
        return marker

    def _marker_path(self, image_id: str) -> str:
        return f"{self.path}/done/{encode_id(image_id)}.json"

    def _failure_path(self, image_id: str) -> str:
        return f"{self.path}/failed/{encode_id(image_id)}.json"


def _parse_record(cls: type[RecordT], path: str, data: bytes) -> RecordT:
    """Parses the record at `path`. Raises `ValueError` if it is damaged or belongs to another image."""
    record = cls.from_json(data)
    if not path.endswith(f"/{encode_id(record.id)}.json"):
        raise ValueError(f"is of image {record.id!r}, expected in {encode_id(record.id)}.json")
    return record
