"""Data manifests: which images, where, in which label space and split. One YAML file a data set.

A manifest is read completely and every problem is reported at once, before any work. Nothing here decodes pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, model_validator

from pipeline.errors import UserError, all_problems
from pipeline.images import Preparation
from pipeline.labels import LabelSpace, load_label_space
from pipeline.settings import Settings, expand_variables, parse_settings, read_yaml

#: What an image glob may match; other files in the folder (text, archives) are passed over.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


class LabelFiles(Settings):
    """Where an image's label map is: the image's path with each ``[from, to]`` replaced in it, in order."""

    replace: tuple[tuple[str, str], ...] = Field(description="Text replacements from image path to label path.")


class Split(Settings):
    """One split: images by glob or list and, where they exist, labels."""

    images: tuple[str, ...] = Field(description="Globs or paths, relative to the root.", min_length=1)
    exclude: tuple[str, ...] = Field((), description="Globs of images to leave out.")
    labels: LabelFiles | None = Field(None, description="Label maps; leave out for unlabelled splits.")


class ManifestSettings(Settings):
    """The YAML file's keys."""

    name: str = Field(description="Name of the data set; its folder in the cache.", pattern=r"^[A-Za-z0-9][\w-]*$")
    root: str = Field(".", description="Folder of the data: relative to the manifest, absolute, or ${VARIABLE}/...")
    projection: Literal["erp", "pinhole"] = Field("erp", description="erp: cyclic panoramas; pinhole: photos.")
    label_space: str = Field("cityscapes19", description="Classes of the label files: a name, or a YAML file.")
    preparation: Preparation = Field(Preparation(), description="Crop and working resolution.")
    splits: dict[str, Split] = Field(description="The splits by name.", min_length=1)
    licence: str = Field("", description="Licence of the data.")
    citation: str = Field("", description="What to cite, and where the data is to be had.")

    @model_validator(mode="after")
    def _inside_root(self) -> ManifestSettings:
        for name, split in self.splits.items():
            for pattern in (*split.images, *split.exclude):
                if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
                    raise ValueError(f"splits.{name}: {pattern!r} leaves the root; expected a path inside it")
        return self


@dataclass(frozen=True)
class ImageRecord:
    """One image of a data set. ``id`` is its path below the root without suffix, with ``/`` between folders."""

    id: str
    split: str
    path: Path
    label_path: Path | None


@dataclass(frozen=True)
class Manifest:
    """A resolved manifest: its settings and its images, sorted by id within each split."""

    path: Path
    settings: ManifestSettings
    root: Path
    label_space: LabelSpace
    images: tuple[ImageRecord, ...]

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def preparation(self) -> Preparation:
        return self.settings.preparation

    def select(self, splits: Sequence[str] = ()) -> tuple[ImageRecord, ...]:
        """The images of the named splits; of all splits if none is named."""
        if unknown := set(splits) - set(self.settings.splits):
            raise UserError(
                f"{self.path}: has no split {sorted(unknown)[0]!r}; found {', '.join(self.settings.splits)}"
            )
        return tuple(record for record in self.images if not splits or record.split in splits)


def load_manifest(path: Path) -> Manifest:
    """Reads ``path``, finds its images and labels, and reports every problem at once."""
    settings = parse_settings(ManifestSettings, read_yaml(path), str(path))
    root = Path(expand_variables(settings.root, f"{path}: root")).expanduser()
    root = Path(os.path.abspath(path.parent / root))
    if not root.is_dir():
        raise UserError(f"{path}: root: found no folder {root}; expected the folder of the images")
    space = load_label_space(_label_space_path(settings.label_space, path))
    problems: list[str] = []
    images: list[ImageRecord] = []
    for name, split in settings.splits.items():
        images += _split_images(root, name, split, problems)
    problems += _id_clashes(images)
    problems += (
        f"{record.path}: its label {record.label_path} is missing"
        for record in images
        if record.label_path is not None and not record.label_path.is_file()
    )
    all_problems(str(path), problems)
    return Manifest(path, settings, root, space, tuple(images))


def _label_space_path(name: str, manifest: Path) -> str:
    beside = manifest.parent / name
    return str(beside) if beside.suffix in (".yaml", ".yml") and beside.is_file() else name


def _split_images(root: Path, name: str, split: Split, problems: list[str]) -> Iterable[ImageRecord]:
    found: dict[Path, None] = {}
    for pattern in split.images:
        matches = [root / pattern] if not _is_glob(pattern) else sorted(root.glob(pattern))
        matches = [m for m in matches if not _is_glob(pattern) or m.suffix.lower() in IMAGE_SUFFIXES]
        if not matches:
            problems.append(f"splits.{name}.images: {pattern!r} matches no image under {root}")
        for match in matches:
            if not _is_glob(pattern) and not match.is_file():
                problems.append(f"splits.{name}.images: {match} is missing")
            elif not match.resolve().is_relative_to(root.resolve()):
                problems.append(f"splits.{name}.images: {match} is a link that leads out of the root {root}")
            else:
                found[match] = None
    excluded = {match for pattern in split.exclude for match in root.glob(pattern)}
    records = []
    for path in found:
        if path in excluded:
            continue
        relative = path.relative_to(root).as_posix()
        if not _is_unicode(relative):
            problems.append(f"{relative.encode(errors='surrogateescape')!r}: the name is not valid UTF-8; rename it")
            continue
        label = _label_path(root, relative, split, problems)
        records.append(ImageRecord(relative[: -len(path.suffix)], name, path, label))
    return sorted(records, key=lambda record: record.id)


def _label_path(root: Path, relative: str, split: Split, problems: list[str]) -> Path | None:
    if split.labels is None:
        return None
    label = relative
    for old, new in split.labels.replace:
        if old not in label:
            problems.append(f"{root / relative}: labels.replace expects {old!r} in {label!r}")
            return None
        label = label.replace(old, new)
    if label == relative:
        problems.append(f"{root / relative}: labels.replace gives the image itself")
        return None
    if ".." in PurePosixPath(label).parts:
        problems.append(f"{root / relative}: labels.replace leads to {label!r}, out of the root")
        return None
    return root / label


def _id_clashes(images: Sequence[ImageRecord]) -> list[str]:
    by_id: dict[str, ImageRecord] = {}
    clashes = []
    for record in images:
        other = by_id.setdefault(record.id, record)
        if other is not record:
            where = f"splits {other.split} and {record.split}" if other.split != record.split else other.split
            clashes.append(f"{other.path} and {record.path} have the same id {record.id!r} ({where})")
    return clashes


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_glob(pattern: str) -> bool:
    return any(character in pattern for character in "*?[")
