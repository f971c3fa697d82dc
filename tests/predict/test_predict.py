"""Which images `predict` finds and under which names, and that one it cannot work on does not stop the others."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.progress import LogProgress
from pipeline.data.images import ImagePreprocessing
from pipeline.models.student import Student
from stages.predict.cli import command
from stages.predict.stage import find_images, override_preprocessing, predict
from tests.models import street
from tests.predict.helpers import untrained


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`walk/pano.png`, `walk/other.jpg`, `drive/pano.png`, and a file that is no image."""
    for name in ("walk/pano.png", "walk/other.jpg", "drive/pano.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(street(64, 128)).save(tmp_path / name)
    (tmp_path / "walk" / "notes.txt").write_text("no image")
    return tmp_path


def test_files_folders_and_globs(folder: Path) -> None:
    walk, drive = folder / "walk", folder / "drive"
    pano, other = walk / "pano.png", walk / "other.jpg"
    assert find_images([str(pano)]) == {"pano": pano}
    assert find_images([str(walk)]) == {"other": other, "pano": pano}
    assert find_images([str(folder)]) == {"drive/pano": drive / "pano.png", "walk/other": other, "walk/pano": pano}
    assert find_images([f"{walk}/*"]) == {"other": other, "pano": pano}
    assert find_images([f"{folder}/**/o*"]) == {"other": other}
    assert find_images([str(walk), str(pano), f"{drive}/../walk/*.png"]) == {"other": other, "pano": pano}
    for pattern in (str(walk / "absent.png"), f"{walk}/*.txt", str(folder / "*.png")):
        with pytest.raises(UserError, match="matches no image; expected a file, a folder or a glob"):
            find_images([pattern])


def test_results_of_an_earlier_run_are_no_images(folder: Path) -> None:
    before = find_images([str(folder)], folder)
    for name in ("labels", "overlays"):
        (folder / name).mkdir()
        Image.new("L", (32, 32)).save(folder / name / "a.png")
    assert find_images([str(folder)], folder) == before


def test_two_images_of_one_folder_and_name_are_refused(folder: Path) -> None:
    Image.fromarray(street(64, 128)).save(folder / "walk" / "pano.jpg")
    for patterns in ([str(folder)], [f"{folder}/walk/*"], [f"{folder}/walk/pano.{end}" for end in ("jpg", "png")]):
        with pytest.raises(UserError, match=r"pano\.jpg and .*pano\.png would both write .*pano\.png; rename one"):
            find_images(patterns)


def test_two_images_of_one_name_in_two_folders_are_refused(folder: Path) -> None:
    walk, drive = folder / "walk", folder / "drive"
    message = r"drive/pano\.png and .*walk/pano\.png would both write pano\.png; give the folder above both"
    for patterns in ([f"{folder}/*/pano.png"], [str(drive), str(walk)], [str(drive / "pano.png"), str(walk)]):
        with pytest.raises(UserError, match=message):
            find_images(patterns)


def test_crop_and_size_of_the_training_are_overridden() -> None:
    trained = ImagePreprocessing(crop_rows=(312, 712), size=(400, 2048))
    assert override_preprocessing(trained, None, None) == trained
    assert override_preprocessing(trained, "none", None) == ImagePreprocessing(size=(400, 2048))
    assert override_preprocessing(trained, "0:64", "none") == ImagePreprocessing(crop_rows=(0, 64))
    assert override_preprocessing(trained, None, "200x1024").size == (200, 1024)
    for rows in ("712:312", "8:8"):
        with pytest.raises(UserError, match=f"--crop-rows {rows}: holds no rows"):
            override_preprocessing(trained, rows, None)
    for size in ("0x0", "0x512", "200x8"):
        with pytest.raises(UserError, match=f"--size {size}: expected 16 pixels or more a side"):
            override_preprocessing(trained, None, size)
    for size in ("-200x512", "200x-512", "200", "axb"):
        with pytest.raises(UserError, match=f"--size {size}: expected HEIGHTxWIDTH"):
            override_preprocessing(trained, None, size)
    with pytest.raises(UserError, match="--crop-rows -1:8: expected first:last"):
        override_preprocessing(trained, "-1:8", None)


def test_an_image_that_cannot_be_predicted_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cyclic network cannot wrap 16 columns as far as its dilation wants, and one file is no image."""
    student = untrained(tmp_path / "student.pth", cyclic=True)
    images, out = tmp_path / "images", tmp_path / "out"
    (images / "deep").mkdir(parents=True)
    (images / "broken.png").write_text("no image")
    Image.fromarray(street(16, 16)).save(images / "narrow.png")
    Image.fromarray(street(64, 128)).save(images / "deep" / "wide.png")
    done, failures = predict(find_images([str(images)]), student, out, device="cpu", probabilities=True)
    assert done == ["deep/wide"]
    assert sorted(failures) == ["broken", "narrow"]
    assert failures["narrow"].startswith("the student cannot run on an image of 16 x 16 (")
    assert "\n" not in failures["narrow"]
    assert "not an image" in failures["broken"]
    labels = np.asarray(Image.open(out / "labels" / "deep" / "wide.png"))
    probabilities = np.load(out / "probabilities" / "deep" / "wide.npy")
    assert (labels.dtype, labels.shape) == (np.uint8, (64, 128))
    assert (probabilities.dtype, probabilities.shape) == (np.float16, (19, 64, 128))
    assert Image.open(out / "overlays" / "deep" / "wide.png").width == 128
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert written == ["labels/deep/wide.png", "overlays/deep/wide.png", "probabilities/deep/wide.npy"]
    result = command([str(images)], student, tmp_path / "again", device="cpu")
    assert (result.failed, result.failed_status) == (True, 3)
    assert "1 panoramas: labels in" in capsys.readouterr().out


def test_a_system_that_refuses_is_told_in_one_sentence(folder: Path) -> None:
    """A file-size limit, in place of a full disk, through the command line."""
    student = untrained(folder.parent / "student.pth")
    command = [sys.executable, "-m", "pipeline", "predict", str(folder), "--student", str(student), "--out"]
    (folder.parent / "file").write_text("")
    for out, limit, message in (
        (folder.parent / "file", "unlimited", r"--out .*file: cannot be written \(File exists\)"),
        (folder.parent / "out", "0", r"File too large; finished work is kept"),
    ):
        script = f'ulimit -f {limit}; exec "$@"'
        ended = subprocess.run(["bash", "-c", script, "_", *command, str(out)], capture_output=True, text=True)
        assert ended.returncode == 2, ended.stderr
        assert re.search(message, ended.stderr), ended.stderr
        assert "Traceback" not in ended.stderr


def test_odd_files_neither_hang_nor_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, images = untrained(tmp_path / "student.pth"), tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "b.jpg", os.fsdecode(b"c\xff.png")):
        Image.fromarray(street(64, 128)).save(images / name)
    os.mkfifo(images / "fifo.png")
    (images / "loop.png").symlink_to("loop.png")
    (images / "lost.png").symlink_to("nowhere.png")
    found = find_images([str(images)])
    assert sorted(found) == ["a", "b", os.fsdecode(b"c\xff")]
    read = Student.read_image

    def read_damaged(student: Student, path: Path) -> np.ndarray:
        with monkeypatch.context() as patch:
            if path.name != "a.png":
                patch.setattr("pipeline.data.images.ImageOps.exif_transpose", lambda _: struct.unpack("<L", b""))
            return read(student, path)

    monkeypatch.setattr(Student, "read_image", read_damaged)
    done, failures = predict(found, student, tmp_path / "out", device="cpu", progress=LogProgress())
    assert done == ["a"]
    assert all("cannot be decoded (unpack requires" in reason for reason in failures.values())


@pytest.mark.parametrize("pattern", ["x" * 5000, "x" * 300 + ".png", "~nobody/x", "[", "**x", "loop.png"])
def test_patterns_that_match_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(UserError, match=r"^predict: .*(matches no image|cannot be searched)") as error:
        find_images([pattern])
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("size", ["100000x100000", "9" * 5000 + "x1"], ids=range(2))
def test_absurd_sizes_are_refused(size: str) -> None:
    with pytest.raises(UserError, match=r"--size .*: expected"):
        override_preprocessing(ImagePreprocessing(), None, size)


def test_globs_end_where_links_lead_in_circles(folder: Path) -> None:
    for name in ("one", "two", "three"):
        (folder / "walk" / name).symlink_to(folder)
    (folder / "drive" / ".hidden.png").write_bytes(b"")
    pano, other = folder / "drive" / "pano.png", folder / "walk" / "other.jpg"
    assert find_images([f"{folder}/**/drive/*"]) == {"pano": pano}
    assert find_images([f"{folder}/drive/**"]) == {"pano": pano}
    assert find_images([f"{folder}/drive/.h*"]) == {".hidden": folder / "drive" / ".hidden.png"}
    assert find_images([f"{folder}/**/o*.jpg"]) == {"other": other}
