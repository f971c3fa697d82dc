"""The root group of an artefact: its attributes, their checksum, and the repair of damaged ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.cache.marker import parse_json
from pipeline.cache.storage import Storage
from pipeline.core.errors import UserError
from pipeline.core.reading import short_repr, shorten
from pipeline.core.settings import canonical_json

#: Version of the layout described in docs/cache-format.md; images of the one before are read.
FORMAT_VERSION = 2
READ_VERSIONS = (1, FORMAT_VERSION)

#: Entries of an artefact's settings that describe its inputs.
_INPUT_SETTINGS = ("upstream", "preparation", "label_space")

#: Packages whose versions are recorded.
_PACKAGES = ("goodsam-offline", "numpy", "zarr", "torch", "segment-anything", "onedl-mmsegmentation", "scikit-image")


@dataclass(frozen=True)
class ArtefactRoot:
    """Place and root group of `<kind>/<key>` in a cache; `made_by` names the stage that makes it, for messages."""

    storage: Storage
    kind: str
    key: str
    made_by: str = field(default="", compare=False)

    @property
    def path(self) -> str:
        """The artefact's folder, relative to the storage."""
        return f"{self.kind}/{self.key}"

    def __str__(self) -> str:
        return f"{self.storage.url}/{self.path}"

    def exists(self) -> bool:
        """Returns whether there is a root group, damaged or not."""
        return self.storage.exists(f"{self.path}/zarr.json")

    def attributes(self) -> dict[str, Any]:
        """Returns the root group's attributes.

        Raises `UserError` if the artefact is missing, damaged, of another format, or reached through a link.
        """
        try:
            attributes = self.read_root()
        except FileNotFoundError:
            raise UserError(f"{self}: no such artefact in the cache; {self._expected()}") from None
        except ValueError as error:
            advice = "expected a zarr group's metadata; run `verify --repair`"
            raise UserError(f"{self}/zarr.json: {error}; {advice}") from None
        if not _is_known_format(attributes):
            problem = f"attribute 'format' is {short_repr(attributes['format'])}, expected {FORMAT_VERSION}"
            raise UserError(f"{self}/zarr.json: {problem}; the cache was written by another version of this program")
        self._check_links()
        return attributes

    def _check_links(self) -> None:
        """Raises `UserError` if a folder of the artefact is a link, which may lead out of the cache."""
        for folder in (self.kind, self.path, *(f"{self.path}/{name}" for name in ("done", "failed", "images"))):
            if self.storage.is_link(folder):
                place = f"{self.storage.url}/{folder}"
                raise UserError(f"{place}: is a link; expected a folder (the cache as a whole may be a link)")

    def read_root(self) -> dict[str, Any]:
        """Returns the root group's attributes, of any format.

        Raises `FileNotFoundError` if there is no root group, and `ValueError` if it is damaged.
        """
        attributes = parse_json(self.storage.read(f"{self.path}/zarr.json")).get("attributes", {})
        if not isinstance(attributes, dict):
            raise ValueError(f"attributes is {short_repr(attributes)}")
        if "format" not in attributes:
            raise ValueError("has no attribute 'format'")
        if not _is_known_format(attributes):
            if attributes.get("checksum") == _checksum({**attributes, "format": FORMAT_VERSION}):
                raise ValueError(
                    f"attribute 'format' is {short_repr(attributes['format'])}, its checksum is that of another one"
                )
            return attributes
        written_here = "settings" in attributes and attributes["format"] == FORMAT_VERSION
        if (written_here or "checksum" in attributes) and attributes.get("checksum") != _checksum(attributes):
            raise ValueError("its attributes do not have the checksum that they were written with")
        for name, expected in (("kind", self.kind), ("key", self.key)):
            if attributes.get(name, expected) != expected:
                raise ValueError(f"attribute {name!r} is {short_repr(attributes[name])}, expected {expected!r}")
        return attributes

    def find_root(self) -> dict[str, Any] | None:
        """Returns the root group's attributes, of any format; `None` if it is missing or damaged."""
        try:
            return self.read_root()
        except (FileNotFoundError, ValueError):
            return None

    def has_unknown_format(self) -> bool:
        """Returns whether the root group is undamaged, and of a format that this program does not read."""
        root = self.find_root()
        return root is not None and not _is_known_format(root)

    def _expected(self) -> str:
        """Names the stage that makes a missing artefact, and the existing artefacts of other settings."""
        others = []
        for key in self.storage.folders(self.kind):
            root = replace(self, key=key).find_root()
            if root is not None:
                settings = root.get("settings")
                others.append(f"{key} ({_summarise_settings(settings)})" if isinstance(settings, dict) else key)
        text = f"expected one made by {self.made_by or 'an earlier stage'} with the same settings"
        return f"{text}; found those of other settings: {', '.join(others)}" if others else text

    def create(self, settings: Mapping[str, Any], upstream: Mapping[str, str], **attributes: Any) -> None:
        """Writes the root group if it is missing or damaged, or if a repair wrote it without settings.

        The settings determine the content; `upstream` gives kind and key of the artefacts that it is computed from.
        Raises `UserError` if the artefact is of another format, or a folder of it is a link.
        """
        current = self.find_root()
        if current is not None:
            self.attributes()  # refuses another format
            if "settings" in current:
                return
        self._check_links()
        self._write_root({"settings": settings, "upstream": upstream, "versions": _package_versions(), **attributes})

    def repair_root(self) -> None:
        """Replaces a damaged root group by one without settings, which the next run completes.

        A root group of a foreign program has no checksum: its attributes are kept as far as they can be read.
        """
        try:
            attributes = parse_json(self.storage.read(f"{self.path}/zarr.json")).get("attributes")
        except (FileNotFoundError, ValueError):
            attributes = None
        is_foreign = isinstance(attributes, dict) and not {"checksum", "settings"} & set(attributes)
        self._write_root(attributes if is_foreign and attributes else {})

    def upgrade_format(self) -> None:
        """Declares the present format, before its first image is written; images of the format before stay."""
        attributes = self.attributes()
        if attributes["format"] != FORMAT_VERSION:
            self._write_root(attributes)

    def _write_root(self, attributes: Mapping[str, Any]) -> None:
        values = {**attributes, "format": FORMAT_VERSION, "kind": self.kind, "key": self.key}
        values["checksum"] = _checksum(values)
        document = {"zarr_format": 3, "node_type": "group", "attributes": values}
        self.storage.replace(f"{self.path}/zarr.json", json.dumps(document, indent=1, ensure_ascii=False).encode())


def _summarise_settings(settings: Mapping[str, Any]) -> str:
    """Returns an artefact's own settings in at most 80 characters, e.g. `fusion.rule.kind: ssa`."""
    sections = {name: value for name, value in settings.items() if isinstance(value, dict)}
    dotted = _dotted({name: value for name, value in sections.items() if name not in _INPUT_SETTINGS})
    return shorten(", ".join(dotted) or "default settings", 80)


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}: {value}"


def _is_known_format(attributes: Mapping[str, Any]) -> bool:
    return type(attributes["format"]) is int and attributes["format"] in READ_VERSIONS


def _checksum(attributes: Mapping[str, Any]) -> str:
    """Returns the checksum of all other attributes, whatever their layout: zarr rewrites the file."""
    others = {name: value for name, value in attributes.items() if name != "checksum"}
    return hashlib.sha256(canonical_json(others).encode(errors="surrogatepass")).hexdigest()[:16]


def _package_versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
