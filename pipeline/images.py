"""Reading panoramas and label maps from files, with every defect named; nothing else reads image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from pipeline.errors import ImageError
from pipeline.labels import LabelSpace
from pipeline.settings import Settings

#: A larger image than this is refused before its pixels are decoded (a decompression bomb, or a mistake).
MAX_PIXELS = 16384 * 8192

#: Largest change of the side ratio by crop and resize together: beyond it, the rows are those of another resolution.
MAX_SQUEEZE = 1.25

#: EXIF's orientations that lay the image on its side.
SIDEWAYS = (5, 6, 7, 8)

#: Shortest side, in pixels, that still is a picture of the street.
MIN_SIDE = 16


class Preparation(Settings):
    """How an image of a data set becomes the working image; part of every key, since pixels depend on it."""

    crop_rows: tuple[int, int] | None = Field(
        None, description="Keep rows first..last-1 of the file, e.g. [312, 712] for the 70-degree band."
    )
    size: tuple[int, int] | None = Field(
        None, description="Working resolution [height, width] after the crop; null keeps each image's own."
    )


def read_image(path: Path, preparation: Preparation) -> np.ndarray:
    """The working image: RGB uint8 ``(H, W, 3)``.

    Greyscale, palette, RGBA and CMYK files are converted to RGB (alpha is dropped); 16-bit greyscale is scaled to
    8 bits; an image that is stored rotated, as EXIF says, is turned upright. Raises :class:`ImageError` with the reason
    if the file cannot be used.
    """
    with _open(path) as image:
        if image.mode.startswith("I") or image.mode == "F":
            if image.mode == "F":
                raise ImageError(f"{path}: holds floating point pixels (mode F), expected 8 or 16 bits")
            values = np.asarray(image).astype(np.float32)
            if values.max() > 65535 or values.min() < 0:
                raise ImageError(f"{path}: holds values from {values.min():g} to {values.max():g}, expected 0..65535")
            # Pillow opens 16-bit PNG and TIFF as I;16 or, for some files, as I: the range is that of 16 bits
            image = Image.fromarray(np.clip(values / 257 + 0.5, 0, 255).astype(np.uint8))
        rgb = image.convert("RGB")
    rgb = _prepare(rgb, path, preparation, Image.Resampling.BILINEAR)
    return np.array(rgb)  # a writable copy: torch takes no other


def prepared_size(path: Path, preparation: Preparation) -> tuple[int, int]:
    """``(H, W)`` of the working image, from the file's header. Raises :class:`ImageError` if it has none."""
    if preparation.size is not None:
        return preparation.size
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS:
                width, height = height, width
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: cannot be decoded ({error})") from None
    first, last = preparation.crop_rows or (0, height)
    return min(last, height) - first, width


def read_labels(path: Path, preparation: Preparation, space: LabelSpace) -> np.ndarray:
    """A label map in ``space``: uint8 ``(H, W)``, cropped and resized (nearest) like its image.

    Raises :class:`ImageError` if the file is no single-channel image or a value is outside the space.
    """
    with _open(path) as image:
        if image.mode not in ("L", "P", "1", "I", "I;16"):
            raise ImageError(f"{path}: has mode {image.mode}, expected a label map with one channel")
        prepared = _prepare(image, path, preparation, Image.Resampling.NEAREST)
        labels = np.asarray(prepared)
    outside = (labels >= space.num_classes) & (labels != space.ignore_index)
    if outside.any():
        values = np.unique(labels[outside])[:5].tolist()
        raise ImageError(
            f"{path}: holds label value {values[0]}{' and others' if len(values) > 1 else ''}, expected "
            f"0..{space.num_classes - 1} or {space.ignore_index} ({space.name})"
        )
    return labels.astype(np.uint8)


def _open(path: Path) -> Image.Image:
    try:
        image: Image.Image = Image.open(path)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(f"{path}: is {width} x {height} pixels, expected at most {MAX_PIXELS:,} pixels")
        image.load()
        image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        size = path.stat().st_size
        reason = "is empty (0 bytes)" if size == 0 else "is not an image that can be decoded"
        raise ImageError(f"{path}: {reason}") from None
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path}: is absurdly large, expected at most {MAX_PIXELS:,} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"{path}: cannot be decoded ({error})") from None
    return image


def _prepare(image: Image.Image, path: Path, preparation: Preparation, resampling: Image.Resampling) -> Image.Image:
    width, height = image.size
    if preparation.crop_rows is not None:
        first, last = preparation.crop_rows
        if not 0 <= first < last <= height:
            raise ImageError(f"{path}: has {height} rows, expected at least {last} for crop_rows [{first}, {last}]")
        image = image.crop((0, first, width, last))
        if preparation.size is not None:
            found, expected = image.width / image.height, preparation.size[1] / preparation.size[0]
            if not 1 / MAX_SQUEEZE <= found / expected <= MAX_SQUEEZE:
                raise ImageError(
                    f"{path}: is {width} x {height}, rows {first} to {last - 1} are {image.width} x {image.height}, "
                    f"expected the shape of {preparation.size[1]} x {preparation.size[0]}; crop_rows (--crop-rows of "
                    "predict) counts rows of images of one resolution"
                )
    if preparation.size is not None and (image.height, image.width) != preparation.size:
        target_height, target_width = preparation.size
        image = image.resize((target_width, target_height), resampling)
    if min(image.size) < MIN_SIDE:
        raise ImageError(
            f"{path}: is {image.height} x {image.width} (H x W), expected {MIN_SIDE} pixels or more a side"
        )
    return image
