"""Image files: unusual ones are read, broken ones are named."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from pipeline.core.errors import ImageError
from pipeline.data.images import (
    ImagePreprocessing,
    ImageWarning,
    prepared_size,
    read_image,
    read_labels,
    vertical_angles,
)
from pipeline.data.labels import load_label_space
from tests.models import street

PLAIN = ImagePreprocessing()
SPACE = load_label_space("cityscapes19")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "CMYK", "LA"])
def test_every_usual_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(street()).convert(mode).save(path)
    image = read_image(path, PLAIN)
    assert (image.shape, image.dtype) == ((64, 256, 3), np.uint8)
    if mode in ("RGB", "RGBA"):
        np.testing.assert_array_equal(image, street())
    assert image.std() > 20


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    grey = street()[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", PLAIN)[..., 1], grey)


def test_crop_and_size(tmp_path: Path) -> None:
    Image.fromarray(street()).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.png", ImagePreprocessing(crop_rows=(16, 48))), street()[16:48]
    )
    assert read_image(tmp_path / "a.png", ImagePreprocessing(crop_rows=(16, 48), size=(20, 160))).shape == (20, 160, 3)
    with pytest.raises(ImageError, match=r"has 64 rows, expected at least 65 for crop_rows \[0, 65\]"):
        read_image(tmp_path / "a.png", ImagePreprocessing(crop_rows=(0, 65)))


def test_rows_of_another_resolution_are_refused(tmp_path: Path) -> None:
    band = ImagePreprocessing(crop_rows=(16, 48), size=(32, 256))
    Image.fromarray(street()).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", band), street()[16:48])
    Image.fromarray(street()).resize((512, 128)).save(tmp_path / "b.png")
    with pytest.raises(ImageError, match="is 512 x 128, rows 16 to 47 are 512 x 32, expected the shape of 256 x 32"):
        read_image(tmp_path / "b.png", band)


def test_transparent_pixels_are_reported_once_in_a_folder(tmp_path: Path) -> None:
    rgba = np.dstack([street(), np.full((64, 256), 255, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "opaque.png")
    rgba[3, 4, 3] = 0
    palette = Image.fromarray(street()).quantize()
    palette.info["transparency"] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_image(tmp_path / "opaque.png", PLAIN), street())
    for folder, image in (("rgba", Image.fromarray(rgba)), ("palette", palette)):
        (tmp_path / folder).mkdir()
        for name in ("a.png", "b.png"):
            image.save(tmp_path / folder / name)
        with pytest.warns(ImageWarning, match=rf"{folder}/a\.png: has transparent pixels"):
            read_image(tmp_path / folder / "a.png", PLAIN)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_image(tmp_path / folder / "b.png", PLAIN)
    np.testing.assert_array_equal(read_image(tmp_path / "rgba" / "a.png", PLAIN), street())


@pytest.mark.parametrize(
    ("preprocessing", "change"),
    [
        (ImagePreprocessing(size=(64, 287)), "12 % wider by the resize to 287 x 64"),
        (ImagePreprocessing(size=(64, 224)), "12 % narrower by the resize to 224 x 64"),
        (ImagePreprocessing(crop_rows=(0, 32), size=(32, 287)), "12 % wider"),
        (ImagePreprocessing(crop_rows=(0, 32), size=(64, 512)), None),
        (ImagePreprocessing(size=(62, 256)), None),
    ],
)
def test_a_changed_aspect_ratio_is_reported_for_images(
    tmp_path: Path, preprocessing: ImagePreprocessing, change: str | None
) -> None:
    Image.fromarray(street()).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((64, 256), np.uint8)).save(tmp_path / "labels.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_labels(tmp_path / "labels.png", preprocessing, SPACE)
        read_image(tmp_path / "a.png", preprocessing)
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == (change is not None)
    assert all(f"a.png: becomes {change}" in text for text in texts)


@pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_what_is_stored_rotated_is_turned_upright(tmp_path: Path, orientation: int, turned: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(street()).save(tmp_path / "a.png", exif=exif)
    upright = np.rot90(street(), turned)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", PLAIN), upright)
    assert prepared_size(tmp_path / "a.png", PLAIN) == upright.shape[:2]


def test_integers_beyond_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(street()[..., 0].astype(np.int32) * 70000).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"holds values from 0|holds values from \d+"):
        read_image(tmp_path / "a.tif", PLAIN)


def test_the_working_size_is_told_by_the_header(tmp_path: Path) -> None:
    Image.fromarray(street()).save(tmp_path / "a.png")
    for preprocessing in (
        PLAIN,
        ImagePreprocessing(crop_rows=(16, 48)),
        ImagePreprocessing(crop_rows=(16, 48), size=(20, 160)),
    ):
        expected = read_image(tmp_path / "a.png", preprocessing).shape[:2]
        assert prepared_size(tmp_path / "a.png", preprocessing) == expected
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"b\.png: is not an image"):
        prepared_size(tmp_path / "b.png", PLAIN)


def test_broken_files_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(street()).save(whole)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    empty, text = tmp_path / "empty.png", tmp_path / "text.png"
    empty.write_bytes(b"")
    text.write_text("not an image")
    Image.fromarray(street()[:4, :4]).save(tmp_path / "tiny.png")
    for name, message in [
        ("cut.jpg", "cannot be decoded"),
        ("empty.png", r"is empty \(0 bytes\)"),
        ("text.png", "is not an image"),
        ("none.png", "no such file"),
        ("tiny.png", "is 4 x 4"),
    ]:
        with pytest.raises(ImageError, match=message) as error:
            read_image(tmp_path / name, PLAIN)
        assert name in str(error.value)


def test_an_absurd_size_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.images.MAX_PIXELS", 100)
    Image.fromarray(street()).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="is 256 x 64 pixels, expected at most 100"):
        read_image(tmp_path / "a.png", PLAIN)


def test_labels_follow_their_image(tmp_path: Path) -> None:
    labels = (np.arange(64 * 256).reshape(64, 256) // 1000).astype(np.uint8)
    labels[0, 0] = 255
    Image.fromarray(labels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png", PLAIN, SPACE), labels)
    half = read_labels(tmp_path / "a.png", ImagePreprocessing(size=(32, 128)), SPACE)
    assert set(np.unique(half)) <= set(np.unique(labels))


def test_labels_outside_the_space_are_refused(tmp_path: Path) -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[3, 3] = 19
    Image.fromarray(labels).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"label value 19, expected 0..18 or 255 \(cityscapes19\)"):
        read_labels(tmp_path / "a.png", PLAIN, SPACE)
    Image.fromarray(street()).save(tmp_path / "b.png")
    with pytest.raises(ImageError, match="mode RGB, expected a label map"):
        read_labels(tmp_path / "b.png", PLAIN, SPACE)


@pytest.mark.parametrize("wrong", [(0, 0), (-64, 256), (100_000, 100_000), (8, 256), (2**62, 2**62)])
def test_sizes_that_no_picture_has_are_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="16 pixels or more a side and at most 134,217,728"):
        ImagePreprocessing(size=wrong)


@pytest.mark.parametrize("wrong", [(50, 10), (-5, 10), (7, 7), (0, 2**62)])
def test_rows_that_no_picture_has_are_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="holds no rows"):
        ImagePreprocessing(crop_rows=wrong)


@pytest.mark.parametrize("error", [struct.error("x"), KeyError("x"), RecursionError(), MemoryError()])
def test_whatever_a_decoder_raises_is_the_failure_of_its_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    Image.fromarray(street()).save(tmp_path / "a.png")
    monkeypatch.setattr("pipeline.data.images.ImageOps.exif_transpose", fail)
    for read in (read_image, lambda path, preprocessing: read_labels(path, preprocessing, SPACE)):
        with pytest.raises(ImageError, match=r"a\.png: cannot be decoded \(.+\)"):
            read(tmp_path / "a.png", PLAIN)


@pytest.mark.parametrize("kind", ["FIFO", "folder", "device", "loop"])
def test_only_ordinary_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.png"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    for read in (
        read_image,
        prepared_size,
        vertical_angles,
        lambda path, preprocessing: read_labels(path, preprocessing, SPACE),
    ):
        with pytest.raises(ImageError, match=r"x\.png: cannot be decoded \((is a|Too many)"):
            read(path, PLAIN)


def test_formats_that_run_other_programs_are_no_images(tmp_path: Path) -> None:
    Image.fromarray(street()).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png: is not an image that can be decoded"):
        read_image(tmp_path / "a.png", PLAIN)


@pytest.mark.parametrize(
    ("shape", "crop_rows", "expected"),
    [
        ((100, 200), None, (-90, 90)),  # a full sphere
        ((1024, 2048), (312, 712), (-35.15625, 35.15625)),  # the band of DensePASS
        ((100, 200), (0, 60), (-18, 90)),
        ((400, 2048), None, (-35.15625, 35.15625)),  # a file that is a band
        ((200, 200), None, (-90, 90)),  # more rows than a sphere of square pixels has
    ],
)
def test_vertical_angles(
    tmp_path: Path, shape: tuple[int, int], crop_rows: tuple[int, int] | None, expected: tuple[float, float]
) -> None:
    Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(tmp_path / "a.png")
    preprocessing = ImagePreprocessing(crop_rows=crop_rows, size=(32, 64))
    assert vertical_angles(tmp_path / "a.png", preprocessing) == pytest.approx(expected)
