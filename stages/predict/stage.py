"""Prediction on image files with a trained student."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from pipeline.errors import ImageError, UserError
from pipeline.images import MIN_SIDE, Preparation, read_image
from pipeline.manifests import IMAGE_SUFFIXES
from pipeline.outputs import whole_file, writable_folder
from pipeline.pictures import overlay
from pipeline.progress import Progress, SilentProgress

#: Folders of the results.
LABELS, OVERLAYS, PROBABILITIES = "labels", "overlays", "probabilities"


def find_images(patterns: Sequence[str], out: Path | None = None) -> dict[str, Path]:
    """The image files that ``patterns`` (files, folders, globs) name, by the path that their results will have.

    A folder's images keep their path below it, others their name alone; results in ``out`` are no images. Raises
    :class:`UserError` if a pattern matches none, or two images would write one result.
    """
    found: dict[str, Path] = {}
    results = [] if out is None else [(out / name).resolve() for name in (LABELS, OVERLAYS)]
    for pattern in patterns:
        matches = [
            (name, path)
            for name, path in _matches(pattern)
            if not any(path.resolve().is_relative_to(folder) for folder in results)
        ]
        if not matches:
            raise UserError(f"predict: {pattern!r} matches no image; expected a file, a folder or a glob")
        for name, path in matches:
            other = found.setdefault(name, path)
            if other != path and not other.samefile(path):
                remedy = (
                    "rename one of them"
                    if other.parent.samefile(path.parent)
                    else "give the folder above both, below which images keep their paths"
                )
                raise UserError(f"predict: {other} and {path} would both write {name}.png; {remedy}")
    return found


def _matches(pattern: str) -> list[tuple[str, Path]]:
    """The images of one pattern, each with its name; names may occur twice."""
    path = Path(pattern)
    if path.is_dir():
        return [(str(p.relative_to(path).with_suffix("")), p) for p in sorted(path.rglob("*")) if _is_image(p)]
    if path.is_file():
        return [(path.stem, path)]
    return [(p.stem, p) for p in map(Path, sorted(glob.glob(pattern, recursive=True))) if _is_image(p)]


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES


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
    """Writes ``out/labels/<name>.png`` (class ids) and ``out/overlays/<name>.png`` of every image.

    With ``probabilities`` also ``out/probabilities/<name>.npy``: float16 ``(C, H, W)``. ``checkpoint`` may be an
    exported ``.onnx`` file. Returns the names that are done, and the reasons of those that failed. Files appear whole
    or not at all.
    """
    from pipeline.student import load_student

    progress = progress or SilentProgress()
    student = load_student(checkpoint, device)
    preparation = override_preparation(student.preparation, crop_rows, size)
    writable_folder(out, "--out")
    done: list[str] = []
    failures: dict[str, str] = {}
    progress.start("predict", len(images))
    for name, path in images.items():
        try:
            image = read_image(path, preparation)
            if probabilities:
                classes = student.probabilities(image)
                labels = classes.argmax(axis=0).astype(np.uint8)
                _save(out / PROBABILITIES / f"{name}.npy", partial(np.save, arr=classes.astype(np.float16)))
            else:
                labels = student(image)
            colours = overlay(image, labels, student.space)
            _save(out / LABELS / f"{name}.png", partial(Image.fromarray(labels).save, format="PNG"))
            _save(out / OVERLAYS / f"{name}.png", partial(Image.fromarray(colours).save, format="PNG"))
            done.append(name)
        except ImageError as error:
            failures[name] = str(error)
            progress.note(f"{name}: failed: {error}")
        progress.advance(failed=name in failures)
    return done, failures


def override_preparation(preparation: Preparation, crop_rows: str | None, size: str | None) -> Preparation:
    """The training's crop and size, changed by the command line.

    Raises :class:`UserError` for other forms, and for a crop or a size that no image could be used with.
    """
    changes: dict[str, tuple[int, int] | None] = {}
    for name, text, pattern, form in (
        ("crop_rows", crop_rows, r"(\d+):(\d+)", "first:last, e.g. 312:712"),
        ("size", size, r"(\d+)x(\d+)", "HEIGHTxWIDTH, e.g. 400x2048"),
    ):
        if text is None:
            continue
        match = re.fullmatch(pattern, text)
        if match is None and text != "none":
            raise UserError(f"--{name.replace('_', '-')} {text}: expected {form}, or none")
        changes[name] = (int(match[1]), int(match[2])) if match else None
    if (rows := changes.get("crop_rows")) and rows[0] >= rows[1]:
        raise UserError(f"--crop-rows {crop_rows}: holds no rows, expected the first before the last, e.g. 312:712")
    if (pixels := changes.get("size")) and min(pixels) < MIN_SIDE:
        raise UserError(f"--size {size}: expected {MIN_SIDE} pixels or more a side, e.g. 400x2048")
    return preparation.model_copy(update=changes)


def _save(path: Path, write: Callable[[BinaryIO], None]) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        write(stream)
