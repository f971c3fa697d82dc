"""Prediction on image files with a trained student."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from pipeline.core.atomic_files import make_writable_folder, write_result
from pipeline.core.errors import UserError
from pipeline.core.globs import find_below, is_glob
from pipeline.core.progress import Progress, SilentProgress, note_failure
from pipeline.core.reading import is_file, short_repr, shorten
from pipeline.data.images import ImagePreprocessing
from pipeline.data.manifests import IMAGE_SUFFIXES
from pipeline.data.visualization import add_legend, overlay, palette_image

LABELS, OVERLAYS, PROBABILITIES = "labels", "overlays", "probabilities"  #: Folders of the results.


def find_images(patterns: Sequence[str], out: Path | None = None) -> dict[str, Path]:
    """Returns the image files of `patterns` (files, folders, globs) by name; results in `out` are left out.

    The name of an image in a folder is its path below the folder, of another its file name, without suffix. Raises
    `UserError` if a pattern matches no image, or two images have the same name.
    """
    images: dict[str, Path] = {}
    results = [] if out is None else [_resolve(out / name) for name in (LABELS, OVERLAYS)]
    for pattern in patterns:
        try:
            matches = [
                (name, path)
                for name, path in _matches(pattern)
                if not any(_resolve(path).is_relative_to(folder) for folder in results)
            ]
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or shorten(error)
            raise UserError(f"predict: {short_repr(pattern)} cannot be searched ({reason})") from None
        if not matches:
            raise UserError(f"predict: {short_repr(pattern)} matches no image; expected a file, a folder or a glob")
        for name, path in matches:
            other = images.setdefault(name, path)
            if other != path and _resolve(other) != _resolve(path):
                same_folder = _resolve(other.parent) == _resolve(path.parent)
                remedy = "rename one of them" if same_folder else "give the folder above both, which keeps their paths"
                raise UserError(f"predict: {other} and {path} would both write {name}.png; {remedy}")
    return images


def _resolve(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _matches(pattern: str) -> list[tuple[str, Path]]:
    """Returns the images of one pattern with their names, which may occur twice."""
    path = Path(pattern)
    if os.path.isdir(path):
        return [(str(p.relative_to(path).with_suffix("")), p) for p in sorted(path.rglob("*")) if _is_image(p)]
    if is_file(path):
        return [(path.stem, path)]
    return [(p.stem, p) for p in sorted(_expand_glob(path)) if _is_image(p)]


def _expand_glob(pattern: Path) -> Iterator[Path]:
    """Yields the files that a glob matches. Hidden ones need a glob that names them; `**` follows no links."""
    parts = pattern.parts
    fixed = list(itertools.takewhile(lambda part: not is_glob(part), parts))
    rest = [*parts[len(fixed) :], *(["*"] if parts[-1:] == ("**",) else [])]
    if not rest:
        return
    folder, names_hidden = Path(*fixed), any(part.startswith(".") for part in rest)
    for name, _ in find_below(str(folder), "/".join(rest)):
        if names_hidden or not any(part.startswith(".") for part in name.split("/")):
            yield folder / name


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and is_file(path)


def predict(
    images: dict[str, Path],
    checkpoint: Path,
    out: Path,
    *,
    crop_rows: str | None = None,
    size: str | None = None,
    device: str = "auto",
    probabilities: bool = False,
    progress: Progress = SilentProgress(),
) -> tuple[list[str], dict[str, str]]:
    """Writes `out/labels/<name>.png` and `out/overlays/<name>.png` of every image, each file atomically.

    Labels are palette images of class ids; overlays have a legend. Returns the names of finished images, and the
    reasons of failed ones by name. Raises `UserError` if the student cannot be loaded, `out` cannot be written, or an
    option has another form.

    Args:
        images: Image files by name, see `find_images`.
        checkpoint: A student's checkpoint, or an exported `.onnx` file.
        out: Folder of the results.
        crop_rows, size: `first:last` and `HEIGHTxWIDTH`, or `none`, instead of the training's.
        device: `auto`, `cpu` or `cuda[:index]`.
        probabilities: Write `out/probabilities/<name>.npy` too, float16 `(C, H, W)`.
        progress: Receives one step per image.
    """
    from pipeline.models.load import load_student

    student = load_student(checkpoint, device)
    student.preprocessing = override_preprocessing(student.preprocessing, crop_rows, size)
    make_writable_folder(out, "--out")
    done: list[str] = []
    failures: dict[str, str] = {}
    progress.start("predict", len(images))
    for name, path in images.items():
        with note_failure(name, failures, progress):
            image = student.read_image(path)
            if probabilities:
                class_probabilities = student.probabilities(image)
                labels = class_probabilities.argmax(axis=0).astype(np.uint8)
                save = partial(np.save, arr=class_probabilities.astype(np.float16))
                write_result(out / PROBABILITIES / f"{name}.npy", save)
            else:
                labels = student(image)
            colours = add_legend(overlay(image, labels, student.space), student.space)
            for folder, picture in ((LABELS, palette_image(labels, student.space)), (OVERLAYS, colours)):
                write_result(out / folder / f"{name}.png", partial(picture.save, format="PNG"))
            done.append(name)
    return done, failures


def override_preprocessing(
    preprocessing: ImagePreprocessing, crop_rows: str | None, size: str | None
) -> ImagePreprocessing:
    """Returns `preprocessing` with the options of the command line. Raises `UserError` for impossible ones."""
    options = {
        "crop_rows": (crop_rows, r"(\d{1,9}):(\d{1,9})", "first:last, e.g. 312:712"),
        "size": (size, r"(\d{1,9})x(\d{1,9})", "HEIGHTxWIDTH, e.g. 400x2048"),
    }
    changes: dict[str, tuple[str, ...] | None] = {}
    for name, (text, pattern, form) in options.items():
        if text is not None:
            match = re.fullmatch(pattern, text)
            if match is None and text != "none":
                raise UserError(f"--{name.replace('_', '-')} {text}: expected {form}, or none")
            changes[name] = match.groups() if match else None
    try:
        return ImagePreprocessing.model_validate(preprocessing.model_dump() | changes)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name, reason = str(problem["loc"][0]), problem["msg"].removeprefix("Value error, ")
        raise UserError(f"--{name.replace('_', '-')} {options[name][0]}: {reason}") from None
