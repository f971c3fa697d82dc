"""Data manifests: which images, where, in which label space and split. One YAML file a data set.

A manifest is read completely and every problem is reported at once, before any work. Nothing here decodes pixels.
"""

from __future__ import annotations

import bisect
import os
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from pipeline.core.errors import UserError, raise_problems
from pipeline.core.globs import check_glob, find_below, is_glob
from pipeline.core.reading import is_file, is_folder, kind_of_file, read_yaml, shortened, shown, user_path
from pipeline.core.settings import Settings, expand_variables, parse_settings, renamed
from pipeline.data.images import ImagePreprocessing
from pipeline.data.labels import LabelSpace, load_label_space

#: What an image glob may match; other files in the folder (text, archives) are passed over.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


#: The longest path that a manifest gives or makes, in characters.
MAX_PATH = 4096

#: So many problems are told, the others are counted.
_TOLD = 20

_Text = Annotated[str, StringConstraints(max_length=MAX_PATH)]
_Replaced = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATH)]
_Glob = Annotated[_Text, AfterValidator(check_glob)]


class LabelFiles(Settings):
    """Where an image's label map is: the image's path with each `[from, to]` replaced in it, in order."""

    replace: tuple[tuple[_Replaced, _Text], ...] = Field(
        description="Text replacements from image path to label path.", max_length=100
    )


class Split(Settings):
    """One split: images by glob or list and, where they exist, labels."""

    images: tuple[_Glob, ...] = Field(description="Globs or paths, relative to the root.", min_length=1)
    exclude: tuple[_Glob, ...] = Field((), description="Globs of images to leave out.")
    labels: LabelFiles | None = Field(None, description="Label maps; leave out for unlabelled splits.")


class ManifestSettings(Settings):
    """The YAML file's keys."""

    name: str = Field(description="Name of the data set; its folder in the cache.", pattern=r"^[A-Za-z0-9][\w-]{0,99}$")
    root: str = Field(".", description="Folder of the data: relative to the manifest, absolute, or ${VARIABLE}/...")
    projection: Literal["erp", "pinhole"] = Field("erp", description="erp: cyclic panoramas; pinhole: photos.")
    label_space: str = Field("cityscapes19", description="Classes of the label files: a name, or a YAML file.")
    preprocessing: ImagePreprocessing = Field(
        ImagePreprocessing(), json_schema_extra=renamed("preparation"), description="Crop and working resolution."
    )
    splits: dict[str, Split] = Field(description="The splits by name.", min_length=1)
    licence: str = Field("", description="Licence of the data.")
    citation: str = Field("", description="What to cite, and where the data is to be had.")


@dataclass(frozen=True, slots=True, init=False, repr=False)
class ImageRecord:
    """One image of a data set. `id` is its path below the root without suffix, with `/` between folders.

    `path` and `label_path` (None without labels) are made when they are asked for: what records have in common is
    stored once, so that a million of them fit into memory.
    """

    id: str
    split: str
    _start: str
    _end: str | None
    _label_start: str
    _label: str | None

    def __init__(self, id: str, split: str, path: str | Path, label_path: str | Path | None) -> None:
        text = str(path)
        end = suffix_of(text)
        whole = text.endswith(id + end)
        start = text[: len(text) - len(id + end)] if whole else text
        label = None if label_path is None else str(label_path)
        shared = start if label is not None and whole and label.startswith(start) else ""
        self._set(id, split, start, end if whole else None, shared, label and label.removeprefix(shared))

    def _set(self, id: str, split: str, start: str, end: str | None, label_start: str, label: str | None) -> None:
        put = object.__setattr__
        put(self, "id", id)
        put(self, "split", sys.intern(split))
        put(self, "_start", sys.intern(start))
        put(self, "_end", end if end is None else sys.intern(end))
        put(self, "_label_start", sys.intern(label_start))
        put(self, "_label", label)

    @property
    def path(self) -> Path:
        return Path(self._start if self._end is None else f"{self._start}{self.id}{self._end}")

    @property
    def label_path(self) -> Path | None:
        return None if self._label is None else Path(self._label_start + self._label)

    def __repr__(self) -> str:
        return f"ImageRecord({self.id!r}, {self.split!r}, {self.path!r}, {self.label_path!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        label = self.label_path
        return ImageRecord, (self.id, self.split, str(self.path), None if label is None else str(label))


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
    def preprocessing(self) -> ImagePreprocessing:
        return self.settings.preprocessing

    def select(self, splits: Sequence[str] = ()) -> tuple[ImageRecord, ...]:
        """The images of the named splits; of all splits if none is named."""
        if unknown := set(splits) - set(self.settings.splits):
            raise UserError(
                f"{self.path}: has no split {sorted(unknown)[0]!r}; found {', '.join(self.settings.splits)}"
            )
        if not splits:
            return self.images
        return tuple(record for record in self.images if record.split in splits)


def load_manifest(path: Path) -> Manifest:
    """Reads `path`, finds its images and labels, and reports every problem at once."""
    settings = parse_settings(ManifestSettings, read_yaml(path), str(path))
    try:
        root = user_path(expand_variables(settings.root, f"{path}: root"))
    except ValueError as error:
        raise UserError(f"{path}: root: {error}") from None
    root = Path(os.path.abspath(path.parent / root))
    if not is_folder(root):
        raise UserError(f"{path}: root: found no folder {shortened(root)}; expected the folder of the images")
    space = load_label_space(_label_space_path(settings.label_space, path))
    problems = _Problems()
    images: list[ImageRecord] = []
    for name, split in settings.splits.items():
        images += _Search(root, name, split, problems).images()
    _id_clashes(images, problems)
    raise_problems(str(path), problems.texts())
    return Manifest(path, settings, root, space, tuple(images))


def _label_space_path(name: str, manifest: Path) -> str:
    beside = manifest.parent / name
    return str(beside) if beside.suffix in (".yaml", ".yml") and is_file(beside) else name


class _Problems:
    """The first `_TOLD` problems in the order of their text, check by check, and how many there are."""

    def __init__(self) -> None:
        self._check, self._count = 0, 0
        self._first: list[tuple[int, str]] = []

    def next_check(self) -> None:
        self._check += 1

    def add(self, text: str) -> None:
        self._count += 1
        if len(self._first) < _TOLD or (self._check, text) < self._first[-1]:
            bisect.insort(self._first, (self._check, shortened(text, 400)))
            del self._first[_TOLD:]

    def texts(self) -> list[str]:
        """The problems; those that are not told are empty."""
        return [text for _, text in self._first] + [""] * (self._count - len(self._first))


class _Search:
    """The images of one split, by its globs and lists."""

    def __init__(self, root: Path, name: str, settings: Split, problems: _Problems) -> None:
        self.root, self.name, self.settings, self.problems = str(root), name, settings, problems
        self.start = self.root.rstrip("/") + "/"
        self.real_root = os.path.realpath(root)
        self.inside: dict[str, bool] = {}
        """of folders below the root: whether they really are inside it"""

    def images(self) -> list[ImageRecord]:
        """Sorted by id; what is wrong with them is among the problems."""
        self.problems.next_check()
        odd: set[str] = set()
        found = self._found(odd)
        for pattern in self.settings.exclude:
            for relative, _ in self._below(pattern, "exclude"):
                found.discard(relative)
        names = sorted(found, reverse=True)
        found.clear()
        records = []
        while names:  # one by one: the path goes when its record comes
            record = self._record(relative := names.pop(), relative in odd)
            if record is not None:
                records.append(record)
        records.sort(key=lambda record: record.id)
        return records

    def _below(self, pattern: str, key: str) -> Iterable[tuple[str, bool]]:
        try:
            yield from find_below(self.root, pattern)
        except OSError as error:
            self.problems.add(f"splits.{self.name}.{key}: {error.filename} cannot be listed ({error.strerror})")

    def _found(self, odd: set[str]) -> set[str]:
        """The paths below the root that the split names; `odd` gets those whose files have to be looked at."""
        found: set[str] = set()
        for pattern in self.settings.images:
            if not is_glob(pattern):
                relative = os.path.normpath(pattern)
                found.add(relative)
                odd.add(relative)
                continue
            matched = False
            for relative, plain in self._below(pattern, "images"):
                if suffix_of(relative).lower() in IMAGE_SUFFIXES:
                    if not plain:
                        if is_folder(self.start + relative):
                            continue
                        odd.add(relative)
                    matched = True
                    found.add(relative)
            if not matched:
                self._add(f"images: {shown(pattern)} matches no image under {self.root}")
        return found

    def _add(self, problem: str) -> None:
        self.problems.add(f"splits.{self.name}.{problem}")

    def _record(self, relative: str, odd: bool) -> ImageRecord | None:
        if not _is_unicode(relative):
            self.problems.add(f"{os.fsencode(relative)!r}: the name is not valid UTF-8; rename it")
            return None
        if odd and (problem := self._problem_of(relative)):
            self._add(f"images: {self.start}{relative} {problem}")
            return None
        label = None
        if self.settings.labels is not None:
            label = self._label(relative, self.settings.labels)
            if label is None:
                return None
        suffix = suffix_of(relative)
        record = ImageRecord.__new__(ImageRecord)
        start = "" if label is None else self.start
        record._set(relative.removesuffix(suffix), self.name, self.start, suffix, start, label)
        return record

    def _label(self, relative: str, labels: LabelFiles) -> str | None:
        label = relative
        for old, new in labels.replace:
            if old not in label:
                return self._no_label(relative, f"labels.replace expects {shown(old)} in {shown(label)}")
            label = label.replace(old, new)
            if len(label) > MAX_PATH:
                return self._no_label(relative, f"labels.replace gives a path of {len(label):,} characters")
        if label == relative:
            return self._no_label(relative, "labels.replace gives the image itself")
        if label.startswith("/") or ".." in label.split("/"):
            return self._no_label(relative, f"labels.replace leads to {shown(label)}, out of the root")
        if problem := self._problem_of(label):
            return self._no_label(relative, f"its label {self.start}{label} {problem}")
        return label

    def _no_label(self, relative: str, problem: str) -> str | None:
        self.problems.add(f"{self.start}{relative}: {problem}")
        return None

    def _problem_of(self, relative: str) -> str | None:
        """Why the file is no ordinary one inside the root; None if it is."""
        path = self.start + relative
        try:
            mode = os.lstat(path).st_mode
            link = stat.S_ISLNK(mode)
            if not self._is_inside(path, link):
                return f"is a link that leads out of the root {self.root}"
            if link:
                mode = os.stat(path).st_mode
        except FileNotFoundError:
            return "is a link that leads nowhere" if os.path.islink(path) else "is missing"
        except OSError as error:
            return f"cannot be reached ({error.strerror})"
        return None if stat.S_ISREG(mode) else f"is {kind_of_file(mode)}, expected an ordinary file"

    def _is_inside(self, path: str, link: bool) -> bool:
        if link:
            return _is_below(os.path.realpath(path), self.real_root)
        folder = os.path.dirname(path)
        if folder not in self.inside:
            self.inside[folder] = _is_below(os.path.realpath(folder), self.real_root)
        return self.inside[folder]


def suffix_of(path: str) -> str:
    """The last suffix of a path, with its dot, as `pathlib.PurePath.suffix` has it."""
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return name[dot:] if 0 < dot < len(name) - 1 else ""


def _id_clashes(images: Sequence[ImageRecord], problems: _Problems) -> None:
    problems.next_check()
    by_id: dict[str, ImageRecord] = {}
    for record in images:
        other = by_id.setdefault(record.id, record)
        if other is not record:
            where = f"splits {other.split} and {record.split}" if other.split != record.split else other.split
            problems.add(f"{other.path} and {record.path} have the same id {record.id!r} ({where})")


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_unicode(name: str) -> bool:
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
