"""Reads panoramas and label maps from files and names every defect; nothing else reads image files."""

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

from pipeline.core.errors import ImageError, PipelineWarning
from pipeline.core.reading import error_text, open_file
from pipeline.core.settings import Settings
from pipeline.data.labels import LabelSpace

MAX_PIXELS = 16384 * 8192  # of an image; a larger one (a decompression bomb, or a mistake) is not decoded
MIN_SIDE = 16  # pixels of the shortest side of a usable image
MAX_ASPECT_CHANGE = 1.25  # by crop and resize together; beyond it, `crop_rows` is for another resolution
NOTED_ASPECT_CHANGE = 1.05  # from here on there is a warning
ROTATED_ORIENTATIONS = (5, 6, 7, 8)  # in EXIF: width and height are exchanged

#: Formats that are decoded, whatever the name of the file. Cameras write none of Pillow's other formats, and some of
#: those run other programs.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")


class ImageWarning(PipelineWarning):
    """An image is used, but its pixels may not be what the user expects."""


_warned: set[tuple[str, Path]] = set()


def _warn_once_per_folder(path: Path, kind: str, text: str) -> None:
    if (kind, path.parent) not in _warned:
        _warned.add((kind, path.parent))
        warnings.warn(f"{path}: {text} (reported once for each folder)", ImageWarning, stacklevel=2)


def _silence_decoders() -> None:
    """Stops decoders from printing; `ImageError` reports what is wrong with a file.

    Pillow uses Python's warnings and logging. libtiff writes to stderr unless the handlers of the process are removed.
    No stream is redirected, because other threads print too.
    """
    warnings.filterwarnings("ignore", module=r"PIL(\..*)?$")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    with suppress(AttributeError, OSError):  # a Pillow without libtiff, or with libtiff in another place
        decoders = ctypes.CDLL(Image.core.__file__)
        for handler in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            function = getattr(decoders, handler)
            function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
            function(None)


_silence_decoders()


def _size(value: tuple[int, int]) -> tuple[int, int]:
    height, width = value
    if min(value) < MIN_SIDE or height * width > MAX_PIXELS:
        raise ValueError(f"expected {MIN_SIDE} pixels or more a side and at most {MAX_PIXELS:,}, e.g. [400, 2048]")
    return value


def _rows(value: tuple[int, int]) -> tuple[int, int]:
    first, last = value
    if not 0 <= first < last <= MAX_PIXELS:
        raise ValueError("holds no rows; expected [first, last] with 0 <= first < last, e.g. [312, 712]")
    return value


#: Height and width of an image, in pixels.
Size = Annotated[tuple[int, int], AfterValidator(_size)]

#: The first row and the row after the last.
Rows = Annotated[tuple[int, int], AfterValidator(_rows)]


class ImagePreprocessing(Settings):
    """How an image file becomes the working image; part of every key."""

    crop_rows: Rows | None = Field(
        None, description="Keep rows first..last-1 of the file, e.g. [312, 712] for the 70-degree band; null: all."
    )
    size: Size | None = Field(
        None, description="Working resolution [height, width] after the crop; null: that of each image."
    )


def read_image(path: Path, preprocessing: ImagePreprocessing) -> np.ndarray:
    """Reads an image file as the working image, RGB uint8 `(H, W, 3)`.

    Other modes become RGB without alpha, 16-bit greyscale is scaled to 8 bits, and an image that EXIF marks as rotated
    is turned upright. An `ImageWarning` reports transparent pixels and a changed aspect ratio, once in each folder.
    Raises `ImageError` if the file cannot be used.
    """
    with _decoded(path) as image:
        if image.mode == "F":
            raise ImageError(f"{path}: holds floating point pixels (mode F), expected 8 or 16 bits")
        if image.mode.startswith("I"):
            values = np.asarray(image).astype(np.float32)
            if values.max() > 65535 or values.min() < 0:
                raise ImageError(f"{path}: holds values from {values.min():g} to {values.max():g}, expected 0..65535")
            # Pillow opens 16-bit PNG and TIFF as I;16 or, for some files, as I; both have the range of 16 bits
            image = Image.fromarray(np.clip(values / 257 + 0.5, 0, 255).astype(np.uint8))
        transparent = image.getbands()[-1] in "Aa" or "transparency" in image.info
        if transparent and np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
            _warn_once_per_folder(path, "alpha", "has transparent pixels, which are used as if they were opaque")
        return np.array(_prepare(image.convert("RGB"), path, preprocessing))  # a writable copy, as torch needs


def prepared_size(path: Path, preprocessing: ImagePreprocessing) -> tuple[int, int]:
    """Returns `(H, W)` of the working image from the file's header. Raises `ImageError` if there is no valid one."""
    if preprocessing.size is not None:
        return preprocessing.size
    width, height = _upright_size(path)
    first, last = preprocessing.crop_rows or (0, height)
    return min(last, height) - first, width


def vertical_angles(path: Path, preprocessing: ImagePreprocessing) -> tuple[float, float]:
    """Returns the elevations of the lower and the upper edge of a panorama's working image, degrees in -90..90.

    The file shows 360 degrees with equal resolution in both directions, and its middle row is the horizon. A file with
    more rows than half its columns shows 180 degrees vertically. Raises `ImageError` if there is no valid header.
    """
    width, height = _upright_size(path)
    first, last = preprocessing.crop_rows or (0, height)
    degrees = min(360 / width, 180 / height)
    return (height / 2 - min(last, height)) * degrees, (height / 2 - first) * degrees


def _upright_size(path: Path) -> tuple[int, int]:
    """Returns width and height of the upright image in a file, from its header."""
    with _opened(path) as image:
        width, height = image.size
        rotated = image.getexif().get(ExifTags.Base.Orientation) in ROTATED_ORIENTATIONS
    return (height, width) if rotated else (width, height)


def read_labels(path: Path, preprocessing: ImagePreprocessing, space: LabelSpace) -> np.ndarray:
    """Reads a label map, cropped and resized (nearest) like its image: uint8 `(H, W)`.

    The values are class ids of `space` or its ignore index; of a palette image the indices. Raises `ImageError` if the
    file is no single-channel image, or a value is outside the space.
    """
    with _decoded(path) as image:
        if image.mode not in ("L", "P", "1", "I", "I;16"):
            raise ImageError(f"{path}: has mode {image.mode}, expected a label map with one channel")
        labels = np.asarray(_prepare(image, path, preprocessing, labels=True))
    outside = (labels >= space.num_classes) & (labels != space.ignore_index)
    if outside.any():
        values = np.unique(labels[outside])[:5].tolist()
        others = " and others" if len(values) > 1 else ""
        valid = f"0..{space.num_classes - 1} or {space.ignore_index} ({space.name})"
        raise ImageError(f"{path}: holds label value {values[0]}{others}, expected {valid}")
    return labels.astype(np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Yields the image with its header read; exceptions of decoders become `ImageError`."""
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
    except Exception as error:  # on a damaged file, decoders raise all kinds of exceptions
        reason = getattr(error, "strerror", None) or error_text(error)
        raise ImageError(f"{path}: cannot be decoded ({reason})") from None


@contextmanager
def _decoded(path: Path) -> Iterator[Image.Image]:
    """Yields the image with its pixels, upright."""
    with _opened(path) as image:
        image.load()
        yield ImageOps.exif_transpose(image)


def _prepare(image: Image.Image, path: Path, preprocessing: ImagePreprocessing, *, labels: bool = False) -> Image.Image:
    width, height = image.size
    first, last = preprocessing.crop_rows or (0, height)
    if last > height:
        raise ImageError(f"{path}: has {height} rows, expected at least {last} for crop_rows [{first}, {last}]")
    if preprocessing.crop_rows is not None:
        image = image.crop((0, first, width, last))
    if preprocessing.size is not None and (image.height, image.width) != preprocessing.size:
        target_height, target_width = preprocessing.size
        change = target_width * image.height / (target_height * image.width)
        if preprocessing.crop_rows is not None and not 1 / MAX_ASPECT_CHANGE <= change <= MAX_ASPECT_CHANGE:
            rows = f"rows {first} to {last - 1} are {image.width} x {image.height}"
            raise ImageError(
                f"{path}: is {width} x {height}, {rows}, expected the shape of {target_width} x {target_height}; "
                "crop_rows (--crop-rows of predict) counts rows of images of one resolution"
            )
        if not labels and not 1 / NOTED_ASPECT_CHANGE <= change <= NOTED_ASPECT_CHANGE:
            wider = f"{100 * abs(change - 1):.0f} % {'wider' if change > 1 else 'narrower'}"
            _warn_once_per_folder(path, "aspect", f"becomes {wider} by the resize to {target_width} x {target_height}")
        resampling = Image.Resampling.NEAREST if labels else Image.Resampling.BILINEAR
        image = image.resize((target_width, target_height), resampling)
    if min(image.size) < MIN_SIDE:
        size = f"{image.height} x {image.width} (H x W)"
        raise ImageError(f"{path}: is {size}, expected {MIN_SIDE} pixels or more a side")
    return image
