"""Prediction on image files with a trained student."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import ValidationError

from pipeline.core.atomic_files import writable_folder, write_result
from pipeline.core.errors import ImageError, UserError
from pipeline.core.globs import find_below, is_glob
from pipeline.core.progress import Progress, SilentProgress
from pipeline.core.reading import is_file, is_folder, shortened, shown
from pipeline.data.images import ImagePreprocessing, read_image
from pipeline.data.manifests import IMAGE_SUFFIXES
from pipeline.data.visualization import overlay

#: Folders of the results.
LABELS, OVERLAYS, PROBABILITIES = "labels", "overlays", "probabilities"


def find_images(patterns: Sequence[str], out: Path | None = None) -> dict[str, Path]:
    """The image files that `patterns` (files, folders, globs) name, by the path that their results will have.

    A folder's images keep their path below it, others their name alone; results in `out` are no images. Raises
    `UserError` if a pattern matches none, or two images would write one result.
    """
    found: dict[str, Path] = {}
    results = [] if out is None else [_real(out / name) for name in (LABELS, OVERLAYS)]
    for pattern in patterns:
        try:
            matches = [
                (name, path)
                for name, path in _matches(pattern)
                if not any(_real(path).is_relative_to(folder) for folder in results)
            ]
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or shortened(error)
            raise UserError(f"predict: {shown(pattern)} cannot be looked for ({reason})") from None
        if not matches:
            raise UserError(f"predict: {shown(pattern)} matches no image; expected a file, a folder or a glob")
        for name, path in matches:
            other = found.setdefault(name, path)
            if other != path and _real(other) != _real(path):
                remedy = (
                    "rename one of them"
                    if _real(other.parent) == _real(path.parent)
                    else "give the folder above both, below which images keep their paths"
                )
                raise UserError(f"predict: {other} and {path} would both write {name}.png; {remedy}")
    return found


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _matches(pattern: str) -> list[tuple[str, Path]]:
    """The images of one pattern, each with its name; names may occur twice."""
    path = Path(pattern)
    if is_folder(path):
        return [(str(p.relative_to(path).with_suffix("")), p) for p in sorted(path.rglob("*")) if _is_image(p)]
    if is_file(path):
        return [(path.stem, path)]
    return [(p.stem, p) for p in sorted(_globbed(path)) if _is_image(p)]


def _globbed(pattern: Path) -> Iterator[Path]:
    """The files that a glob matches; as in a shell, hidden ones only where it names them. `**` follows no links."""
    parts = pattern.parts
    fixed = list(itertools.takewhile(lambda part: not is_glob(part), parts))
    rest = [*parts[len(fixed) :], *(["*"] if parts[-1:] == ("**",) else [])]
    if not rest:
        return
    folder, named = Path(*fixed), any(part.startswith(".") for part in rest)
    for name, _ in find_below(str(folder), "/".join(rest)):
        if named or not any(part.startswith(".") for part in name.split("/")):
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
    progress: Progress | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Writes `out/labels/<name>.png` (class ids) and `out/overlays/<name>.png` of every image.

    With `probabilities` also `out/probabilities/<name>.npy`: float16 `(C, H, W)`. `checkpoint` may be an
    exported `.onnx` file. Returns the names that are done, and the reasons of those that failed. Files appear whole
    or not at all.
    """
    from pipeline.models.student import load_student

    progress = progress or SilentProgress()
    student = load_student(checkpoint, device)
    preprocessing = override_preprocessing(student.preprocessing, crop_rows, size)
    writable_folder(out, "--out")
    done: list[str] = []
    failures: dict[str, str] = {}
    progress.start("predict", len(images))
    for name, path in images.items():
        try:
            image = read_image(path, preprocessing)
            if probabilities:
                classes = student.probabilities(image)
                labels = classes.argmax(axis=0).astype(np.uint8)
                write_result(out / PROBABILITIES / f"{name}.npy", partial(np.save, arr=classes.astype(np.float16)))
            else:
                labels = student(image)
            colours = overlay(image, labels, student.space)
            write_result(out / LABELS / f"{name}.png", partial(Image.fromarray(labels).save, format="PNG"))
            write_result(out / OVERLAYS / f"{name}.png", partial(Image.fromarray(colours).save, format="PNG"))
            done.append(name)
        except ImageError as error:
            failures[name] = str(error)
            progress.note(f"{name}: failed: {error}".encode(errors="backslashreplace").decode())
        progress.advance(failed=name in failures)
    return done, failures


def override_preprocessing(
    preprocessing: ImagePreprocessing, crop_rows: str | None, size: str | None
) -> ImagePreprocessing:
    """The training's crop and size, changed by the command line.

    Raises `UserError` for other forms, and for a crop or a size that no image could be used with.
    """
    changes: dict[str, tuple[int, int] | None] = {}
    for name, text, pattern, form in (
        ("crop_rows", crop_rows, r"(\d{1,9}):(\d{1,9})", "first:last, e.g. 312:712"),
        ("size", size, r"(\d{1,9})x(\d{1,9})", "HEIGHTxWIDTH, e.g. 400x2048"),
    ):
        if text is None:
            continue
        match = re.fullmatch(pattern, text)
        if match is None and text != "none":
            raise UserError(f"--{name.replace('_', '-')} {text}: expected {form}, or none")
        changes[name] = (int(match[1]), int(match[2])) if match else None
    try:
        return ImagePreprocessing.model_validate(preprocessing.model_dump() | changes)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        option = str(problem["loc"][0])
        text = crop_rows if option == "crop_rows" else size
        reason = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"--{option.replace('_', '-')} {text}: {reason}") from None
