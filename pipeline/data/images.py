"""Reading panoramas and label maps from files, with every defect named; nothing else reads image files."""

from __future__ import annotations

import ctypes
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from pydantic import AfterValidator, Field

from pipeline.core.errors import ImageError
from pipeline.core.reading import open_file, shortened
from pipeline.core.settings import Settings
from pipeline.data.labels import LabelSpace

#: A larger image than this is refused before its pixels are decoded (a decompression bomb, or a mistake).
MAX_PIXELS = 16384 * 8192

#: Largest change of the side ratio by crop and resize together: beyond it, the rows are those of another resolution.
MAX_SQUEEZE = 1.25

#: EXIF's orientations that lay the image on its side.
SIDEWAYS = (5, 6, 7, 8)

#: Shortest side, in pixels, that still is a picture of the street.
MIN_SIDE = 16

#: What is decoded, whatever the name of the file says. Pillow's other formats are none of a camera's, and some of them
#: run other programs.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")


def _quiet_decoders() -> None:
    """What decoders say of a file, its `ImageError` says: nothing of theirs goes to the screen.

    Pillow warns by Python's warnings and logging; libtiff writes to stderr itself unless it is told not to, once a
    process. Nothing is redirected: other threads print what they have to.
    """
    warnings.filterwarnings("ignore", module=r"PIL(\..*)?$")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    with suppress(AttributeError, OSError):  # a Pillow without libtiff, or with one that is not told in this way
        decoders = ctypes.CDLL(Image.core.__file__)
        for handler in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            function = getattr(decoders, handler)
            function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
            function(None)


_quiet_decoders()


def _size(value: tuple[int, int]) -> tuple[int, int]:
    height, width = value
    if min(value) < MIN_SIDE or height * width > MAX_PIXELS:
        raise ValueError(f"expected {MIN_SIDE} pixels or more a side and at most {MAX_PIXELS:,}, e.g. [400, 2048]")
    return value


def _rows(value: tuple[int, int]) -> tuple[int, int]:
    first, last = value
    if not 0 <= first < last <= MAX_PIXELS:
        raise ValueError("holds no rows; expected the first, 0 or more, before the last, e.g. [312, 712]")
    return value


#: Height and width of a picture of the street, in pixels.
Size = Annotated[tuple[int, int], AfterValidator(_size)]

#: The first row, and the row after the last.
Rows = Annotated[tuple[int, int], AfterValidator(_rows)]


class ImagePreprocessing(Settings):
    """How an image of a data set becomes the working image; part of every key, since pixels depend on it."""

    crop_rows: Rows | None = Field(
        None, description="Keep rows first..last-1 of the file, e.g. [312, 712] for the 70-degree band."
    )
    size: Size | None = Field(
        None, description="Working resolution [height, width] after the crop; null keeps each image's own."
    )


def read_image(path: Path, preprocessing: ImagePreprocessing) -> np.ndarray:
    """The working image: RGB uint8 `(H, W, 3)`.

    Greyscale, palette, RGBA and CMYK files are converted to RGB (alpha is dropped); 16-bit greyscale is scaled to
    8 bits; an image that is stored rotated, as EXIF says, is turned upright. Raises `ImageError` with the reason
    if the file cannot be used.
    """
    with _decoded(path) as image:
        if image.mode.startswith("I") or image.mode == "F":
            if image.mode == "F":
                raise ImageError(f"{path}: holds floating point pixels (mode F), expected 8 or 16 bits")
            values = np.asarray(image).astype(np.float32)
            if values.max() > 65535 or values.min() < 0:
                raise ImageError(f"{path}: holds values from {values.min():g} to {values.max():g}, expected 0..65535")
            # Pillow opens 16-bit PNG and TIFF as I;16 or, for some files, as I: the range is that of 16 bits
            image = Image.fromarray(np.clip(values / 257 + 0.5, 0, 255).astype(np.uint8))
        rgb = _prepare(image.convert("RGB"), path, preprocessing, Image.Resampling.BILINEAR)
        return np.array(rgb)  # a writable copy: torch takes no other


def prepared_size(path: Path, preprocessing: ImagePreprocessing) -> tuple[int, int]:
    """`(H, W)` of the working image, from the file's header. Raises `ImageError` if it has none."""
    if preprocessing.size is not None:
        return preprocessing.size
    with _opened(path) as image:
        width, height = image.size
        if image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS:
            width, height = height, width
    first, last = preprocessing.crop_rows or (0, height)
    return min(last, height) - first, width


def read_labels(path: Path, preprocessing: ImagePreprocessing, space: LabelSpace) -> np.ndarray:
    """A label map in `space`: uint8 `(H, W)`, cropped and resized (nearest) like its image.

    Raises `ImageError` if the file is no single-channel image or a value is outside the space.
    """
    with _decoded(path) as image:
        if image.mode not in ("L", "P", "1", "I", "I;16"):
            raise ImageError(f"{path}: has mode {image.mode}, expected a label map with one channel")
        labels = np.asarray(_prepare(image, path, preprocessing, Image.Resampling.NEAREST))
    outside = (labels >= space.num_classes) & (labels != space.ignore_index)
    if outside.any():
        values = np.unique(labels[outside])[:5].tolist()
        raise ImageError(
            f"{path}: holds label value {values[0]}{' and others' if len(values) > 1 else ''}, expected "
            f"0..{space.num_classes - 1} or {space.ignore_index} ({space.name})"
        )
    return labels.astype(np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file as an image, its header read. Whatever a decoder raises within becomes an `ImageError`."""
    try:
        with open_file(path) as stream:
            if not stream.read(1):
                raise ImageError(f"{path}: is empty (0 bytes)")
            stream.seek(0)
            image = Image.open(stream, formats=FORMATS)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"{path}: is {width} x {height} pixels, expected at most {MAX_PIXELS:,} pixels")
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path}: is not an image that can be decoded") from None
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path}: is absurdly large, expected at most {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's decoders raise what they happen to raise on a damaged file
        reason = getattr(error, "strerror", None) or shortened(error) or type(error).__name__
        raise ImageError(f"{path}: cannot be decoded ({reason})") from None


@contextmanager
def _decoded(path: Path) -> Iterator[Image.Image]:
    """As `_opened`, with its pixels, upright."""
    with _opened(path) as image:
        image.load()
        yield ImageOps.exif_transpose(image)


def _prepare(
    image: Image.Image, path: Path, preprocessing: ImagePreprocessing, resampling: Image.Resampling
) -> Image.Image:
    width, height = image.size
    if preprocessing.crop_rows is not None:
        first, last = preprocessing.crop_rows
        if not 0 <= first < last <= height:
            raise ImageError(f"{path}: has {height} rows, expected at least {last} for crop_rows [{first}, {last}]")
        image = image.crop((0, first, width, last))
        if preprocessing.size is not None:
            found, expected = image.width / image.height, preprocessing.size[1] / preprocessing.size[0]
            if not 1 / MAX_SQUEEZE <= found / expected <= MAX_SQUEEZE:
                raise ImageError(
                    f"{path}: is {width} x {height}, rows {first} to {last - 1} are {image.width} x {image.height}, "
                    f"expected the shape of {preprocessing.size[1]} x {preprocessing.size[0]}; crop_rows "
                    "(--crop-rows of predict) counts rows of images of one resolution"
                )
    if preprocessing.size is not None and (image.height, image.width) != preprocessing.size:
        target_height, target_width = preprocessing.size
        image = image.resize((target_width, target_height), resampling)
    if min(image.size) < MIN_SIDE:
        raise ImageError(
            f"{path}: is {image.height} x {image.width} (H x W), expected {MIN_SIDE} pixels or more a side"
        )
    return image
