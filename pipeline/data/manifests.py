"""Data manifests: the images, labels, splits and label space of a data set, in one YAML file.

A manifest is read completely and all problems are reported together. Nothing here decodes pixels.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from pipeline.core.errors import UserError, raise_problems
from pipeline.core.globs import check_glob, find_below, is_glob
from pipeline.core.reading import file_type, is_file, read_yaml, short_repr, shorten, user_path
from pipeline.core.settings import Settings, expand_variables, parse_settings, renamed
from pipeline.data.images import ImagePreprocessing
from pipeline.data.labels import LabelSpace, load_label_space

#: Suffixes of the files that an image glob matches; other files in the folder are skipped.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

MAX_PATH = 4096  # characters of a path that a manifest holds or results in

_Text = Annotated[str, StringConstraints(max_length=MAX_PATH)]
_Replaced = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATH)]
_Glob = Annotated[_Text, AfterValidator(check_glob)]


class LabelFiles(Settings):
    """Path of the label map of an image."""

    replace: tuple[tuple[_Replaced, _Text], ...] = Field(
        description="Replacements [from, to] in the path of the image, in order, that give the path of its labels.",
        max_length=100,
    )


class Split(Settings):
    """One split: images and, if there are any, labels."""

    images: tuple[_Glob, ...] = Field(description="Globs or paths, relative to the root.", min_length=1)
    exclude: tuple[_Glob, ...] = Field((), description="Globs of images that are left out.")
    labels: LabelFiles | None = Field(None, description="Label maps of the images; null: no labels.")


class ManifestSettings(Settings):
    """The keys of the YAML file."""

    name: str = Field(description="Name of the data set; its folder in the cache.", pattern=r"^[A-Za-z0-9][\w-]{0,99}$")
    root: str = Field(".", description="Folder of the data: relative to the manifest, absolute, or ${VARIABLE}/...")
    projection: Literal["erp", "pinhole"] = Field("erp", description="erp: panoramas of 360 degrees; pinhole: photos.")
    label_space: str = Field(
        "cityscapes19", description="Classes of the labels: a label space by name, or a YAML file."
    )
    preprocessing: ImagePreprocessing = Field(
        ImagePreprocessing(),
        json_schema_extra=renamed("preparation"),
        description="Crop and working resolution of the images.",
    )
    splits: dict[str, Split] = Field(description="The splits by name.", min_length=1)
    licence: str = Field("", description="Licence of the data.")
    citation: str = Field("", description="Publication to cite, and the source of the data.")


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a data set. Records share the strings of root and suffix, so that a million fit into memory.

    Attributes:
        id: path below `root`, the folder of the data set, without `suffix`, with `/` between folders.
        label: path of the label map below the root; None without labels.
    """

    id: str
    split: str
    root: str
    suffix: str
    label: str | None = None

    @property
    def path(self) -> Path:
        """The image file."""
        return Path(self.root, self.id + self.suffix)

    @property
    def label_path(self) -> Path | None:
        """The label map; None without labels."""
        return None if self.label is None else Path(self.root, self.label)


@dataclass(frozen=True)
class Manifest:
    """A data set whose files have been found, below the absolute `root`; `images` are sorted by id in each split."""

    path: Path
    settings: ManifestSettings
    root: Path
    label_space: LabelSpace
    images: tuple[ImageRecord, ...]

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.settings.name

    @property
    def preprocessing(self) -> ImagePreprocessing:
        """Crop and working resolution of the images."""
        return self.settings.preprocessing

    def select(self, splits: Sequence[str] = ()) -> tuple[ImageRecord, ...]:
        """Returns the images of the named splits, by default of all. Raises `UserError` if there is no such split."""
        if unknown := set(splits) - set(self.settings.splits):
            raise UserError(f"{self.path}: has no split {min(unknown)!r}; found {', '.join(self.settings.splits)}")
        return tuple(record for record in self.images if record.split in splits) if splits else self.images


def load_manifest(path: Path) -> Manifest:
    """Reads a manifest and finds its images and labels.

    Raises `UserError`, which lists every problem of the file, or of the images and labels.
    """
    settings = parse_settings(ManifestSettings, read_yaml(path), str(path))
    try:
        root = user_path(expand_variables(settings.root))
    except ValueError as error:
        raise UserError(f"{path}: root: found {short_repr(settings.root, 200)}; {error}") from None
    root = Path(os.path.abspath(path.parent / root))
    if not os.path.isdir(root):
        raise UserError(f"{path}: root: found no folder {shorten(root)}; expected the folder of the images")
    beside = path.parent / settings.label_space
    is_beside = beside.suffix in (".yaml", ".yml") and is_file(beside)
    space = load_label_space(str(beside) if is_beside else settings.label_space)
    problems: list[str] = []
    images: list[ImageRecord] = []
    for name, split in settings.splits.items():
        search = _Search(root, name, split)
        images += search.images()
        problems += sorted(search.problems)
    raise_problems(str(path), [shorten(problem, 400) for problem in problems + sorted(_id_clashes(images))])
    return Manifest(path, settings, root, space, tuple(images))


class _Search:
    """Finds the images of one split and collects what is wrong with them in `problems`."""

    def __init__(self, root: Path, name: str, settings: Split) -> None:
        self.root, self.name, self.settings = str(root), name, settings
        self.prefix, self.real_prefix = os.path.join(root, ""), os.path.join(os.path.realpath(root), "")
        self.problems: list[str] = []
        self._folder_is_inside = functools.cache(self._is_inside)

    def images(self) -> list[ImageRecord]:
        """Returns the images, sorted by id."""
        unchecked: set[str] = set()
        paths = self._paths(unchecked)
        for pattern in self.settings.exclude:
            paths.difference_update(relative for relative, _ in self._below(pattern, f"splits.{self.name}.exclude"))
        waiting = sorted(paths, reverse=True)
        paths.clear()
        records = []
        while waiting:  # frees each path when its record is made, which halves the memory
            try:
                records.append(self._record(relative := waiting.pop(), check=relative in unchecked))
            except ValueError as error:
                self.problems.append(str(error))
        records.sort(key=lambda record: record.id)
        return records

    def _below(self, pattern: str, key: str) -> Iterator[tuple[str, bool]]:
        try:
            yield from find_below(self.root, pattern)
        except OSError as error:
            self.problems.append(f"{key}: {error.filename} cannot be listed ({error.strerror})")

    def _paths(self, unchecked: set[str]) -> set[str]:
        """Returns the paths below the root; adds those whose files still need a check to `unchecked`."""
        paths: set[str] = set()
        key = f"splits.{self.name}.images"
        for pattern in self.settings.images:
            if not is_glob(pattern):
                relative = os.path.normpath(pattern)
                paths.add(relative)
                unchecked.add(relative)
                continue
            matched = False
            for relative, plain in self._below(pattern, key):
                is_image = suffix_of(relative).lower() in IMAGE_SUFFIXES
                if is_image and (plain or not os.path.isdir(self.prefix + relative)):
                    matched = True
                    paths.add(relative)
                    if not plain:
                        unchecked.add(relative)
            if not matched:
                self.problems.append(f"{key}: {short_repr(pattern)} matches no image under {self.root}")
        return paths

    def _record(self, relative: str, *, check: bool) -> ImageRecord:
        """Returns the record of an image. Raises `ValueError` with what is wrong with its file or its labels."""
        if re.search("[\ud800-\udfff]", relative):
            raise ValueError(f"{os.fsencode(relative)!r}: the name is not valid UTF-8; rename it")
        if check and (problem := self._problem_of(relative)):
            raise ValueError(f"splits.{self.name}.images: {self.prefix}{relative} {problem}")
        label = None if self.settings.labels is None else self._label(relative, self.settings.labels)
        suffix = sys.intern(suffix_of(relative))
        return ImageRecord(relative.removesuffix(suffix), self.name, self.root, suffix, label)

    def _label(self, relative: str, labels: LabelFiles) -> str:
        """Returns the path of an image's labels below the root. Raises `ValueError` if there is no usable file."""
        image, label = self.prefix + relative, relative
        for old, new in labels.replace:
            if old not in label:
                raise ValueError(f"{image}: labels.replace expects {short_repr(old)} in {short_repr(label)}")
            label = label.replace(old, new)
            if len(label) > MAX_PATH:
                raise ValueError(f"{image}: labels.replace gives a path of {len(label):,} characters")
        if label == relative:
            raise ValueError(f"{image}: labels.replace gives the image itself")
        if label.startswith("/") or ".." in label.split("/"):
            raise ValueError(f"{image}: labels.replace leads to {short_repr(label)}, out of the root")
        if problem := self._problem_of(label):
            raise ValueError(f"{image}: its label {self.prefix}{label} {problem}")
        return label

    def _problem_of(self, relative: str) -> str | None:
        """Returns why the file is no ordinary one inside the root; None if it is."""
        path = self.prefix + relative
        try:
            mode = os.lstat(path).st_mode
            link = stat.S_ISLNK(mode)
            if not (self._is_inside(path) if link else self._folder_is_inside(os.path.dirname(path))):
                return f"is a link that leads out of the root {self.root}"
            if link:
                mode = os.stat(path).st_mode
        except FileNotFoundError:
            return "is a link that leads nowhere" if os.path.islink(path) else "is missing"
        except OSError as error:
            return f"cannot be reached ({error.strerror})"
        return None if stat.S_ISREG(mode) else f"is {file_type(mode)}, expected an ordinary file"

    def _is_inside(self, path: str) -> bool:
        return f"{os.path.realpath(path)}/".startswith(self.real_prefix)


def suffix_of(path: str) -> str:
    """Returns the last suffix of a path with its dot, like the slower `pathlib.PurePath.suffix`."""
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return name[dot:] if 0 < dot < len(name) - 1 else ""


def _id_clashes(images: Sequence[ImageRecord]) -> Iterator[str]:
    """Yields a problem for every image whose id another image has already."""
    by_id: dict[str, ImageRecord] = {}
    for record in images:
        other = by_id.setdefault(record.id, record)
        if other is not record:
            where = f"splits {other.split} and {record.split}" if other.split != record.split else other.split
            yield f"{other.path} and {record.path} have the same id {record.id!r} ({where})"
